"""A small network that stands for a large one: few neurons in each layer, all weights free, in float64.

Outputs are in units of the tolerance's norm, so that sums of squared residuals are squared relative errors.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from hmcompress.network.joint.onward import Onward
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
    rows: Tensor | None = None  # (m,) of the original's layer that it stands for; None: the first ones
    columns: Tensor | None = None  # (n,) likewise

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

    def bias(self) -> Tensor | None:
        return self.matrix[:, -1] if self.has_bias else None

    @property
    def reading(self) -> Tensor:
        """Which weights (m, n) read an input."""
        return self.live[:, : self.inputs]

    def drop(self, mask: Tensor) -> None:
        """Fix some weights at zero."""
        self.live = self.live & ~mask
        self.matrix = self.matrix.masked_fill(mask, 0.0)

    def drop_rows(self, rows: Tensor) -> None:
        self.drop(rows[:, None].expand(self.matrix.shape))

    def drop_columns(self, columns: Tensor) -> None:
        """Those that read some of its inputs."""
        mask = torch.zeros_like(self.live)
        mask[:, : self.inputs] = columns
        self.drop(mask)

    def keep_rows(self, rows: Tensor) -> None:
        self.matrix, self.live = self.matrix[rows], self.live[rows]

    def keep_columns(self, columns: Tensor) -> None:
        """Some of its inputs, and the bias."""
        columns = torch.cat([columns, columns.new_ones(1)]) if self.has_bias else columns
        self.matrix, self.live = self.matrix[:, columns], self.live[:, columns]

    def extended(self, x: Tensor) -> Tensor:
        """Inputs (N, n) with a column of ones where there is a bias."""
        return torch.cat([x, x.new_ones(len(x), 1)], 1) if self.has_bias else x

    def forward(self, x: Tensor) -> Tensor:
        z = torch.nn.functional.linear(x, self.weight(), self.bias())
        return z if self.offset is None else z + self.offset


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
    beyond: Onward | None = None

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

    def scaled(self, scale: Tensor) -> "Data":
        """With outputs times these factors (k,)."""
        mix = None if self.mix is None else self.mix * scale[:, None]
        rest = None if self.rest is None else self.rest * scale
        beyond = None if self.beyond is None else self.beyond.scaled(scale)
        return replace(self, outputs=self.outputs * scale, mix=mix, rest=rest, beyond=beyond)

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


@dataclass(frozen=True)
class Neurons:
    """So many neurons that may change places: where they stand, in rows (0) or columns (1) of layers, from which on.

    odd: the opposite of each is as good, with that of all that reads it.
    """

    count: int
    places: tuple[tuple[int, int, int], ...]
    odd: bool


class SmallNetwork(ABC):
    """What learns, is pruned and quantised: weights of some layers, of which all others follow those before."""

    @property
    def each(self) -> float:
        """Multiplications of the original's module for one sample, where that is run with these weights."""
        return 0.0

    @property
    @abstractmethod
    def layers(self) -> Sequence[Layer]:
        """Those that are not done yet, in the order of computation."""

    @abstractmethod
    def outputs(self, data: Data) -> Tensor:
        """(N, k), scaled."""

    @abstractmethod
    def jacobian(self, data: Data) -> tuple[Tensor, Tensor]:
        """The transpose (weights, k N) of the Jacobian of the scaled outputs, and these, (k, N).

        Samples lie along rows, which are what is multiplied and gathered.
        """

    @abstractmethod
    def clone(self) -> Self:
        """A copy whose weights may change."""

    @abstractmethod
    def from_layer(self, first: int, data: Data) -> tuple[Self, Data]:
        """The network from one of its layers on, whose weights it shares, and its data: layers before it are done."""

    @abstractmethod
    def settle(self) -> None:
        """Fix what no output depends on at zero."""

    @abstractmethod
    def unwind(self) -> None:
        """Bring phases within half a turn."""

    @abstractmethod
    def compact(self) -> None:
        """Take idle hidden neurons out, so that the others come first."""

    @abstractmethod
    def drop_weakest(self, data: Data) -> bool:
        """Fix all that reads the hidden neuron that does least at zero. False: none is left."""

    @abstractmethod
    def neurons(self) -> list[Neurons]:
        """Those that may change places among each other."""

    def prune(self, share: float) -> None:
        """Fix weights below a share of their layer's root mean square at zero, and what then does nothing."""
        for layer in self.layers:
            free = layer.matrix[layer.live]
            if len(free):
                layer.drop(layer.live & (layer.matrix.abs() < share * free.pow(2).mean().sqrt()))
        self.settle()

    def residual(self, data: Data) -> Tensor:
        return data.outputs - self.outputs(data)

    def error(self, data: Data) -> float:
        """Squared relative error; inf where something overflows."""
        error = data.weight * float(self.residual(data).pow(2).sum())
        return error if math.isfinite(error) else math.inf

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
        for transposed, r in self.pieces(data, rows):
            if coarse:
                single = transposed.float()
                gram.add_(single @ single.T)
            else:
                gram.addmm_(transposed, transposed.T)
            gradient.addmv_(transposed, r)
            error += float(r @ r)
        return data.weight * gram, data.weight * gradient, data.weight * error

    def pieces(self, data: Data, rows: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The transposed Jacobian, and the residual, of so many samples at a time."""
        for begin in range(0, len(data), rows):
            part = data.part(begin, begin + rows)
            transposed, y = self.jacobian(part)
            yield transposed, (part.outputs.T - y).reshape(-1)
