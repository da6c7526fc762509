"""Small networks in single precision, and products with their Jacobians, which are never written out."""

import copy
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from hmcompress.network.joint.small import Data, Layer, SmallNetwork, mixed
from hmcompress.network.joint.small_web import SmallWeb
from hmcompress.network.joint.stack import SmallStack, with_slope
from hmcompress.network.joint.stacks import SmallStacks
from hmcompress.network.model.network import DenseLayer, in_precision, replaced

Weights = list[Tensor]  # a matrix (m, n) or (m, n + 1) for each layer


class Linearised(Protocol):
    """A small network at some weights, whatever becomes of it."""

    inputs: list[Tensor]  # (N, n) of each layer, with a column of ones where there is a bias
    outputs: Tensor  # (N, k), scaled

    def forward(self, v: Weights) -> Tensor:
        """J v, (N, k)."""

    def backward(self, u: Tensor) -> Weights:
        """J^T u."""

    def sensitivities(self, u: Tensor) -> list[Tensor]:
        """What u sends back to what leaves each layer, (N, m); where layers do more than that, about."""


class Single(ABC):
    """A small network in single precision on some data."""

    wanted: Tensor  # (N, k), what its outputs should be

    @property
    @abstractmethod
    def layers(self) -> Sequence[Layer]: ...

    @abstractmethod
    def outputs(self) -> Tensor:
        """(N, k), scaled."""

    @abstractmethod
    def linearised(self) -> Linearised: ...


def in_single(network: SmallNetwork, data: Data) -> Single:
    """A copy of one stack, or of a web. Raises NetworkError where its module cannot be copied."""
    if isinstance(network, SmallWeb):
        return SingleWeb.of(network, data)
    assert isinstance(network, SmallStacks)
    return SingleStack.of(network, data)


@dataclass
class SingleStack(Single):
    stack: SmallStack
    x: Tensor
    mix: Tensor  # (k,), or (N, k, m) applied to what the stack gives
    wanted: Tensor

    @classmethod
    def of(cls, network: SmallStacks, data: Data) -> "SingleStack":
        (stack,) = network.clone().stacks
        _to_single(stack.layers)
        own = SmallStack(stack.layers, [copy.deepcopy(f).float() for f in stack.functions])
        mix = (network.scale if data.mix is None else data.mix).float()
        wanted = data.outputs if data.rest is None else data.outputs - data.rest
        return cls(own, data.inputs[0].float(), mix, wanted.float())

    @property
    def layers(self) -> Sequence[Layer]:
        return self.stack.layers

    def outputs(self) -> Tensor:
        return _read(self.mix, self.stack.forward(self.x)[1])

    def linearised(self) -> "StackAt":
        return StackAt.at(self.stack, self.x, self.mix)


@dataclass(frozen=True)
class StackAt(Linearised):
    weights: list[Tensor]  # without biases
    inputs: list[Tensor]
    slopes: list[Tensor | None]
    outputs: Tensor
    mix: Tensor

    @classmethod
    def at(cls, stack: SmallStack, x: Tensor, mix: Tensor) -> "StackAt":
        inputs, slopes = [], list[Tensor | None]()
        for k, layer in enumerate(stack.layers):
            inputs.append(layer.extended(x))
            x = layer.forward(x)
            function = stack.functions[k] if k < len(stack.functions) else None
            x, after = (x, None) if function is None else with_slope(function, x)
            slopes.append(after)
        return cls([layer.weight().clone() for layer in stack.layers], inputs, slopes, _read(mix, x), mix)

    def forward(self, v: Weights) -> Tensor:
        moved: Tensor | None = None
        for w, x, after, dw in zip(self.weights, self.inputs, self.slopes, v, strict=True):
            moved = x @ dw.T if moved is None else x @ dw.T + moved @ w.T
            moved = moved if after is None else moved * after
        assert moved is not None
        return _read(self.mix, moved)

    def backward(self, u: Tensor) -> Weights:
        return [g.T @ x for g, x in zip(self.sensitivities(u), self.inputs, strict=True)]

    def sensitivities(self, u: Tensor) -> list[Tensor]:
        found, g = [], u * self.mix if self.mix.ndim == 1 else mixed(self.mix.mT, u)
        for after, w in zip(reversed(self.slopes), reversed(self.weights), strict=True):
            g = g if after is None else g * after
            found.append(g)
            g = g @ w
        return found[::-1]


