"""The nearest plane in any metric: integers whose error is small where all of them share it (Babai 1986).

Each integer is rounded to what cancels the errors of those before it, so the error is that of a box whose sides are the
basis vectors' parts across each other. Steps of rows times columns leave these sides unequal. Another basis of the same
lattice, reduced, has more equal ones, and so less error at the same steps: up to a bit a weight in a layer of similar
features.
"""

import numpy as np
from scipy.linalg import solve_triangular

from hmcompress.hmatrix.grids.feedback import in_order
from hmcompress.hmatrix.grids.kernels import reduce_basis

_FINE = 4.0  # root mean square of integers that need no wider bin of zero
_WORTH = 0.2  # bits an integer that another basis saves
_MOST, _SWAPS, _DELTA = 128, 100_000, 0.99  # integers, and how far their basis is reduced


def nearest_plane(w: np.ndarray, order: np.ndarray, lower: np.ndarray, steps: np.ndarray, zone: float) -> np.ndarray:
    """Integers of w (P,) so that lower^T (w - q steps)[order] is small.

    order (P,), lower (P, P): a pivoted Cholesky factor of the metric; the last of the order is rounded first. zone (0
    to 0.5) widens the bin of zero, where integers are small.
    """
    w, s = w[order], steps[order]
    q = in_order(w[None], lower, s, zone)[0]
    if 1 < len(w) <= _MOST and np.mean(np.square(q, dtype=np.float64)) >= _FINE**2:
        q = _reduced(w, lower, s, q)
    unordered = np.empty(len(w), np.int64)
    unordered[order] = q
    return unordered


def _reduced(w: np.ndarray, lower: np.ndarray, steps: np.ndarray, known: np.ndarray) -> np.ndarray:
    """By a reduced basis of the same lattice, where that serves; else the known integers."""
    basis = np.ascontiguousarray(lower * steps[:, None])  # row j: what one step of integer j changes
    short = basis.copy()
    reduce_basis(short, _DELTA, _SWAPS)
    across, upper = np.linalg.qr(short.T)
    sides = np.abs(np.diag(upper))
    if 0.5 * np.log2(np.mean(np.square(np.diag(basis))) / np.mean(np.square(sides))) < _WORTH or not sides.all():
        return known
    y, z = across.T @ (lower.T @ w), np.zeros(len(w))
    for j in range(len(w) - 1, -1, -1):
        z[j] = np.rint((y[j] - upper[j, j + 1 :] @ z[j + 1 :]) / upper[j, j])
    q = np.rint(solve_triangular(basis, z @ short, trans=1, lower=True)).astype(np.int64)
    return min(known, q, key=lambda q: float(np.linalg.norm(lower.T @ (w - q * steps))))
