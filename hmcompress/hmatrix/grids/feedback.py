"""Two-sided quantisation with feedback in a metric ||R^T (W - Q) L||, where L L^T and R R^T are second moments.

Successive interference cancellation, that is Babai's nearest plane: the rule of GPTQ with a step for each row and
column that makes every rounding cost the same (step of entry i, j: delta / (R_ii L_jj)), columns of small pivots first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hmcompress.hmatrix.grids.factors import Factor
from hmcompress.hmatrix.grids.grid import Grid, half_octaves, whole_exponents
from hmcompress.hmatrix.grids.kernels import kronecker_nearest_plane

_MOST_AT_ONCE, _TILE = 2e9, 64  # multiplications that are done entry by entry; sides of the tiles of larger matrices
_MOST_OF_ROWS = 2e8  # the same of rows by themselves
_EVEN = 1e-3  # smallest over largest pivot


def quantise(
    w: np.ndarray, columns: Factor, rows: Factor, delta: float, dead_zone: float, vector: bool = False
) -> Grid:
    """Quantise w (m, n) so that the error in the metric of the two factors is about delta^2 / 12 an entry.

    vector: on average over its rows, where steps of their own would take more bits than they save.
    """
    column_exponents = half_octaves(delta / columns.pivots)
    row_exponents = half_octaves(1 / np.maximum(rows.pivots, np.finfo(np.float64).tiny))  # of what nothing reads, 0
    if vector and _saves(rows.pivots) < _entropy(row_exponents):
        row_exponents = half_octaves(np.full(len(w), 1 / _size(rows.pivots)))
    return Grid(
        _nearest(w, columns, rows, column_exponents, row_exponents, dead_zone),
        row_exponents[np.argsort(rows.order)],
        column_exponents[np.argsort(columns.order)],
    )


@dataclass(frozen=True)
class Part:
    """Columns of a matrix whose error is weighed apart from that of the others, in the metric of two factors."""

    columns: np.ndarray  # (k,) places
    rows_factor: Factor
    columns_factor: Factor


def quantise_apart(w: np.ndarray, parts: Sequence[Part], delta: float, dead_zone: float) -> Grid:
    """Quantise w (m, n), each of its parts with feedback in a metric of its own; together these are all columns.

    A row has one step in all parts: the geometric mean of those that they ask for, as the grid has one for each row.
    """
    asked = np.stack([-2 * np.log2(part.rows_factor.pivots)[np.argsort(part.rows_factor.order)] for part in parts])
    mean = asked.mean(0)
    row_exponents = whole_exponents(mean)
    q, column_exponents = np.zeros(w.shape, np.int32), np.zeros(w.shape[1], np.int64)
    for part, own in zip(parts, asked, strict=True):
        rows, columns = part.rows_factor, part.columns_factor
        level = delta * 2.0 ** ((own - row_exponents).mean() / 2)
        exponents = half_octaves(level / columns.pivots)
        q[:, part.columns] = _nearest(
            w[:, part.columns], columns, rows, exponents, row_exponents[rows.order], dead_zone
        )
        column_exponents[part.columns[columns.order]] = exponents
    return Grid(q, row_exponents, column_exponents)


def _nearest(
    w: np.ndarray, columns: Factor, rows: Factor, column_exponents: np.ndarray, row_exponents: np.ndarray, zone: float
) -> np.ndarray:
    """Integers (m, n) of w by the nearest plane; exponents in the order of the factors."""
    m, n = w.shape
    ordered = np.ascontiguousarray(w[np.ix_(rows.order, columns.order)])
    given = ordered, columns.matrix, rows, 2.0 ** (column_exponents / 2), 2.0 ** (row_exponents / 2), zone
    if rows.is_diagonal and m > _TILE and m * n * n <= _MOST_OF_ROWS:
        q = _each_by_itself(*given)
    elif m * n * (m + n) <= _MOST_AT_ONCE:
        q = _at_once(*given)
    else:
        q = nearest_plane_in_tiles(*given)
    return _unpermute(q, rows.order, columns.order)


def _at_once(
    w: np.ndarray, lower: np.ndarray, rows: Factor, column_steps: np.ndarray, row_steps: np.ndarray, zone: float
) -> np.ndarray:
    q, _ = kronecker_nearest_plane(w, lower, rows.matrix, column_steps, row_steps, zone, np.zeros(w.shape))
    return q


def _each_by_itself(
    w: np.ndarray, lower: np.ndarray, rows: Factor, column_steps: np.ndarray, row_steps: np.ndarray, zone: float
) -> np.ndarray:
    """Of rows with errors that weigh apart."""
    q = np.zeros(w.shape, np.int32)
    for begin in range(0, len(w), _TILE):
        tile = slice(begin, begin + _TILE)
        some = Factor(np.arange(len(w[tile])), rows.lower[tile])
        q[tile] = _at_once(np.ascontiguousarray(w[tile]), lower, some, column_steps, row_steps[tile], zone)
    return q


def in_order(w: np.ndarray, lower: np.ndarray, steps: np.ndarray, zone: float) -> np.ndarray:
    """Integers of w (m, P), each row by itself; columns and steps in the order of the factor lower (P, P)."""
    carried = np.zeros(w.shape)  # lower^T times the errors so far
    q = np.zeros(w.shape, np.int64)
    for j in range(w.shape[1] - 1, -1, -1):
        t = (w[:, j] + carried[:, j] / lower[j, j]) / steps[j]
        q[:, j] = np.sign(t) * np.floor(np.abs(t) + 0.5 - zone)
        carried[:, : j + 1] += lower[j, : j + 1] * (w[:, j] - q[:, j] * steps[j])[:, None]
    return q


def nearest_plane_in_tiles(
    w: np.ndarray, lower: np.ndarray, rows: Factor, column_steps: np.ndarray, row_steps: np.ndarray, zone: float
) -> np.ndarray:
    """As kronecker_nearest_plane, up to the rounding of sums: an entry waits for those of later rows and columns only,
    so what leaves a tile reaches the others as a product of matrices. rows: whose order w (m, n) has."""
    m, n = w.shape
    single = np.float32 if _even(np.diag(lower)) and _even(rows.pivots) else np.float64
    errors, q = np.zeros((m, n), single), np.zeros((m, n), np.int32)
    below, across = lower.astype(single, copy=False), rows.lower.T.astype(single, order="C", copy=False)
    for begin in range(_last(n), -1, -_TILE):
        block = slice(begin, min(begin + _TILE, n))
        inner = np.ascontiguousarray(lower[block, block])
        arrived = errors[:, block.stop :] @ below[block.stop :, block]
        pending = across[:, None] * arrived if rows.is_diagonal else across @ arrived
        for first in range(_last(m), -1, -_TILE):
            tile = slice(first, min(first + _TILE, m))
            if not rows.is_diagonal:
                pending[tile] += across[tile, tile.stop :] @ (errors[tile.stop :, block] @ below[block, block])
            q[tile, block], errors[tile, block] = kronecker_nearest_plane(
                np.ascontiguousarray(w[tile, block]),
                inner,
                rows.block(tile),
                column_steps[block],
                row_steps[tile],
                zone,
                pending[tile].astype(np.float64),
            )
    return q


def _even(pivots: np.ndarray) -> bool:
    """Whether they are so alike that sums of errors over them may be in single precision."""
    return bool(pivots.min() > _EVEN * pivots.max())


def _last(size: int) -> int:
    """Where the last tile begins."""
    return (size - 1) // _TILE * _TILE


def _size(pivots: np.ndarray) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(pivots))))


def _saves(pivots: np.ndarray) -> float:
    """Bits an entry that steps of their own save."""
    return float(np.log2(_size(pivots)) - np.log2(pivots).mean())


def _entropy(exponents: np.ndarray) -> float:
    """Bits for each of some integers."""
    shares = np.unique(exponents, return_counts=True)[1] / len(exponents)
    return float(-(shares * np.log2(shares)).sum())


def _unpermute(q: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    original = np.empty_like(q)
    original[np.ix_(rows, columns)] = q
    return original