@dataclass
class SingleWeb(Single):
    small: SmallWeb
    data: Data
    wanted: Tensor

    @classmethod
    def of(cls, network: SmallWeb, data: Data) -> "SingleWeb":
        small = network.clone()
        _to_single(small.all_layers)
        web = replace(network.web, network=in_precision(network.web.network, torch.float32))
        small = replace(small, web=web, scale=network.scale.float())
        inputs = tuple(x.float() if x.is_floating_point() else x for x in data.inputs)
        wanted = data.outputs.float()
        return cls(small, replace(data, inputs=inputs, outputs=wanted), wanted)

    @property
    def layers(self) -> Sequence[Layer]:
        return self.small.layers

    def outputs(self) -> Tensor:
        return self.small.outputs(self.data)

    def linearised(self) -> "WebAt":
        return WebAt.at(self.small, self.data)


@dataclass(frozen=True)
class WebAt(Linearised):
    """As torch knows it: `forward` is the derivative, by u, of what u sends back."""

    inputs: list[Tensor]
    outputs: Tensor
    scaled: Tensor  # the outputs, with what they were made of
    weights: list[Tensor]  # that they were made of
    leaving: list[list[Tensor]]  # of each layer, each time that it is called
    u: Tensor
    sent_back: Weights  # by u

    @classmethod
    def at(cls, small: SmallWeb, data: Data) -> "WebAt":
        entering, leaving = defaultdict[str, list[Tensor]](list), defaultdict[str, list[Tensor]](list)

        def note(layer: DenseLayer, x: Tensor, z: Tensor) -> Tensor:
            entering[layer.weight].append(_rows(x.detach()))
            leaving[layer.weight].append(z)
            return z.clone()  # some functions work in place

        small, names = small.clone(), [layer.layer.weight for layer in small.layers]
        for layer in small.layers:
            layer.matrix.requires_grad_()
        weights = [layer.matrix for layer in small.layers]
        with torch.enable_grad(), replaced(small.web.network, note):
            y = small.web.network.call(data.inputs, small.tensors()) * small.scale
            u = torch.zeros_like(y).requires_grad_()
            sent = torch.autograd.grad(y, weights, u, create_graph=True, materialize_grads=True)
        inputs = [layer.extended(torch.cat(entering[name])) for layer, name in zip(small.layers, names, strict=True)]
        return cls(inputs, y.detach(), y, weights, [leaving[name] for name in names], u, list(sent))

    def forward(self, v: Weights) -> Tensor:
        with torch.enable_grad():
            along = torch.stack([(g * dw).sum() for g, dw in zip(self.sent_back, v, strict=True)]).sum()
        return torch.autograd.grad(along, self.u, retain_graph=True)[0]

    def backward(self, u: Tensor) -> Weights:
        return self._back(u, self.weights)

    def sensitivities(self, u: Tensor) -> list[Tensor]:
        sent = iter(self._back(u, [z for zs in self.leaving for z in zs]))
        return [torch.cat([_rows(next(sent)) for _ in zs]) for zs in self.leaving]

    def _back(self, u: Tensor, to: list[Tensor]) -> list[Tensor]:
        return list(torch.autograd.grad(self.scaled, to, u, retain_graph=True, materialize_grads=True))


def _rows(t: Tensor) -> Tensor:
    """(N, ..., n) as (N ..., n)."""
    return t.reshape(-1, t.shape[-1])


def _to_single(layers: Sequence[Layer]) -> None:
    for layer in layers:
        layer.matrix = layer.matrix.float()
        layer.offset = None if layer.offset is None else layer.offset.float()


def _read(mix: Tensor, own: Tensor) -> Tensor:
    """The network's outputs from the stack's."""
    return own * mix if mix.ndim == 1 else mixed(mix, own)
