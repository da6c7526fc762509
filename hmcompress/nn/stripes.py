"""A stored matrix some rows at a time: what a running form is made from, without the matrix ever being whole."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from hmcompress.hmatrix.patterns.interpolated import Predicted
from hmcompress.hmatrix.tree.basis import BASES
from hmcompress.hmatrix.tree.parts import LowRank, Part, Remainder
from hmcompress.hmatrix.tree.tree import PlacedLeaf, TreeBody

Array = np.ndarray
_SMALL = 2**18  # entries of a leaf's remainder that is expanded as it is
_SPARSE = 0.1  # share of integers other than zero below which they are kept as a sparse matrix
_CHUNK = 256  # rows of integers that become floating at once


class Stripes(ABC):
    """A matrix (m, n) whose rows can be asked for, in float64."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(m, n)."""

    @abstractmethod
    def rows(self, begin: int, end: int) -> Array:
        """(end - begin, n)."""


@dataclass(frozen=True)
class DenseStripes(Stripes):
    """A matrix given by its entries."""

    values: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return self.values.shape[0], self.values.shape[1]

    def rows(self, begin: int, end: int) -> Array:
        return self.values[begin:end].to(torch.float64, copy=True).numpy()


@dataclass(frozen=True)
class PredictedStripes(Stripes):
    """A matrix that is stored as corrections of predictions from coarser grids; its first `columns` columns."""

    matrix: Predicted
    columns: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.matrix.shape[0], self.columns

    def rows(self, begin: int, end: int) -> Array:
        return self.matrix.rows(begin, end)[:, : self.columns]


@dataclass(frozen=True)
class Taken(Stripes):
    """A matrix with its columns in another order: column j is column take[j] of the one given."""

    matrix: Stripes
    take: Array

    @property
    def shape(self) -> tuple[int, int]:
        return self.matrix.shape

    def rows(self, begin: int, end: int) -> Array:
        return self.matrix.rows(begin, end)[:, self.take]


class TreeStripes(Stripes):
    """The leaves of a stored matrix, in its own order of rows and columns; its first `columns` columns."""

    def __init__(self, body: TreeBody, columns: int) -> None:
        self._body, self._columns = body, columns
        placed = [leaf for leaf in body.leaves if leaf.parts]
        shared: dict[tuple[int, bool], _Leaf] = {}  # copies of a leaf have its parts
        self._leaves = [shared.setdefault((id(leaf.parts), leaf.transposed), _Leaf(leaf)) for leaf in placed]
        bounds = [(leaf.block.r0, leaf.block.r1, leaf.block.c0, leaf.block.c1) for leaf in placed]
        self._bounds = np.array(bounds, np.int32).reshape(-1, 4)

    @property
    def shape(self) -> tuple[int, int]:
        return self._body.shape[0], self._columns

    def rows(self, begin: int, end: int) -> Array:
        values = np.zeros((end - begin, self._body.shape[1]))
        for i in np.flatnonzero((self._bounds[:, 0] < end) & (self._bounds[:, 1] > begin)):
            r0, r1, c0, c1 = self._bounds[i].tolist()
            first, last = max(r0, begin), min(r1, end)
            values[first - begin : last - begin, c0:c1] = self._leaves[i].rows(first - r0, last - r0)
        values *= self._body.step
        return values[:, : self._columns]


class _Leaf:
    """Any rows of a leaf, in steps."""

    def __init__(self, placed: PlacedLeaf) -> None:
        self._parts = [_stripes_of(part.t() if placed.transposed else part) for part in placed.parts]

    def rows(self, begin: int, end: int) -> Array:
        first, *others = (part.rows(begin, end) for part in self._parts)
        return sum(others, first)


class _Factors:
    def __init__(self, part: LowRank) -> None:
        self._part = part

    def rows(self, begin: int, end: int) -> Array:
        return self._part.left[begin:end] @ self._part.right.T


class _Integers:
    """A quantised part, in its basis."""

    def __init__(self, part: Remainder) -> None:
        self._part, self._basis = part, BASES[part.basis]

    def rows(self, begin: int, end: int) -> Array:
        q, basis = self._part.q, self._basis
        if q.size <= _SMALL:
            return self._part.dense()[begin:end]
        if -2 not in basis.axes:
            return basis.restore(q[begin:end])
        if basis.difference:
            x = np.cumsum(q[begin:end], 0, np.int64) + q[:begin].sum(0, dtype=np.int64)
            return np.cumsum(x, 1) if -1 in basis.axes else x
        along = replace(basis, axes=(-1,))  # orthonormal: the inverse of each is its transpose
        x = self._products(along.spread(np.eye(end - begin, len(q), begin)))
        return along.restore(x) if -1 in basis.axes else x

    def _products(self, left: Array) -> Array:
        """left (k, m) times the integers."""
        if self._sparse is not None:
            return left @ self._sparse
        q = self._part.q
        return sum(
            (left[:, i : i + _CHUNK] @ q[i : i + _CHUNK].astype(np.float64) for i in range(0, len(q), _CHUNK)),
            np.zeros((len(left), q.shape[1])),
        )

    @cached_property
    def _sparse(self) -> sparse.csr_array | None:
        q = self._part.q
        few = np.count_nonzero(q) < _SPARSE * q.size
        return sparse.csr_array(q, dtype=np.float64) if few else None


def _stripes_of(part: Part) -> _Factors | _Integers:
    if isinstance(part, LowRank):
        return _Factors(part)
    if not isinstance(part, Remainder):
        raise TypeError(f"{type(part).__name__} is no part of a leaf")
    return _Integers(part)
