"""Small networks of dense stacks, alone (mlp), side by side, or multiplied output by output (deeponet)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from hmcompress.network.joint.small import Data, Layer, Neurons, SmallNetwork
from hmcompress.network.joint.stack import SmallStack, apply

_ODD = ("tanh", "sin", "identity")  # functions that return the opposite of the opposite


@dataclass
class SmallStacks(SmallNetwork):
    """One stack or several, or two whose outputs are multiplied and summed; `scale` (k,) turns outputs into units of
    the norm, where the data's `mix` or `stencil` does not."""

    stacks: list[SmallStack]
    scale: Tensor
    shift: float = 0.0  # added to the product
    product: bool = False

    @property
    def layers(self) -> list[Layer]:
        return [layer for stack in self.stacks for layer in stack.layers]

    def outputs(self, data: Data) -> Tensor:
        values = [stack.forward(x)[1] for stack, x in zip(self.stacks, data.inputs, strict=True)]
        return data.combined(data.read(self.together(values) * self.scale).T).T

    def together(self, values: Sequence[Tensor]) -> Tensor:
        """What they compute (N, m) of what each stack does."""
        return (values[0] * values[1]).sum(1, keepdim=True) + self.shift if self.product else _beside(values, 1)

    def clone(self) -> "SmallStacks":
        stacks = [
            SmallStack(
                [replace(x, matrix=x.matrix.clone(), live=x.live.clone()) for x in stack.layers], stack.functions
            )
            for stack in self.stacks
        ]
        return replace(self, stacks=stacks)

    def from_layer(self, first: int, data: Data) -> tuple["SmallStacks", Data]:
        """What enters it is what the layers before give."""
        stacks, inputs = [], []
        for stack, x in zip(self.stacks, data.inputs, strict=True):
            done = min(first, len(stack.layers))
            first -= done
            inputs.append(SmallStack(stack.layers[:done], stack.functions[:done]).forward(x)[1])
            stacks.append(SmallStack(stack.layers[done:], stack.functions[done:]))
        return replace(self, stacks=stacks), replace(data, inputs=tuple(inputs))

    def settle(self) -> None:
        """Constant neurons are folded into the next bias too, until nothing changes."""
        before = -1
        while before != (before := self.weights()):
            for stack in self.stacks:
                for k in reversed(range(len(stack.layers) - 1)):
                    _fold_constants(stack, k)
                    stack.layers[k].drop_rows(~stack.layers[k + 1].reading.any(0))
            if self.product:
                idle = torch.stack([~end.live.any(1) for end in self._ends]).any(0)
                for end in self._ends:
                    end.drop_rows(idle)

    @property
    def _ends(self) -> list[Layer]:
        return [stack.layers[-1] for stack in self.stacks]

    def unwind(self) -> None:
        """Phases of sines by whole turns, half ones with the sign: a large phase costs bits, and beside it all other
        weights of its layer look small."""
        for stack in self.stacks:
            for k, (layer, after) in enumerate(pairwise(stack.layers)):
                if layer.has_bias and stack.functions[k].name == "sin" and stack.functions[k].slope is None:
                    halves = (layer.matrix[:, -1] / math.pi).round() * layer.live[:, -1]
                    layer.matrix[:, -1] -= math.pi * halves
                    after.weight().mul_(1 - 2 * halves.remainder(2))

    def compact(self) -> None:
        """Neurons that a kept bias or slope names stay."""
        for stack in self.stacks:
            for k, (layer, after) in enumerate(pairwise(stack.layers)):
                if _is_nameless(stack, k):
                    alive = after.reading.any(0)
                    alive = alive if bool(alive.any()) else torch.arange(len(alive)) == 0
                    layer.keep_rows(alive)
                    after.keep_columns(alive)
        if self.product and all(_is_nameless(stack, len(stack.layers) - 1) for stack in self.stacks):
            alive = torch.stack([end.live.any(1) for end in self._ends]).all(0)
            for end in self._ends if bool(alive.any()) else ():
                end.keep_rows(alive)

    def drop_weakest(self, data: Data) -> bool:
        """By the variance that each neuron adds to what reads it."""
        found: list[tuple[float, Layer, int]] = []
        for stack, x in zip(self.stacks, data.inputs, strict=True):
            for layer, entering in zip(stack.layers[1:], stack.forward(x)[0][1:], strict=True):
                size = (layer.weight().pow(2).sum(0) / layer.weight().pow(2).sum().clamp_min(1e-300)) * entering.var(0)
                living = torch.nonzero(layer.reading.any(0))[:, 0].tolist()
                found += [(float(size[i]), layer, i) for i in living if len(living) > 1]
        if found:
            _, layer, i = min(found, key=lambda item: item[0])
            layer.drop_columns(torch.arange(layer.inputs) == i)
        self.settle()
        return bool(found)

    def neurons(self) -> list[Neurons]:
        """Hidden layers' that feed only the next one."""
        found, first = [], 0
        for stack in self.stacks:
            for k in range(len(stack.layers) - 1):
                if _is_nameless(stack, k):
                    places = ((first + k, 0, 0), (first + k + 1, 1, 0))
                    found.append(Neurons(len(stack.layers[k].matrix), places, stack.functions[k].name in _ODD))
            first += len(stack.layers)
        return found

    def jacobian(self, data: Data) -> tuple[Tensor, Tensor]:
        runs = [stack.linearised(x.T) for stack, x in zip(self.stacks, data.inputs, strict=True)]
        values = [y for _, y, _ in runs]
        y = (values[0] * values[1]).sum(0, keepdim=True) + self.shift if self.product else _beside(values, 0)
        y = y * self.scale[:, None]
        through = torch.eye(len(y)).double()[:, :, None] * self.scale[:, None]  # outputs by what the stacks give
        if data.mix is not None:
            slopes_there = data.mix if data.beyond is None else data.beyond.slopes(y.T)
            y, through = data.read(y.T).T, slopes_there.permute(2, 1, 0)
        found = torch.empty(self.weights(), *y.shape, dtype=y.dtype)
        blocks = iter(found.split([int(layer.live.sum()) for layer in self.layers]))
        each = [through] * 2 if self.product else through.split([len(v) for v in values])
        for k, (stack, (xs, _, slopes)) in enumerate(zip(self.stacks, runs, strict=True)):
            g = values[1 - k][:, None] * each[k] if self.product else each[k]
            _fill([next(blocks) for _ in stack.layers], stack, xs, slopes, g.expand(-1, *y.shape))
        return data.combined(found).reshape(len(found), -1), data.combined(y)


