"""A small network that stands for a large one: few neurons in each layer, all weights free, in float64.

Dense stacks with elementwise functions between them, alone (mlp) or multiplied output by output (deeponet). Outputs are
in units of the tolerance's norm, so that sums of squared residuals are squared relative errors.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from hmcompress.network.model.modules import Activation
from hmcompress.network.model.network import DenseLayer

_CHUNK = 1 << 18  # entries of a Jacobian held at once


@dataclass
class Layer:
    """A dense layer of the small network."""

    layer: DenseLayer
    heads: tuple[tuple[DenseLayer, int], ...]  # further ones whose rows follow, and how many each has
    matrix: Tensor  # (m, n), or (m, n + 1) with the bias as the last column
    live: Tensor  # (m, n) or (m, n + 1) bool: the weights that are free
    offset: Tensor | None  # (m,) bias that is kept as it is

    @property
    def has_bias(self) -> bool:
        return self.layer.bias is not None

    @property
    def inputs(self) -> int:
        return self.matrix.shape[1] - self.has_bias

    def parts(self) -> list[tuple[DenseLayer, slice]]:
        """The layers that it stands for, and their rows."""
        ends = [len(self.matrix) - sum(m for _, m in self.heads)]
        found = [(self.layer, slice(0, ends[0]))]
        for head, m in self.heads:
            ends.append(ends[-1] + m)
            found.append((head, slice(*ends[-2:])))
        return found

    def weight(self) -> Tensor:
        return self.matrix[:, : self.inputs]

    def extended(self, x: Tensor) -> Tensor:
        """Inputs (N, n) with a column of ones where there is a bias."""
        return torch.cat([x, x.new_ones(len(x), 1)], 1) if self.has_bias else x

    def forward(self, x: Tensor) -> Tensor:
        z = torch.nn.functional.linear(x, self.weight(), self.matrix[:, -1] if self.has_bias else None)
        return z if self.offset is None else z + self.offset


@dataclass
class SmallStack:
    """Layers with functions between them; one more after the last layer where there are as many as layers."""

    layers: list[Layer]
    functions: Sequence[Activation]

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Inputs of every layer, and the outputs."""
        xs = []
        for k, layer in enumerate(self.layers):
            xs.append(x)
            x = layer.forward(x)
            if k < len(self.functions):
                x = apply(self.functions[k], x)
        return xs, x

    def linearised(self, x: Tensor) -> tuple[list[Tensor], Tensor, list[Tensor | None]]:
        """As `forward` for inputs (n, N), with rows of ones where there are biases, and the derivative of the function
        after each layer, (m, N); None where there is none."""
        xs: list[Tensor] = []
        slopes: list[Tensor | None] = []
        for k, layer in enumerate(self.layers):
            xs.append(torch.cat([x, x.new_ones(1, x.shape[1])]) if layer.has_bias else x)
            x = layer.matrix @ xs[k]
            x = x if layer.offset is None else x + layer.offset[:, None]
            slopes.append(None)
            if k < len(self.functions):
                x, slopes[k] = (t.T for t in with_slope(self.functions[k], x.T))
        return xs, x, slopes


def apply(function: Activation, z: Tensor) -> Tensor:
    """The function on the first neurons of a layer: slopes (m,) belong to neurons."""
    if function.slope is not None and function.slope.numel() > 1:
        return Activation(function.name, function.slope.to(z.dtype).reshape(-1)[: z.shape[1]])(z)
    return function(z)


def with_slope(function: Activation, z: Tensor) -> tuple[Tensor, Tensor]:
    """An elementwise function at z, and its derivative."""
    y = apply(function, z)
    if function.slope is None and function.name in _SLOPES:
        return y, _SLOPES[function.name](z, y)
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        return y, torch.autograd.grad(apply(function, z).sum(), z)[0]


_SLOPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "tanh": lambda z, y: 1 - y.square(),
    "sin": lambda z, y: torch.cos(z),
}


