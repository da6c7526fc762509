"""A layer as a product of two quantised factors, in the metric of its inputs and sensitivities.

For learned operators: singular directions of what the outputs see are kept above the water level, the right factor is
quantised with feedback in the metric of the inputs, the left one refitted to what the right one became.
"""

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from hmcompress.hmatrix.grids.factors import Factor, factorise, factorise_towards
from hmcompress.hmatrix.grids.feedback import quantise
from hmcompress.hmatrix.grids.grid import Grid
from hmcompress.network.layerwise.coded import Product

_KEPT = 2.6  # root of the energy of a direction, in units of what rounding it costs, above which it is kept
_COARSER = 3.0  # steps of the right factor over those of the left, which is refitted and makes up for some of it
_LOADING = 1e-12
PRIOR = 0.1  # share of the mean diagonal by which inputs are assumed to lie where weights are large


def as_product(w: np.ndarray, moment: np.ndarray, sensitivity: np.ndarray, delta: float, dead_zone: float) -> Product:
    """w (m, n) as two factors at a water level `delta`; moments (n, n) and (m, m) or (m,), both positive definite.

    Few samples span few directions, and those that an operator keeps are likely, so some inputs are assumed to lie
    there.
    """
    rows = factorise(sensitivity)
    aimed = rows.weighed(w[rows.order])
    metric = with_prior(moment, aimed, PRIOR)
    directions, sizes = _singular(aimed @ np.linalg.cholesky(metric))
    least = _KEPT * delta * ((w.shape[0] + w.shape[1]) / 12) ** 0.5
    rank = max(int((sizes > least).sum()), 1)
    aim = directions[:, :rank].T @ aimed
    same = Factor(np.arange(rank), np.ones(rank))
    right = quantise(aim, factorise_towards(metric, aim, same, 0.3), same, _COARSER * delta, dead_zone)
    right = right.take_rows(right.live_rows)
    v = right.to_dense()
    seen = v @ metric
    gram = seen @ v.T
    gram += _LOADING * np.trace(gram) / max(len(gram), 1) * np.eye(len(gram))
    left = cho_solve(cho_factor(gram), seen @ w.T).T if len(v) else np.zeros((len(w), 0))
    return Product(quantise(left, factorise(gram), rows, delta, dead_zone) if len(v) else _none(len(w)), right)


def with_prior(moment: np.ndarray, w: np.ndarray, prior: float) -> np.ndarray:
    """The moment (n, n) with a share of its mean diagonal where w (m, n) is large."""
    return moment + prior * np.trace(moment) / max(float(np.sum(w**2)), 1e-300) * (w.T @ w)


def _singular(a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Left singular vectors (m, k) and singular values of a (m, n), descending, by the smaller Gram matrix."""
    if a.shape[0] <= a.shape[1]:
        values, vectors = np.linalg.eigh(a @ a.T)
        return vectors[:, ::-1], np.sqrt(np.maximum(values[::-1], 0.0))
    values, vectors = np.linalg.eigh(a.T @ a)
    sizes = np.sqrt(np.maximum(values[::-1], 0.0))
    return a @ vectors[:, ::-1] / np.maximum(sizes, 1e-300), sizes


def _none(rows: int) -> Grid:
    return Grid(np.zeros((rows, 0), np.int64), np.zeros(rows, np.int64), np.zeros(0, np.int64))
