"""Second moments and their pivoted Cholesky factors. A moment is a matrix (n, n), or its diagonal (n,) where it is zero
beside that: of many outputs, each of which counts by itself, a matrix would be too much."""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import lapack

from hmcompress.hmatrix.grids.kernels import aimed_cholesky

_WIDEST_AIMED = 1024  # columns, but for one of a bias
_MANY_ROWS = 4608  # above which fewer stand for them
_ALIKE = 1e-3  # relative differences of pivots that count as the same
_NEGLIGIBLE = 1e-8  # pivots below this share of the first one count as this


def mean_diagonal(moment: np.ndarray) -> float:
    """Of a moment (n, n) or (n,)."""
    return float(np.trace(moment) if moment.ndim == 2 else moment.sum()) / len(moment)


def is_diagonal(moment: np.ndarray) -> bool:
    """Whether there is nothing beside the diagonal of a moment (n, n) or (n,)."""
    return moment.ndim == 1 or bool(np.count_nonzero(moment) <= len(moment) and moment.diagonal().all())


def diagonal_of(moment: np.ndarray) -> np.ndarray:
    """(n,) of a moment (n, n) or (n,)."""
    return moment if moment.ndim == 1 else moment.diagonal()


def added(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The sum of two moments, each (n, n) or (n,)."""
    if a.ndim == b.ndim:
        return a + b
    return (np.diag(a) if a.ndim == 1 else a) + (np.diag(b) if b.ndim == 1 else b)


@dataclass(frozen=True)
class Factor:
    """Pivoted Cholesky factor of a second moment: moment[order][:, order] is about lower @ lower.T."""

    order: np.ndarray  # (n,)
    lower: np.ndarray  # (n, n), or its diagonal (n,) where there is nothing beside it

    @property
    def pivots(self) -> np.ndarray:
        """Diagonal of `lower`."""
        return diagonal_of(self.lower)

    @property
    def matrix(self) -> np.ndarray:
        """`lower` as (n, n)."""
        return np.diag(self.lower) if self.is_diagonal else self.lower

    @property
    def is_diagonal(self) -> bool:
        """Whether the moment is known to be."""
        return self.lower.ndim == 1

    @property
    def is_even(self) -> bool:
        """Whether the moment is a multiple of the identity."""
        return self.is_diagonal and bool(np.ptp(self.pivots) <= _ALIKE * self.pivots.max())

    def weighed(self, x: np.ndarray) -> np.ndarray:
        """lower.T @ x, of x (n, k) in this order."""
        return self.lower[:, None] * x if self.is_diagonal else self.lower.T @ x

    def block(self, places: slice) -> np.ndarray:
        """Of some neighbours in this order, by themselves (k, k)."""
        return np.diag(self.lower[places]) if self.is_diagonal else np.ascontiguousarray(self.lower[places, places])


def factorise(moment: np.ndarray) -> Factor:
    """Factorise a positive semi-definite moment (n, n) or (n,) with complete pivoting."""
    if is_diagonal(moment):
        diagonal = diagonal_of(moment)
        least = _NEGLIGIBLE * max(np.sqrt(diagonal.max()), np.finfo(np.float64).tiny)
        return Factor(np.arange(len(moment)), np.maximum(np.sqrt(diagonal), least))
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
    cross = np.ascontiguousarray(rows.weighed(w[rows.order]) @ moment)
    if len(cross) > _MANY_ROWS:
        cross = np.asarray(np.linalg.qr(cross, mode="r"))  # of which every column explains as much
    largest = max(float(np.diag(moment).max()), np.finfo(np.float64).tiny)
    order, lower, _ = aimed_cholesky(np.ascontiguousarray(moment), cross, share, _NEGLIGIBLE**2 * largest)
    lower = np.tril(lower[order])
    diagonal = np.arange(len(moment))
    lower[diagonal, diagonal] = np.maximum(lower[diagonal, diagonal], _NEGLIGIBLE * np.sqrt(largest))
    return Factor(order, np.ascontiguousarray(lower))
