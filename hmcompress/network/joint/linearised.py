"""Small networks in single precision, and products with their Jacobians, which are never written out."""

import copy
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from hmcompress.network.joint.small import Data, Layer, SmallNetwork, mixed
from hmcompress.network.joint.small_web import SmallWeb
from hmcompress.network.joint.stack import SmallStack, apply
from hmcompress.network.joint.stacks import SmallStacks
from hmcompress.network.model.network import DenseLayer, in_precision, replaced

Weights = list[Tensor]  # a matrix (m, n) or (m, n + 1) for each layer


@dataclass(frozen=True)
class Linearised:
    """A small network at some weights, whatever becomes of it; J v is the derivative, by u, of what u sends back."""

    inputs: list[Tensor]  # (N, n) of each layer, with a column of ones where there is a bias
    outputs: Tensor  # (N, k), scaled
    scaled: Tensor  # the same, with what they were made of
    weights: list[Tensor]  # that they were made of
    leaving: list[list[Tensor]]  # of each layer, each time that it is called
    u: Tensor
    sent_back: Weights  # by u

    @classmethod
    def of(cls, y: Tensor, weights: list[Tensor], inputs: list[Tensor], leaving: list[list[Tensor]]) -> Self:
        """y: scaled outputs that were made of the weights."""
        with torch.enable_grad():
            u = torch.zeros_like(y).requires_grad_()
            sent = torch.autograd.grad(y, weights, u, create_graph=True, materialize_grads=True)
        return cls(inputs, y.detach(), y, weights, leaving, u, list(sent))

    def forward(self, v: Weights) -> Tensor:
        """J v, (N, k)."""
        pairs = [(g, dw) for g, dw in zip(self.sent_back, v, strict=True) if g.requires_grad]
        return torch.autograd.grad([g for g, _ in pairs], self.u, [dw for _, dw in pairs], retain_graph=True)[0]

    def backward(self, u: Tensor) -> Weights:
        """J^T u."""
        return self._back(u, self.weights)

    def sensitivities(self, u: Tensor) -> list[Tensor]:
        """What u sends back to what leaves each layer, (N, m)."""
        sent = iter(self._back(u, [z for zs in self.leaving for z in zs]))
        return [torch.cat([rows_of(next(sent)) for _ in zs]) for zs in self.leaving]

    def _back(self, u: Tensor, to: list[Tensor]) -> list[Tensor]:
        return list(torch.autograd.grad(self.scaled, to, u, retain_graph=True, materialize_grads=True))


def rows_of(t: Tensor) -> Tensor:
    """(N, ..., n) as (N ..., n)."""
    return t.reshape(-1, t.shape[-1])


@dataclass(frozen=True)
class Single:
    """A small network in single precision on some data."""

    layers: Sequence[Layer]
    wanted: Tensor  # (N, k), what its outputs should be
    outputs: Callable[[], Tensor]  # (N, k), scaled
    linearised: Callable[[], Linearised]


def in_single(network: SmallNetwork, data: Data) -> Single:
    """A copy of stacks, or of a web. Raises NetworkError where its module cannot be copied."""
    small = network.clone()
    for layer in small.layers:
        layer.matrix = layer.matrix.float()
        layer.offset = None if layer.offset is None else layer.offset.float()
    if isinstance(small, SmallWeb):
        return _single_web(small, data)
    assert isinstance(small, SmallStacks)
    return _single_stacks(small, data)


def _single_stacks(small: SmallStacks, data: Data) -> Single:
    stacks = [SmallStack(stack.layers, [copy.deepcopy(f).float() for f in stack.functions]) for stack in small.stacks]
    small, inputs = replace(small, stacks=stacks), [x.float() for x in data.inputs]
    mix = (small.scale if data.mix is None else data.mix).float()
    wanted = data.outputs if data.rest is None else data.outputs - data.rest

    def outputs() -> Tensor:
        values = [stack.forward(x)[1] for stack, x in zip(small.stacks, inputs, strict=True)]
        return _read(mix, small.together(values))

    return Single(small.layers, wanted.float(), outputs, lambda: stacks_at(small, inputs, mix))


def _single_web(small: SmallWeb, data: Data) -> Single:
    web = replace(small.web, network=in_precision(small.web.network, torch.float32))
    small = replace(small, web=web, scale=small.scale.float())
    inputs = tuple(x.float() if x.is_floating_point() else x for x in data.inputs)
    data = replace(data, inputs=inputs, outputs=data.outputs.float())
    return Single(small.layers, data.outputs, lambda: small.outputs(data), lambda: web_at(small, data))


def stacks_at(small: SmallStacks, xs: Sequence[Tensor], mix: Tensor) -> Linearised:
    """Stacks at their weights; mix (k,), or (N, k, m): applied to what they give."""
    small, inputs, leaving, values = small.clone(), list[Tensor](), list[list[Tensor]](), list[Tensor]()
    weights = [layer.matrix.requires_grad_() for layer in small.layers]
    with torch.enable_grad():
        for stack, x in zip(small.stacks, xs, strict=True):
            for k, layer in enumerate(stack.layers):
                inputs.append(layer.extended(x.detach()))
                z = layer.forward(x)
                leaving.append([z])
                x = apply(stack.functions[k], z) if k < len(stack.functions) else z
            values.append(x)
        return Linearised.of(_read(mix, small.together(values)), weights, inputs, leaving)


def _read(mix: Tensor, own: Tensor) -> Tensor:
    """The network's outputs from the stacks'."""
    return own * mix if mix.ndim == 1 else mixed(mix, own)


def web_at(small: SmallWeb, data: Data) -> Linearised:
    """A web at its weights."""
    entering, leaving = defaultdict[str, list[Tensor]](list), defaultdict[str, list[Tensor]](list)

    def note(layer: DenseLayer, x: Tensor, z: Tensor) -> Tensor:
        entering[layer.weight].append(rows_of(x.detach()))
        leaving[layer.weight].append(z)
        return z.clone()  # some functions work in place

    small = small.clone()
    names, weights = [layer.layer.weight for layer in small.layers], [x.matrix.requires_grad_() for x in small.layers]
    with torch.enable_grad(), replaced(small.web.network, note):
        y = small.web.call(data.inputs, small.tensors()) * small.scale
    inputs = [layer.extended(torch.cat(entering[name])) for layer, name in zip(small.layers, names, strict=True)]
    return Linearised.of(y, weights, inputs, [leaving[name] for name in names])