def _fold_constants(stack: SmallStack, k: int) -> None:
    layer, after = stack.layers[k], stack.layers[k + 1]
    constant = ~layer.reading.any(1)
    if not after.has_bias or not after.reading[:, constant].any():
        return
    values = apply(stack.functions[k], layer.forward(torch.zeros(1, layer.inputs).double()))[0]
    folded = after.weight()[:, constant] @ values[constant]
    after.live[:, -1] |= folded != 0
    after.drop_columns(constant)
    after.matrix[:, -1] += folded


def _is_nameless(stack: SmallStack, k: int) -> bool:
    """Whether neurons of a layer may change places: no kept bias or slope belongs to one of them."""
    slope = stack.functions[k].slope if k < len(stack.functions) else None
    return stack.layers[k].offset is None and (slope is None or slope.numel() == 1)


def _beside(values: Sequence[Tensor], dim: int) -> Tensor:
    return values[0] if len(values) == 1 else torch.cat([*values], dim)


def _fill(
    blocks: Sequence[Tensor], stack: SmallStack, xs: Sequence[Tensor], slopes: Sequence[Tensor | None], g: Tensor
) -> None:
    """A block of the transposed Jacobian for each layer; g (m, k, N): derivative of the outputs by the stack's."""
    for k in reversed(range(len(stack.layers))):
        layer, after = stack.layers[k], slopes[k]
        g = g if after is None else g * after[:, None]
        rows, columns = torch.nonzero(layer.live, as_tuple=True)
        torch.mul(g[rows], xs[k][columns][:, None], out=blocks[k])
        if k:
            g = (layer.weight().T @ g.reshape(len(g), -1)).reshape(-1, *g.shape[1:])
