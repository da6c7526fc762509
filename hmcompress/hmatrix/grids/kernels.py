"""Loops that cannot be vectorised, compiled by numba. Only encoders import this module: decoding needs no compiler."""

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def kronecker_nearest_plane(
    w: np.ndarray,
    lower: np.ndarray,
    right: np.ndarray,
    column_steps: np.ndarray,
    row_steps: np.ndarray,
    zone: float,
    left: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Integers q (m, n) with q * row_steps * column_steps near w in the norm ||right^T (w - q) lower||_F, and errors.

    Babai's nearest plane in the lattice of the Kronecker product: last column and last row first, each entry rounded
    to what cancels the error that the entries before it have left. `zone` (0 to 0.5) widens the bin of zero.
    lower: (n, n), right: (m, m), lower triangular; column_steps: (n,); row_steps: (m,). left: (m, n) what entries of a
    larger matrix have left, of which w is a tile.
    """
    m, n = w.shape
    errors = np.zeros((n, m))
    q = np.zeros((m, n), np.int32)
    columns = np.ascontiguousarray(right.T)
    carried = np.zeros(m)  # (errors @ lower) of the column at hand, from the columns done
    for j in range(n - 1, -1, -1):
        carried[:] = 0.0
        for k in range(j + 1, n):
            factor = lower[k, j]
            if factor != 0.0:
                for i in range(m):
                    carried[i] += factor * errors[k, i]
        pivot = lower[j, j]
        for i in range(m - 1, -1, -1):
            pending = left[i, j]
            for k in range(i, m):
                pending += columns[i, k] * carried[k]
            step = row_steps[i] * column_steps[j]
            scaled = (w[i, j] + pending / (right[i, i] * pivot)) / step
            size = np.floor(abs(scaled) + 0.5 - zone)
            value = size if scaled > 0 else -size
            value = min(max(value, -(2.0**30)), 2.0**30)
            if size > 0:
                q[i, j] = int(value)
            error = w[i, j] - q[i, j] * step
            errors[j, i] = error
            carried[i] += pivot * error
    return q, errors.T


@njit(cache=True, nogil=True)
def aimed_cholesky(
    moment: np.ndarray, cross: np.ndarray, share: float, least: float
) -> tuple[np.ndarray, np.ndarray, int]:
    """Cholesky factor of a moment (n, n) whose pivots explain the most of a target.

    cross: (m, n), the target times the moment. The next pivot is the column with the largest product of explained
    energy ^ (1 - share) and remaining variance ^ share, as orthogonal least squares chooses regressors where share is
    0 and complete pivoting where it is 1. Stops where no variance above `least` remains; returns the order, the rows of
    the factor in the moment's own order, and the rank.
    """
    n, m = moment.shape[0], cross.shape[0]
    c, b = moment.copy(), cross.T.copy()  # b: a row of m for each column, which is what the loops run along
    lower = np.zeros((n, n))
    order = np.zeros(n, np.int64)
    left = np.ones(n, np.bool_)
    for k in range(n):
        best, pivot = -np.inf, -1
        for j in range(n):
            if left[j] and c[j, j] > least:
                energy = 1e-300
                for i in range(m):
                    energy += b[j, i] * b[j, i]
                score = (1 - share) * np.log(energy / c[j, j]) + share * np.log(c[j, j])
                if score > best:
                    best, pivot = score, j
        if pivot < 0:
            order[k:] = np.flatnonzero(left)
            return order, lower, k
        order[k], left[pivot] = pivot, False
        variance = c[pivot, pivot]
        column, aim = c[pivot].copy(), b[pivot].copy()
        lower[pivot, k] = np.sqrt(variance)
        for j in range(n):
            if left[j]:
                factor = column[j] / variance
                lower[j, k] = factor * lower[pivot, k]
                for i in range(n):
                    c[j, i] -= factor * column[i]
                for i in range(m):
                    b[j, i] -= factor * aim[i]
    return order, lower, n


@njit(cache=True, nogil=True)
def adaptive_classes(
    q: np.ndarray,
    row_steps: np.ndarray,
    column_steps: np.ndarray,
    memories: tuple[float, float, float],
    spread: float,
    rounding: float,
    ends: np.ndarray,
    edges: np.ndarray,
) -> np.ndarray:
    """(n, m) classes of known integers q (m, n), column by column, in the very operations of `AdaptiveScales`.

    memories: start, row memory, column memory; ends: of the chunks of a column.
    """
    m, n = q.shape
    start, row_memory, column_memory = memories
    rows, sizes, expected = np.zeros(m), np.zeros(m), np.zeros(m)
    classes = np.zeros((n, m), np.int64)
    for j in range(n):
        for i in range(m):
            expected[i] = (rows[i] + row_memory * start) / (j + row_memory)
        factor, relative, begin = 1.0, 0.0, 0
        for end in ends:
            scale = factor * spread
            for i in range(begin, end):
                step = row_steps[i] * column_steps[j]
                classes[j, i] = np.searchsorted(edges, expected[i] * scale / step)
                sizes[i] = (abs(q[i, j]) + rounding) * step
                relative += sizes[i] / expected[i]
            factor = (relative + column_memory) / (end + column_memory)
            begin = end
        for i in range(m):
            rows[i] += sizes[i]
    return classes


@njit(cache=True, nogil=True)
def _orthogonalise(i: int, b: np.ndarray, across: np.ndarray, along: np.ndarray, squares: np.ndarray) -> None:
    for j in range(i):
        along[i, j] = np.dot(b[i], across[j]) / squares[j]
        across[i] -= along[i, j] * across[j]
    squares[i] = max(np.dot(across[i], across[i]), 1e-300)


@njit(cache=True, nogil=True)
def reduce_basis(b: np.ndarray, delta: float, swaps: int) -> None:
    """Reduce the rows of b (n, d), in place, to a basis of the same lattice with shorter, less slanted vectors.

    Lenstra, Lenstra & Lovasz (1982) in floating point, with at most so many swaps. `delta` (1/4 to 1): a vector goes
    before the last one where that makes its part across the others shorter by this factor of the squares.
    """
    n = len(b)
    across, along, squares = b.copy(), np.zeros((n, n)), np.zeros(n)  # Gram-Schmidt vectors, coefficients, sizes
    for i in range(n):
        _orthogonalise(i, b, across, along, squares)
    k = 1
    while k < n:
        for j in range(k - 1, -1, -1):
            times = np.rint(along[k, j])
            if times != 0:
                b[k] -= times * b[j]
                along[k, :j] -= times * along[j, :j]
                along[k, j] -= times
        if squares[k] >= (delta - along[k, k - 1] ** 2) * squares[k - 1]:
            k += 1
            continue
        if swaps == 0:
            return
        swaps -= 1
        moved = b[k].copy()
        b[k], b[k - 1] = b[k - 1], moved
        for i in range(k - 1, n):
            if i <= k:
                across[i] = b[i]
                _orthogonalise(i, b, across, along, squares)
            else:
                for j in range(k - 1, k + 1):
                    along[i, j] = np.dot(b[i], across[j]) / squares[j]
        k = max(k - 1, 1)
