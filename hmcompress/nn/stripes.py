"""A stored matrix some rows at a time: what a running form is made from, without the matrix ever being whole."""

from collections.abc import Callable
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


@dataclass(frozen=True)
class Stripes:
    """A matrix of `shape` (m, n) whose rows begin .. end (end - begin, n) can be asked for, in float64."""

    shape: tuple[int, int]
    rows: Callable[[int, int], Array]

    def taken(self, columns: Array) -> "Stripes":
        """With its columns in another order: column j is column columns[j] of this one."""
        return Stripes(self.shape, lambda begin, end: self.rows(begin, end)[:, columns])

    def shown(self, to: Callable[[int, Array], None]) -> "Stripes":
        """The same, which shows its rows to somebody else too, each once in a pass."""

        def rows(begin: int, end: int) -> Array:
            found = self.rows(begin, end)
            to(begin, found)
            return found

        return Stripes(self.shape, rows)


def dense_stripes(values: Tensor) -> Stripes:
    """A matrix given by its entries."""
    m, n = values.shape
    return Stripes((m, n), lambda begin, end: values[begin:end].to(torch.float64, copy=True).numpy())


def predicted_stripes(found: Predicted, columns: int) -> Stripes:
    """A matrix that is stored as corrections of predictions from coarser grids; its first `columns` columns."""
    return Stripes((found.shape[0], columns), lambda begin, end: found.rows(begin, end)[:, :columns])


def tree_stripes(body: TreeBody, columns: int) -> Stripes:
    """The leaves of a stored matrix, in its own order of rows and columns; its first `columns` columns."""
    tree = _Tree(body)
    return Stripes((body.shape[0], columns), lambda begin, end: tree.rows(begin, end)[:, :columns])


class _Tree:
    """Any rows of a matrix of leaves."""

    def __init__(self, body: TreeBody) -> None:
        self._body = body
        placed = [leaf for leaf in body.leaves if leaf.parts]
        shared: dict[tuple[int, bool], _Leaf] = {}  # copies of a leaf have its parts
        self._leaves = [shared.setdefault((id(leaf.parts), leaf.transposed), _Leaf(leaf)) for leaf in placed]
        bounds = [(leaf.block.r0, leaf.block.r1, leaf.block.c0, leaf.block.c1) for leaf in placed]
        self._bounds = np.array(bounds, np.int32).reshape(-1, 4)

    def rows(self, begin: int, end: int) -> Array:
        values = np.zeros((end - begin, self._body.shape[1]))
        for i in np.flatnonzero((self._bounds[:, 0] < end) & (self._bounds[:, 1] > begin)):
            r0, r1, c0, c1 = self._bounds[i].tolist()
            first, last = max(r0, begin), min(r1, end)
            values[first - begin : last - begin, c0:c1] = self._leaves[i].rows(first - r0, last - r0)
        values *= self._body.step
        return values


class _Leaf:
    """Any rows of a leaf, in steps."""

    def __init__(self, placed: PlacedLeaf) -> None:
        self._parts = [_rows_of(part.t() if placed.transposed else part) for part in placed.parts]

    def rows(self, begin: int, end: int) -> Array:
        first, *others = (rows(begin, end) for rows in self._parts)
        return sum(others, first)


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


def _rows_of(part: Part) -> Callable[[int, int], Array]:
    if isinstance(part, LowRank):
        return lambda begin, end: part.left[begin:end] @ part.right.T
    if not isinstance(part, Remainder):
        raise TypeError(f"{type(part).__name__} is no part of a leaf")
    return _Integers(part).rows
