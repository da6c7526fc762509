"""A matrix as a nested hierarchy of low-rank blocks, from two passes over its rows.

The basis of a range of rows spans its blocks off the diagonal, all of them together, up to the tolerance; it comes from
their Gram matrix, which a first pass sums up, and that of a range of columns likewise. A second pass multiplies with
both. As the bases are orthonormal, what they miss is a difference of energies, measured and not estimated.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from hmcompress.nn.pair import Pair, Projection, Sketch
from hmcompress.nn.stripes import Stripes, dense_stripes

Array = np.ndarray
_LEAF = 24  # rows and columns of the smallest leaves
_FINER = (1, 2, 4)  # into how many parts the largest blocks of a level may be cut
_LONGEST = 1024  # rows or columns of a block: the time for its bases grows with their cube, of lengthy matrices alone
_SHARE = 0.6  # of what may still be missed that a level may miss
_LANES = 16  # rows and columns by which blocks are larger in time than in numbers
_FURTHER = 20  # numbers that what a level leaves takes, for each of its rows and columns and each of their rank
_ROUNDING = 2.0**-50  # of the energy: where differences of energies end
_SAMPLE = 2  # rows of each leaf that tell where its large blocks are
_PAIR = 0.4  # a pair of factors beside a hierarchy may have as many numbers as this share of the dense ones
_TIMES = 8  # or so many times the hierarchy's
_WORTH_IT = 0.6  # a form with more numbers than this share of the dense ones is no gain


@dataclass(frozen=True)
class Cut:
    """A matrix cut into groups x groups blocks of (m, n); the last ones may reach beyond its edge."""

    groups: int
    m: int
    n: int

    @classmethod
    def of(cls, shape: tuple[int, int]) -> "Cut":
        """With leaves of _LEAF to 2 * _LEAF rows or columns, whichever are fewer."""
        groups = 2 ** max(0, int(math.log2(max(1, min(shape) / _LEAF))))
        return cls(groups, *(-(-side // groups) for side in shape))

    def coarser(self, times: int) -> "Cut":
        """With `times` as large blocks."""
        return Cut(self.groups // times, self.m * times, self.n * times)

    def finer(self) -> tuple[int, ...]:
        """Into how many parts the largest blocks whose bases take little time may be cut; none where all take long."""
        return tuple(times for times in _FINER if times * max(self.m, self.n) <= _LONGEST)


class Bases(NamedTuple):
    """Orthonormal columns for each range of rows (groups, m, outward) and of columns (groups, n, inward)."""

    left: Array
    right: Array


@dataclass(frozen=True)
class Grams:
    """Of a matrix in blocks: those on the diagonal (groups, m, n), and the Gram matrices of its rows (groups, m, m) and
    of its columns (groups, n, n)."""

    near: Array
    rows: Array
    columns: Array

    @classmethod
    def of(cls, matrix: Stripes, cut: Cut) -> "Grams":
        """One pass."""
        near, rows = np.empty((cut.groups, cut.m, cut.n)), np.empty((cut.groups, cut.m, cut.m))
        columns = np.zeros((cut.groups, cut.n, cut.n))
        for i in range(cut.groups):
            stripe, blocks = _blocks(matrix, cut, i)
            near[i], rows[i] = blocks[i], stripe @ stripe.T
            columns += blocks.transpose(0, 2, 1) @ blocks
        return cls(near, rows, columns)

    def energy(self) -> float:
        """The squared norm of the matrix."""
        return float(np.trace(self.rows, axis1=1, axis2=2).sum())

    def levels(self, times: int, budget: float) -> Iterator["NestedLevel"]:
        """The matrix in `times` as many blocks, by bases that miss a squared error of at most `budget` together; as the
        last level, and as one that leaves a share of it to further ones."""
        near = _diagonal(self.near, times)
        energy = self.energy() - float(np.square(near).sum())
        left = _bases(_diagonal(self.rows, times) - near @ near.transpose(0, 2, 1), budget / 2)
        right = _bases(_diagonal(self.columns, times) - near.transpose(0, 2, 1) @ near, budget / 2)
        for is_last, bases in zip((True, False), map(Bases, left, right), strict=True):
            yield NestedLevel(near, bases, energy, is_last)


@dataclass(frozen=True)
class NestedLevel:
    """One level: its diagonal blocks (groups, m, n), its bases, and the squared norm of all other blocks."""

    near: Array
    bases: Bases
    energy: float
    is_last: bool

    def cost(self) -> float:
        """About how many numbers, in large products, take the time of this level and what follows."""
        (groups, m, n), (_, _, outward), (_, _, inward) = self.near.shape, *(basis.shape for basis in self.bases)
        products = ((m, n), (m, outward), (n, inward))
        own = groups * sum((a + _LANES) * (b + _LANES) for a, b in products)
        return own + groups * outward * inward * (groups if self.is_last else _FURTHER)

    def far(self, product: Array) -> float:
        """Clear the diagonal blocks of the matrix's product with the bases, which is what the level leaves; the squared
        error of the level."""
        (groups, _, outward), inward = self.bases.left.shape, self.bases.right.shape[2]
        product.reshape(groups, outward, groups, inward)[np.arange(groups), :, np.arange(groups)] = 0
        return max(self.energy - float(np.vdot(product, product)), 0.0)


@dataclass(frozen=True)
class Nested:
    """The levels, finest first, what the last one leaves, and the squared error of all."""

    levels: tuple[NestedLevel, ...]
    top: Array
    missed: float

    def numbers(self) -> int:
        """As many as it holds."""
        return self.top.size + sum(part.size for level in self.levels for part in (level.near, *level.bases))


def aligned(matrix: Stripes) -> Array | None:
    """An order of the columns that brings large blocks to the diagonal by exchanging halves; None where there is none.

    Rows and columns are ordered apart from each other, so that a range of columns may lie opposite its rows.
    """
    cut = Cut.of(matrix.shape)
    if (cut.groups * cut.m, cut.groups * cut.n) != matrix.shape:
        return None
    middles = range(cut.m // 2, matrix.shape[0], cut.m)
    sampled = (np.square(matrix.rows(r, r + _SAMPLE)).sum(0) for r in middles)
    energies = np.stack([row.reshape(cut.groups, cut.n).sum(1) for row in sampled])
    order = np.array(_paired(energies, 0, list(range(cut.groups))))
    return None if (np.diff(order) == 1).all() else (order[:, None] * cut.n + np.arange(cut.n)).reshape(-1)


def _paired(energies: Array, first_row: int, columns: list[int]) -> list[int]:
    """The ranges of columns in the order that pairs them with those of the rows from first_row on."""
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


def nested(matrix: Stripes, tol: float) -> tuple[Nested | None, Pair | None, float]:
    """The hierarchy and the pair of factors of relative Frobenius error at most `tol` that have few numbers, if there
    are such, and the squared norm of the matrix."""
    sketch = Sketch.of(matrix.shape)
    level, energy = _first_level(matrix.shown(sketch.add), tol)
    budget, dense = tol**2 * energy, math.prod(matrix.shape)
    if budget <= _ROUNDING * energy:
        return None, None, energy
    projection = Projection.of(sketch)
    del sketch
    tapped, hierarchy = matrix.shown(projection.add), None
    if level is not None:
        hierarchy = _hierarchy(level, _product(tapped, level.bases), budget)
        hierarchy = hierarchy if hierarchy.numbers() <= _WORTH_IT * dense else None
    else:
        _energy(tapped)
    most = _WORTH_IT * dense if hierarchy is None else min(_PAIR * dense, _TIMES * hierarchy.numbers())
    return hierarchy, projection.pair(energy, budget, int(most / sum(matrix.shape))), energy


def _first_level(matrix: Stripes, tol: float) -> tuple[NestedLevel | None, float]:
    """The level of smallest blocks, if one is worth it, and the squared norm of the matrix: one pass."""
    cut = Cut.of(matrix.shape)
    if not (finer := cut.finer()):
        return None, _energy(matrix)
    grams = Grams.of(matrix, cut.coarser(min(finer[-1], cut.groups)))
    energy = grams.energy()
    budget = tol**2 * energy
    return (_best(grams, budget, finer) if budget > _ROUNDING * energy else None), energy


def _energy(matrix: Stripes) -> float:
    """The squared norm of a matrix: one pass."""
    m, step = matrix.shape[0], Cut.of(matrix.shape).m
    return sum(float(np.square(matrix.rows(begin, min(begin + step, m))).sum()) for begin in range(0, m, step))


def _best(grams: Grams, budget: float, finer: tuple[int, ...] = _FINER) -> NestedLevel | None:
    """The level that costs least, with blocks of some size, the last one or not; None where the matrix as it is costs
    no more."""
    groups, m, n = grams.near.shape
    best, least = None, float(groups * m * groups * n)
    for times in finer:
        if m % times == 0 and n % times == 0 and groups * times > 1:
            for level in grams.levels(times, budget):
                if level.cost() < least:
                    best, least = level, level.cost()
    return best


def _hierarchy(level: NestedLevel, product: Array, budget: float) -> Nested:
    """A level and all further ones, given the matrix's product with its bases."""
    levels, missed = [level], level.far(product)
    while len(level.near) > 2 and not level.is_last:
        groups, outward, inward = len(level.near), level.bases.left.shape[2], level.bases.right.shape[2]
        matrix = dense_stripes(torch.from_numpy(product))
        cut = Cut(groups // 2, 2 * outward, 2 * inward).coarser(min(_FINER[-1], groups // 4))
        further = _best(Grams.of(matrix, cut), budget - missed)
        if further is None:
            break
        level, product = further, _product(matrix, further.bases)
        levels.append(level)
        missed += level.far(product)
    return Nested(tuple(levels), product, missed)


def _product(matrix: Stripes, bases: Bases) -> Array:
    """left^T matrix right: one pass."""
    left, right = bases
    groups, m, outward = left.shape
    product = np.empty((groups, outward, groups, right.shape[2]))
    for i in range(groups):
        _, blocks = _blocks(matrix, Cut(groups, m, right.shape[1]), i)
        product[i] = (left[i].T @ blocks @ right).transpose(1, 0, 2)
    return product.reshape(groups * outward, -1)


def _blocks(matrix: Stripes, cut: Cut, i: int) -> tuple[Array, Array]:
    """A range of rows (m, groups * n), zero beyond the matrix's edge, and a view of the blocks (groups, m, n) in it."""
    (m, n), begin = matrix.shape, i * cut.m
    rows = matrix.rows(begin, min(begin + cut.m, m)) if begin < m else np.zeros((0, n))
    missing = (cut.m - len(rows), cut.groups * cut.n - n)
    if any(missing):
        rows = np.pad(rows, ((0, missing[0]), (0, missing[1])))
    return rows, rows.reshape(cut.m, cut.groups, cut.n).transpose(1, 0, 2)


def _diagonal(blocks: Array, times: int) -> Array:
    """The diagonal of each block (groups, m, n) in `times` parts: (groups * times, m / times, n / times)."""
    groups, m, n = blocks.shape
    parts, i = blocks.reshape(groups, times, m // times, times, n // times), np.arange(times)
    return parts[:, i, :, i].transpose(1, 0, 2, 3).reshape(groups * times, m // times, n // times)


def _bases(grams: Array, budget: float) -> list[Array]:
    """The leading eigenvectors of each, as many for all, such that the eigenvalues of the others sum up to `budget`,
    and to a share of it."""
    values, vectors = np.linalg.eigh(grams)
    tails = np.append(0, np.cumsum(np.maximum(values, 0).sum(0)))  # of the smallest 0, 1, ...
    ranks = [max(1, len(tails) - int(np.searchsorted(tails, b, "right"))) for b in (budget, _SHARE * budget)]
    leading = np.ascontiguousarray(vectors[:, :, : -ranks[1] - 1 : -1])
    return [leading[:, :, :rank] for rank in ranks]
