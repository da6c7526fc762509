"""Small networks in single precision, and what they become with weights that move a little."""

import copy
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hmcompress.network.joint.differentiated import Differentiated, Linearised, Weights, rows_of
from hmcompress.network.joint.small import Data, Layer, SmallNetwork, mixed
from hmcompress.network.joint.small_web import SmallWeb
from hmcompress.network.joint.stack import SmallStack, apply, with_slope
from hmcompress.network.joint.stacks import SmallStacks
from hmcompress.network.model.network import DenseLayer, in_precision, replaced


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
    """A copy of stacks, or of a web. Raises NetworkError where its module cannot be copied."""
    if isinstance(network, SmallWeb):
        return SingleWeb.of(network, data)
    assert isinstance(network, SmallStacks)
    several = len(network.stacks) > 1
    return SingleStacks.of(network, data) if several else SingleStack.of(network, data)


@dataclass
class SingleStack(Single):
    stack: SmallStack
    x: Tensor
    mix: Tensor  # (k,), or (N, k, m) applied to what the stack gives
    wanted: Tensor

    @classmethod
    def of(cls, network: SmallStacks, data: Data) -> "SingleStack":
        (stack,) = network.clone().stacks
        mix, wanted = _mix_and_wanted(network, data)
        return cls(_single_stack(stack), data.inputs[0].float(), mix, wanted)

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
class SingleStacks(Single):
    """Several stacks, side by side or multiplied."""

    small: SmallStacks
    inputs: tuple[Tensor, ...]
    mix: Tensor  # as of one stack
    wanted: Tensor

    @classmethod
    def of(cls, network: SmallStacks, data: Data) -> "SingleStacks":
        small = replace(network, stacks=[_single_stack(stack) for stack in network.clone().stacks])
        return cls(small, tuple(x.float() for x in data.inputs), *_mix_and_wanted(network, data))

    @property
    def layers(self) -> Sequence[Layer]:
        return self.small.layers

    def outputs(self) -> Tensor:
        values = [stack.forward(x)[1] for stack, x in zip(self.small.stacks, self.inputs, strict=True)]
        return _read(self.mix, self.small.together(values))

    def linearised(self) -> "StacksAt":
        return StacksAt.at(self.small, self.inputs, self.mix)


class StacksAt(Differentiated):
    """Several stacks at some weights."""

    @classmethod
    def at(cls, small: SmallStacks, xs: Sequence[Tensor], mix: Tensor) -> "StacksAt":
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
            return cls.of(_read(mix, small.together(values)), weights, inputs, leaving)


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


class WebAt(Differentiated):
    """A web at some weights."""

    @classmethod
    def at(cls, small: SmallWeb, data: Data) -> "WebAt":
        entering, leaving = defaultdict[str, list[Tensor]](list), defaultdict[str, list[Tensor]](list)

        def note(layer: DenseLayer, x: Tensor, z: Tensor) -> Tensor:
            entering[layer.weight].append(rows_of(x.detach()))
            leaving[layer.weight].append(z)
            return z.clone()  # some functions work in place

        small, names = small.clone(), [layer.layer.weight for layer in small.layers]
        for layer in small.layers:
            layer.matrix.requires_grad_()
        weights = [layer.matrix for layer in small.layers]
        with torch.enable_grad(), replaced(small.web.network, note):
            y = small.web.network.call(data.inputs, small.tensors()) * small.scale
        inputs = [layer.extended(torch.cat(entering[name])) for layer, name in zip(small.layers, names, strict=True)]
        return cls.of(y, weights, inputs, [leaving[name] for name in names])


def _single_stack(stack: SmallStack) -> SmallStack:
    _to_single(stack.layers)
    return SmallStack(stack.layers, [copy.deepcopy(f).float() for f in stack.functions])


def _mix_and_wanted(network: SmallStacks, data: Data) -> tuple[Tensor, Tensor]:
    """What is applied to the values of the stacks, and what that should be."""
    wanted = data.outputs if data.rest is None else data.outputs - data.rest
    return (network.scale if data.mix is None else data.mix).float(), wanted.float()


def _to_single(layers: Sequence[Layer]) -> None:
    for layer in layers:
        layer.matrix = layer.matrix.float()
        layer.offset = None if layer.offset is None else layer.offset.float()


def _read(mix: Tensor, own: Tensor) -> Tensor:
    """The network's outputs from the stack's."""
    return own * mix if mix.ndim == 1 else mixed(mix, own)