class Beyond(Protocol):
    """Scaled outputs (N, k) that follow from those of the stacks (N, m), and their derivatives (N, k, m) there."""

    def part(self, rows: slice) -> "Beyond": ...
    def outputs(self, values: Tensor) -> Tensor: ...
    def slopes(self, values: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Data:
    """What a small network learns: inputs of each stack (N, n), outputs (N, k) in units of the tolerance's norm.

    Where a larger network goes on from the stacks, `mix` (N, k, m) and `rest` (N, k), in the same units, make its
    outputs of theirs: mix applied to them + rest; or `beyond` does, of which that is the tangent at the original's.
    Where derivatives are bounded too, each sample has S points, one after another in `inputs`, `mix` and `rest`;
    `stencil` (B, k, S) makes B blocks of k scaled outputs of those there.
    """

    inputs: tuple[Tensor, ...]
    outputs: Tensor
    weight: float = 1.0  # of squared errors
    mix: Tensor | None = None
    rest: Tensor | None = None
    stencil: Tensor | None = None
    beyond: Beyond | None = None

    def __len__(self) -> int:
        return len(self.outputs)

    @property
    def points(self) -> int:
        """Of each sample."""
        return 1 if self.stencil is None else self.stencil.shape[2]

    @property
    def blocks(self) -> int:
        """Of outputs: values, and each derivative."""
        return 1 if self.stencil is None else len(self.stencil)

    @property
    def at_points(self) -> int:
        """Outputs of a sample at all of its points."""
        return self.outputs.shape[1] if self.stencil is None else self.stencil.shape[1] * self.points

    def part(self, begin: int, end: int) -> "Data":
        rows = slice(begin * self.points, end * self.points)
        mix, rest = (None if t is None else t[rows] for t in (self.mix, self.rest))
        inputs = tuple(x[rows] for x in self.inputs)
        beyond = None if self.beyond is None else self.beyond.part(rows)
        return replace(self, inputs=inputs, outputs=self.outputs[begin:end], mix=mix, rest=rest, beyond=beyond)

    def first(self, rows: int) -> "Data":
        """The first rows, weighted so that squared errors stay comparable."""
        rows = min(rows, len(self))
        return replace(self.part(0, rows), weight=self.weight * len(self) / max(rows, 1))

    def read(self, own: Tensor) -> Tensor:
        """The network's outputs at each point (N S, k) from those of the stacks (N S, m)."""
        if self.beyond is not None:
            return self.beyond.outputs(own)
        if self.mix is None or self.rest is None:
            return own
        return mixed(self.mix, own) + self.rest

    def combined(self, at_points: Tensor) -> Tensor:
        """Outputs (..., B k, N) from those at each point (..., k, N S)."""
        if self.stencil is None:
            return at_points
        found = torch.einsum("bks,...kns->...bkn", self.stencil, at_points.unflatten(-1, (-1, self.points)))
        return found.flatten(-3, -2)


def mixed(mix: Tensor, values: Tensor) -> Tensor:
    """mix (N, k, m) applied to values (N, m)."""
    return torch.einsum("nkm,nm->nk", mix, values)


@dataclass
class SmallNetwork:
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
        """(N, k), scaled."""
        values = [stack.forward(x)[1] for stack, x in zip(self.stacks, data.inputs, strict=True)]
        y = (values[0] * values[1]).sum(1, keepdim=True) + self.shift if self.product else _beside(values, 1)
        return data.combined(data.read(y * self.scale).T).T

    def residual(self, data: Data) -> Tensor:
        return data.outputs - self.outputs(data)

    def error(self, data: Data) -> float:
        """Squared relative error; inf where something overflows."""
        error = data.weight * float(self.residual(data).pow(2).sum())
        return error if math.isfinite(error) else math.inf

    def clone(self) -> "SmallNetwork":
        """A copy whose weights may change."""
        stacks = [
            SmallStack(
                [replace(x, matrix=x.matrix.clone(), live=x.live.clone()) for x in stack.layers], stack.functions
            )
            for stack in self.stacks
        ]
        return replace(self, stacks=stacks)

    def weights(self) -> int:
        """How many are free."""
        return sum(int(layer.live.sum()) for layer in self.layers)

    def theta(self) -> Tensor:
        """The free weights, layer by layer."""
        return torch.cat([layer.matrix.masked_select(layer.live) for layer in self.layers])

    def set_theta(self, theta: Tensor) -> None:
        begin = 0
        for layer in self.layers:
            layer.matrix.masked_scatter_(layer.live, theta[begin:])
            begin += int(layer.live.sum())

    def normal(self, data: Data, coarse: bool = False) -> tuple[Tensor, Tensor, float]:
        """J^T J (`coarse`: of single precision) and J^T r of the free weights, and the squared error."""
        count = self.weights()
        gram, gradient, error = torch.zeros(count, count).double(), torch.zeros(count).double(), 0.0
        rows = max(_CHUNK // max(count * data.outputs.shape[1], 1), 64)
        for begin in range(0, len(data), rows):
            part = data.part(begin, begin + rows)
            transposed, y = self._jacobian(part)
            r = (part.outputs.T - y).reshape(-1)
            if coarse:
                single = transposed.float()
                gram.add_(single @ single.T)
            else:
                gram.addmm_(transposed, transposed.T)
            gradient.addmv_(transposed, r)
            error += float(r @ r)
        return data.weight * gram, data.weight * gradient, data.weight * error

    def _jacobian(self, data: Data) -> tuple[Tensor, Tensor]:
        """The transpose (weights, k N) of the Jacobian of the scaled outputs, and these, (k, N).

        Samples lie along rows, which are what is multiplied and gathered.
        """
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
