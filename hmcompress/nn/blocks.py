"""Any block of a matrix without expanding the matrix: products, norm, and the entries of small blocks."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hmcompress.hmatrix.blocks import Block
from hmcompress.hmatrix.tree import TreeBody
from hmcompress.nn.leaves import Leaf

Array = np.ndarray


class Matrix(ABC):
    """A matrix (m, n) whose blocks can be asked for, in float64."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(m, n)."""

    @abstractmethod
    def times(self, block: Block, x: Array) -> Array:
        """The block times x (columns of the block, k)."""

    @abstractmethod
    def transposed_times(self, block: Block, x: Array) -> Array:
        """The block's transpose times x (rows of the block, k)."""

    @abstractmethod
    def dense(self, block: Block) -> Array:
        """The entries of a small block."""

    @abstractmethod
    def energy(self, block: Block) -> float:
        """The squared Frobenius norm of the block."""

    @abstractmethod
    def energies(self, m: int, n: int) -> Array:
        """About the squared norm of every block of m x n, the matrix cut into such blocks."""

    def whole(self) -> Block:
        """All of it."""
        return Block(0, self.shape[0], 0, self.shape[1])


@dataclass(frozen=True)
class DenseMatrix(Matrix):
    """A matrix given by its entries."""

    values: Array

    @property
    def shape(self) -> tuple[int, int]:
        return self.values.shape[0], self.values.shape[1]

    def times(self, block: Block, x: Array) -> Array:
        return block.of(self.values) @ x

    def transposed_times(self, block: Block, x: Array) -> Array:
        return block.of(self.values).T @ x

    def dense(self, block: Block) -> Array:
        return block.of(self.values).astype(np.float64)

    def energy(self, block: Block) -> float:
        return float(np.square(block.of(self.values), dtype=np.float64).sum())

    def energies(self, m: int, n: int) -> Array:
        squares = np.square(self.values, dtype=np.float64)
        by_rows = np.add.reduceat(squares, np.arange(0, self.shape[0], m), axis=0)
        return np.add.reduceat(by_rows, np.arange(0, self.shape[1], n), axis=1)


class TreeMatrix(Matrix):
    """The leaves of a stored matrix, in its own order of rows and columns. A block is gathered from those it meets."""

    def __init__(self, body: TreeBody, columns: int | None = None) -> None:
        """columns: only the first ones."""
        self._shape = (body.shape[0], body.shape[1] if columns is None else columns)
        self._step = body.step
        self._leaves = [Leaf(placed) for placed in body.leaves if placed.parts]
        bounds = [(leaf.block.r0, leaf.block.r1, leaf.block.c0, leaf.block.c1) for leaf in self._leaves]
        self._bounds = np.array(bounds, np.int64).reshape(-1, 4)

    @property
    def shape(self) -> tuple[int, int]:
        return self._shape

    def times(self, block: Block, x: Array) -> Array:
        y = np.zeros((block.shape[0], x.shape[1]))
        for leaf, part, rows, columns in self._met(block):
            y[rows] += leaf.times(part, x[columns])
        return self._step * y

    def transposed_times(self, block: Block, x: Array) -> Array:
        y = np.zeros((block.shape[1], x.shape[1]))
        for leaf, part, rows, columns in self._met(block):
            y[columns] += leaf.transposed_times(part, x[rows])
        return self._step * y

    def dense(self, block: Block) -> Array:
        values = np.zeros(block.shape)
        for leaf, part, rows, columns in self._met(block):
            values[rows, columns] = leaf.dense(part)
        return self._step * values

    def energy(self, block: Block) -> float:
        return self._step**2 * sum(leaf.energy(part) for leaf, part, _, _ in self._met(block))

    def energies(self, m: int, n: int) -> Array:
        """Each leaf's own, spread evenly over its block."""
        total = np.zeros((-(-self.shape[0] // m), -(-self.shape[1] // n)))
        for leaf, (r0, r1, c0, c1) in zip(self._leaves, self._bounds, strict=True):
            energy = leaf.energy(Block(0, r1 - r0, 0, c1 - c0))
            rows, columns = _shares(r0, r1, m), _shares(c0, min(c1, self.shape[1]), n)
            total[r0 // m :, c0 // n :][: len(rows), : len(columns)] += energy * np.outer(rows, columns)
        return self._step**2 * total

    def _met(self, block: Block) -> Iterator[tuple[Leaf, Block, slice, slice]]:
        """Leaves that meet the block, the part of each that lies in it, and where in the block that is."""
        r0, r1, c0, c1 = self._bounds.T
        met = (r0 < block.r1) & (r1 > block.r0) & (c0 < block.c1) & (c1 > block.c0)
        for i in np.flatnonzero(met):
            leaf = self._leaves[i]
            b = leaf.block
            top, bottom, first, last = (
                max(b.r0, block.r0),
                min(b.r1, block.r1),
                max(b.c0, block.c0),
                min(b.c1, block.c1),
            )
            part = Block(top - b.r0, bottom - b.r0, first - b.c0, last - b.c0)
            yield leaf, part, slice(top - block.r0, bottom - block.r0), slice(first - block.c0, last - block.c0)


class Gathered(Matrix):
    """A matrix with its columns in another order: column j is column take[j] of the one given.

    Energies are those of blocks that consist of cells (m, n): the entries are squared once, a stripe of rows at a time.
    """

    def __init__(self, matrix: Matrix, take: Array, cell: tuple[int, int]) -> None:
        self._matrix, self._take, self._cell = matrix, take, cell
        starts = np.arange(0, matrix.shape[1], cell[1])
        stripes = (self._stripe(r, min(r + cell[0], matrix.shape[0])) for r in range(0, matrix.shape[0], cell[0]))
        squares = (np.square(matrix.dense(stripe)).sum(0)[take] for stripe in stripes)
        self._cells = np.stack([np.add.reduceat(row, starts) for row in squares])

    @property
    def shape(self) -> tuple[int, int]:
        return self._matrix.shape

    def times(self, block: Block, x: Array) -> Array:
        spread = np.zeros((self.shape[1], x.shape[1]))
        spread[self._take[block.c0 : block.c1]] = x
        return self._matrix.times(self._stripe(block.r0, block.r1), spread)

    def transposed_times(self, block: Block, x: Array) -> Array:
        y = self._matrix.transposed_times(self._stripe(block.r0, block.r1), x)
        return y[self._take[block.c0 : block.c1]]

    def dense(self, block: Block) -> Array:
        return self._matrix.dense(self._stripe(block.r0, block.r1))[:, self._take[block.c0 : block.c1]]

    def energy(self, block: Block) -> float:
        (m, n), r0, c0 = self._cell, block.r0, block.c0
        assert r0 % m == 0 and c0 % n == 0
        return float(self._cells[r0 // m : -(-block.r1 // m), c0 // n : -(-block.c1 // n)].sum())

    def energies(self, m: int, n: int) -> Array:
        assert (m, n) == self._cell
        return self._cells

    def _stripe(self, r0: int, r1: int) -> Block:
        return Block(r0, r1, 0, self.shape[1])


def _shares(begin: int, end: int, size: int) -> Array:
    """How a range begin .. end spreads over the ranges of `size` that it meets."""
    edges = np.arange(begin // size, -(-end // size) + 1) * size
    return np.diff(np.clip(edges, begin, end)) / max(1, end - begin)
