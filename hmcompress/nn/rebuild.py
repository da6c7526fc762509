"""From the leaves of a stored matrix to the form that runs fastest, without a dense matrix on the way.

The tree that is best for storing has small leaves of many kinds; the one that is best for running has few levels of
equal blocks. Every block of the second is factored by products with the first, and the ranks of the levels are those
that reach the tolerance with the fewest numbers.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from hmcompress.hmatrix import HMatrix
from hmcompress.hmatrix.blocks import Block
from hmcompress.hmatrix.bodies import QuantizedBody
from hmcompress.hmatrix.codecs import INTERPOLATED
from hmcompress.hmatrix.order import Order, Permuted
from hmcompress.hmatrix.tree import TreeBody
from hmcompress.nn.blocks import DenseMatrix, Gathered, Matrix, TreeMatrix
from hmcompress.nn.factors import BlockFactors, factor
from hmcompress.nn.grid import Grid
from hmcompress.nn.interpolation import interpolated_matrix
from hmcompress.nn.linear import HLinear, LowRankLinear

Array = np.ndarray
_SPREAD = 0.25  # share of the budget that the sketches together may miss
_NEAR = 1.5  # times the fewest numbers that a hierarchy of fewer levels may have,
_FEW = 0.15  # or this share of the dense ones: for one vector each level costs more than its numbers
_CUTS = 3
_LARGE = 16  # ranks from which they grow
_LANES = 8  # by as many as a processor multiplies at once: 34 take the time of 40
_PAIR = 0.4  # a pair of factors beside a hierarchy may have as many numbers as this share of the dense ones
_TIMES = 8  # or so many times the hierarchy's: its sketch would take more memory than the dense matrix
_WORTH_IT = 0.6  # a form with more numbers than this share of the dense ones is no gain


@dataclass(frozen=True)
class Form:
    """A module that runs, and its measured relative Frobenius error against the stored matrix."""

    module: nn.Module
    error: float


@dataclass(frozen=True)
class Ordered:
    """A matrix in an order of its rows and columns, None where it is the original one."""

    matrix: Matrix
    rows: Tensor | None = None
    columns: Tensor | None = None
    bias: Tensor | None = None


def running_forms(stored: Ordered, tol: float, dtype: torch.dtype) -> list[Form]:
    """Every form with fewer numbers than the dense matrix whose relative Frobenius error is at most `tol`.

    A pair of factors may be as fast as a hierarchy of far fewer numbers.
    """
    trees = hierarchical(stored, tol, dtype)
    m, n = stored.matrix.shape
    most = min(_PAIR * m * n, _TIMES * _numbers(trees[0])) if trees else _WORTH_IT * m * n
    pair = low_rank(stored, tol, dtype, int(most / (m + n)))
    return [*trees, *([] if pair is None else [pair])]


def read(payload: bytes | memoryview, shape: tuple[int, int], dtype: torch.dtype, has_bias: bool) -> Ordered | None:
    """The payload of a (m, n) matrix as `ordered` gives it; where it can be had without its entries, without them.

    Raises FormatError.
    """
    if payload[:1] == bytes([INTERPOLATED]):
        found = interpolated_matrix(bytes(payload[1:]), shape, shape[1] - has_bias)
        if found is not None:
            return Ordered(found, bias=torch.from_numpy(found.last_column()) if has_bias else None)
    return ordered(HMatrix.from_payload(payload, shape, dtype), has_bias)


def ordered(stored: HMatrix, has_bias: bool = False) -> Ordered | None:
    """The leaves of a stored matrix; its last column is the bias where `has_bias`. None where it is stored as it was.

    A body without leaves holds every entry as it is decoded: nothing is expanded by using them.
    """
    body = stored.body
    if isinstance(body, QuantizedBody):
        weight = body.to_dense()
        return from_dense(weight[:, :-1], weight[:, -1].double()) if has_bias else from_dense(weight)
    if not isinstance(body, TreeBody):
        return None
    columns = body.shape[1] - has_bias
    if has_bias and isinstance(body.columns, Permuted):
        return None
    bias = body.matmul(torch.eye(body.shape[1], dtype=torch.float64)[:, -1:])[:, 0] if has_bias else None
    return Ordered(TreeMatrix(body, columns), _permutation(body.rows), _permutation(body.columns), bias)


def from_dense(weight: Tensor, bias: Tensor | None = None) -> Ordered:
    """A matrix given by its entries, in the order that it has."""
    return Ordered(DenseMatrix(weight.detach().cpu().double().numpy()), bias=bias)


def _permutation(order: Order) -> Tensor | None:
    return torch.from_numpy(order.permutation.astype(np.int64)) if isinstance(order, Permuted) else None


def low_rank(stored: Ordered, tol: float, dtype: torch.dtype, limit: int) -> Form | None:
    """The matrix as one pair of factors of rank at most `limit`, or None."""
    matrix = stored.matrix
    m, n = matrix.shape
    whole = matrix.whole()
    energy = matrix.energy(whole)
    found = factor(matrix, whole, _SPREAD * tol**2 * energy, 2 * limit)  # a sketch that misses little is wider
    if found is None or energy == 0:
        return None
    tails = found.tails()
    rank = int(np.argmax(tails <= tol**2 * energy)) or 1
    if rank > limit or tails[rank] > tol**2 * energy:
        return None
    left, right = found.truncated(rank)
    module = LowRankLinear(n, m, rank, stored.bias is not None, dtype=dtype)
    _fill(module.left, _restored(torch.from_numpy(left), stored.rows).T)
    _fill(module.right, _restored(torch.from_numpy(right), stored.columns))
    _fill_bias(module, stored)
    return Form(module, math.sqrt(tails[rank] / energy))


def _restored(x: Tensor, order: Tensor | None) -> Tensor:
    return x if order is None else x[torch.argsort(order)]


def hierarchical(stored: Ordered, tol: float, dtype: torch.dtype) -> list[Form]:
    """The matrix as HLinear, the one with the fewest numbers first, then those of fewer levels that have few more.

    Empty where every one takes too many numbers.
    """
    found = [_hierarchical(order, tol, dtype) for order in (stored, *_paired(stored))]
    return min(found, key=lambda forms: _numbers(forms[0]) if forms else math.inf)


def _numbers(form: Form) -> int:
    return sum(p.numel() for p in form.module.parameters())


def _paired(stored: Ordered) -> Iterator[Ordered]:
    """A square matrix with its columns in the order of its rows.

    Each is stored in the order that suits it, and these hardly ever differ by halves exchanged alone. Where rows and
    columns are the same points, one order for both brings all large entries to the diagonal.
    """
    m, n = stored.matrix.shape
    if m != n or stored.rows is None or stored.columns is None:
        return
    grid = Grid.of(stored.matrix.shape)
    take = torch.argsort(stored.columns)[stored.rows].numpy()
    yield replace(stored, matrix=Gathered(stored.matrix, take, (grid.m, grid.n)), columns=stored.rows)


def _hierarchical(stored: Ordered, tol: float, dtype: torch.dtype) -> list[Form]:
    matrix = stored.matrix
    grid = Grid.of(matrix.shape).aligned(matrix)
    energy = matrix.energy(matrix.whole())
    if grid.levels == 0 or energy == 0:
        return []
    levels = _factor_levels(matrix, grid, tol**2 * energy)
    if levels is None:
        return []
    forms = []
    for cut, ranks in _cuts(grid, levels, tol**2 * energy):
        missed = sum(_tail(level, rank) for level, rank in zip(levels, ranks, strict=False))
        forms.append(Form(_filled(stored, cut, levels, ranks, dtype), math.sqrt(missed / energy)))
    return forms


Level = list[BlockFactors]  # the blocks beside the diagonal of a level, by rows


def _factor_levels(matrix: Matrix, grid: Grid, budget: float) -> list[Level] | None:
    levels: list[Level] = []
    limit, spent = int(_WORTH_IT * math.prod(matrix.shape) / sum(matrix.shape)), 0
    for level in range(1, grid.levels + 1):
        share = budget / grid.levels
        blocks = [grid.block(level, i, i ^ 1) for i in range(2**level)]
        factors = [_factor(matrix, block, _SPREAD * share / len(blocks), limit - spent) for block in blocks]
        found = [f for f in factors if f is not None]
        if len(found) < len(blocks):
            return None
        levels.append(found)
        spent += next(r for r in range(10**9) if _tail(found, r) <= share or r >= _full(found))
        if spent > limit:
            return None
    return levels


def _factor(matrix: Matrix, block: Block, budget: float, limit: int) -> BlockFactors | None:
    if not all(block.shape):
        return BlockFactors(np.zeros((block.shape[0], 0)), np.zeros(0), np.zeros((block.shape[1], 0)), 0.0)
    return factor(matrix, block, budget, limit)


def _full(level: Level) -> int:
    return max(len(f.values) for f in level)


def _tail(level: Level, rank: int) -> float:
    """Squared error of a level whose blocks all have this rank."""
    return sum(float(f.tails()[min(rank, len(f.values))]) for f in level)


def _ranks(levels: list[Level], budget: float) -> list[int]:
    """The ranks with the smallest sum whose squared errors stay within the budget.

    A rank costs the same in every level and gains less the more there are, so taking the largest gain first is best.
    Large ranks grow by as many as a processor multiplies at once.
    """
    tails = [[_tail(level, r) for r in range(_full(level) + 1)] for level in levels]
    ranks = [0] * len(levels)
    while sum(t[r] for t, r in zip(tails, ranks, strict=True)) > budget:
        further = [min(r + (1 if r < _LARGE else _LANES), len(t) - 1) for t, r in zip(tails, ranks, strict=True)]
        gains = [
            (t[r] - t[f]) / max(1, f - r) if f > r else -1.0 for t, r, f in zip(tails, ranks, further, strict=True)
        ]
        best = int(np.argmax(gains))
        if gains[best] < 0:
            break
        ranks[best] = further[best]
    return ranks


def _cuts(grid: Grid, levels: list[Level], budget: float) -> list[tuple[Grid, list[int]]]:
    """The first levels of a hierarchy with a leaf for the others: the fewest numbers first, and those near them."""
    cuts = [grid.merged(k) for k in range(1, grid.levels + 1)]
    options = [(cut, _ranks(levels[: cut.levels], budget)) for cut in cuts if cut.is_tight]
    numbers = [cut.numbers(ranks) for cut, ranks in options]
    dense = math.prod(grid.shape)
    most = min(max(_NEAR * min(numbers), _FEW * dense), _WORTH_IT * dense)
    order = [k for k in np.argsort(numbers, kind="stable") if numbers[k] <= most]
    return [options[k] for k in order[:_CUTS]]


def _filled(stored: Ordered, grid: Grid, levels: list[Level], ranks: list[int], dtype: torch.dtype) -> HLinear:
    m, n = stored.matrix.shape
    has_bias = stored.bias is not None
    columns = grid.columns(stored.columns)
    module = HLinear(n, m, ranks, has_bias, rows=stored.rows, columns=columns, dtype=dtype)
    with torch.no_grad():
        for (right, left), rank, level in zip(module.by_leaves(), ranks, levels, strict=False):
            _place(right, left, grid, level, rank)
        for i, leaf in enumerate(module.leaves()):
            dense = torch.from_numpy(stored.matrix.dense(grid.block(grid.levels, i, i)))
            leaf[: dense.shape[1], : dense.shape[0]] = dense.T
    _fill_bias(module, stored)
    return module


def _place(right: Tensor, left: Tensor, grid: Grid, level: Level, rank: int) -> None:
    """Write the factors of a level, leaf by leaf. Block i multiplies the columns of range i ^ 1."""
    leaves = right.shape[1]
    for i, block in enumerate(level):
        factors = (torch.from_numpy(values) for values in block.truncated(rank))
        rows, columns = (f.split(size) for f, size in zip(factors, (grid.m, grid.n), strict=True))
        for k, part in enumerate(rows):
            left[i, k, :, : len(part)] = part.T
        for place in range(leaves):  # the leaves of a range stand in the grid's order, the factor's do not
            k = grid.leaves[(i ^ 1) * leaves + place] % leaves
            if k < len(columns):
                right[i ^ 1, place, : len(columns[k])] = columns[k]


def _fill(parameter: Tensor, values: Tensor) -> None:
    with torch.no_grad():
        parameter.copy_(values)


def _fill_bias(module: HLinear | LowRankLinear, stored: Ordered) -> None:
    if stored.bias is not None and module.bias is not None:
        _fill(module.bias, stored.bias)
