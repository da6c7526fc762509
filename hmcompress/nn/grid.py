"""How the running form cuts a matrix: 2^L equal ranges of rows and of columns, paired along the diagonal."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from hmcompress.hmatrix.blocks import Block
from hmcompress.nn.blocks import Matrix

Array = np.ndarray
_SMALLEST_LEAF = 32


@dataclass(frozen=True)
class Grid:
    """Rows and columns cut into 2^levels ranges of m and n, the last ones cut short by the matrix.

    `leaves`: the range of columns that stands at each place, where the stored order is not the one to pair by.
    """

    shape: tuple[int, int]
    levels: int
    m: int
    n: int
    leaves: tuple[int, ...]

    @classmethod
    def of(cls, shape: tuple[int, int]) -> "Grid":
        """As many levels as leave leaves of _SMALLEST_LEAF or more on the shorter side."""
        levels = max(0, int(math.log2(max(1, min(shape) / _SMALLEST_LEAF))))
        m, n = (-(-side // 2**levels) for side in shape)
        return cls(shape, levels, m, n, tuple(range(2**levels)))

    @property
    def is_tight(self) -> bool:
        """Whether no smaller ranges would do; merged ones may be larger than an HLinear's."""
        return all(-(-side // 2**self.levels) == size for side, size in zip(self.shape, (self.m, self.n), strict=True))

    def merged(self, levels: int) -> "Grid":
        """The same with fewer levels, each leaf of several of ours."""
        times = 2 ** (self.levels - levels)
        leaves = tuple(leaf // times for leaf in self.leaves[::times])
        return Grid(self.shape, levels, self.m * times, self.n * times, leaves)

    def aligned(self, matrix: Matrix) -> "Grid":
        """The same with halves of columns exchanged, so that the large blocks of every level are on the diagonal.

        Rows and columns are ordered apart from each other, so that a range of columns may lie opposite its rows.
        """
        if self.shape[1] % 2**self.levels or self.levels == 0:
            return self
        energies = matrix.energies(self.m, self.n)
        return replace(self, leaves=tuple(_paired(energies, 0, list(self.leaves))))

    def block(self, level: int, row: int, column: int) -> Block:
        """A block of a level, numbered from the top left; level `levels` has the leaves."""
        times = 2 ** (self.levels - level)
        stored = self.leaves[column * times] // times
        (r0, r1), (c0, c1) = (
            (min(i * size, side), min((i + 1) * size, side))
            for i, size, side in zip((row, stored), (self.m * times, self.n * times), self.shape, strict=True)
        )
        return Block(r0, r1, c0, c1)

    def columns(self, stored: Tensor | None) -> Tensor | None:
        """The order of the columns, given that of the stored matrix; None where it is the original one."""
        if self.leaves == tuple(range(len(self.leaves))):
            return stored
        order = (np.array(self.leaves)[:, None] * self.n + np.arange(self.n)).reshape(-1)
        return torch.from_numpy(order) if stored is None else stored[order]

    def numbers(self, ranks: Sequence[int]) -> int:
        """Numbers that an HLinear of these ranks holds."""
        return 2**self.levels * (sum(ranks) * (self.m + self.n) + self.m * self.n)


def _paired(energies: Array, first_row: int, columns: list[int]) -> list[int]:
    """The columns' leaves in the order that pairs them with the rows' from first_row on."""
    half = len(columns) // 2
    if half == 0:
        return columns
    upper, lower = columns[:half], columns[half:]
    rows = energies[first_row : first_row + half], energies[first_row + half : first_row + 2 * half]
    straight = rows[0][:, upper].sum() + rows[1][:, lower].sum()
    crossed = rows[0][:, lower].sum() + rows[1][:, upper].sum()
    if crossed > straight:
        upper, lower = lower, upper
    return _paired(energies, first_row, upper) + _paired(energies, first_row + half, lower)
