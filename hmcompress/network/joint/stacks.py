"""Small networks of dense stacks, alone (mlp), side by side, or multiplied output by output (deeponet)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hmcompress.network.joint import pruning
from hmcompress.network.joint.pruning import is_nameless
from hmcompress.network.joint.small import Data, Layer, Neurons, SmallNetwork
from hmcompress.network.joint.stack import SmallStack

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
        pruning.settle(self.stacks, self.product)

    def unwind(self) -> None:
        pruning.unwind(self.stacks)

    def compact(self) -> None:
        pruning.compact(self.stacks, self.product)

    def drop_weakest(self, data: Data) -> bool:
        dropped = pruning.drop_weakest(self.stacks, data.inputs)
        self.settle()
        return dropped

    def neurons(self) -> list[Neurons]:
        """Hidden layers' that feed only the next one."""
        found, first = [], 0
        for stack in self.stacks:
            for k in range(len(stack.layers) - 1):
                if is_nameless(stack, k):
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
