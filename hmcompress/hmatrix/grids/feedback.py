"""Two-sided quantisation with feedback in a metric ||R^T (W - Q) L||, where L L^T and R R^T are second moments.

Successive interference cancellation, that is Babai's nearest plane: the rule of GPTQ with a step for each row and
column that makes every rounding cost the same (step of entry i, j: delta / (R_ii L_jj)), columns of small pivots first.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import lapack

from hmcompress.hmatrix.grids.grid import Grid, half_octaves
from hmcompress.hmatrix.grids.kernels import aimed_cholesky, kronecker_nearest_plane

_WIDEST_AIMED = 1024  # columns, but for one of a bias
_NEGLIGIBLE = 1e-8  # pivots below this share of the first one count as this


@dataclass(frozen=True)
class Factor:
    """Pivoted Cholesky factor of a second moment: moment[order][:, order] is about lower @ lower.T."""

    order: np.ndarray  # (n,)
    lower: np.ndarray  # (n, n)

    @property
    def pivots(self) -> np.ndarray:
        """Diagonal of `lower`."""
        return np.diag(self.lower)


def factorise(moment: np.ndarray) -> Factor:
    """Factorise a positive semi-definite moment (n, n) with complete pivoting."""
    order, lower = pivoted_cholesky(moment, _NEGLIGIBLE)
    return Factor(order, np.ascontiguousarray(lower))


def pivoted_cholesky(moment: np.ndarray, negligible: float) -> tuple[np.ndarray, np.ndarray]:
    """Order (n,) and lower factor (n, n) of the moment in this order (LAPACK dpstrf).

    negligible: share of the first pivot that smaller ones count as.
    """
    lower, order, rank, _ = lapack.dpstrf(np.asarray(moment, np.float64, order="F"), lower=1, tol=0.0)
    lower = np.tril(lower)
    lower[rank:, rank:] = 0.0
    diagonal = np.arange(len(lower))
    least = negligible * max(lower[0, 0], np.finfo(np.float64).tiny)
    lower[diagonal, diagonal] = np.maximum(lower[diagonal, diagonal], least)
    return order - 1, lower


def factorise_towards(moment: np.ndarray, w: np.ndarray, rows: Factor, share: float) -> Factor:
    """Factorise the moment (n, n) of the inputs of w (m, n) so that columns that w needs least come last.

    The nearest plane begins with those, and they come out as zero columns. `share`: of the variance in the choice of
    pivots (1: complete pivoting), the rest belongs to the energy that a column explains in the metric of `rows`. Very
    long rows get complete pivoting, which works on blocks.
    """
    if len(moment) > _WIDEST_AIMED + 1:
        return factorise(moment)
    cross = np.ascontiguousarray(rows.lower.T @ w[rows.order] @ moment)
    largest = max(float(np.diag(moment).max()), np.finfo(np.float64).tiny)
    order, lower, _ = aimed_cholesky(np.ascontiguousarray(moment), cross, share, _NEGLIGIBLE**2 * largest)
    lower = np.tril(lower[order])
    diagonal = np.arange(len(moment))
    lower[diagonal, diagonal] = np.maximum(lower[diagonal, diagonal], _NEGLIGIBLE * np.sqrt(largest))
    return Factor(order, np.ascontiguousarray(lower))


def quantise(
    w: np.ndarray, columns: Factor, rows: Factor, delta: float, dead_zone: float, vector: bool = False
) -> Grid:
    """Quantise w (m, n) so that the error in the metric of the two factors is about delta^2 / 12 an entry.

    vector: on average over its rows, where steps of their own would take more bits than they save.
    """
    column_exponents = half_octaves(delta / columns.pivots)
    row_exponents = half_octaves(1 / rows.pivots)
    if vector and _saves(rows.pivots) < _entropy(row_exponents):
        row_exponents = half_octaves(np.full(len(w), 1 / _size(rows.pivots)))
    q = kronecker_nearest_plane(
        np.ascontiguousarray(w[np.ix_(rows.order, columns.order)]),
        columns.lower,
        rows.lower,
        2.0 ** (column_exponents / 2),
        2.0 ** (row_exponents / 2),
        dead_zone,
    )
    return Grid(
        _unpermute(q, rows.order, columns.order),
        row_exponents[np.argsort(rows.order)],
        column_exponents[np.argsort(columns.order)],
    )


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
