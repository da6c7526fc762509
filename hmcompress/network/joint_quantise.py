"""Quantise a small network layer by layer; after each, all later layers are refitted together, so that they absorb its
error: the nearest plane in the metric of the joint Gauss-Newton matrix, linearised anew at every layer."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import lapack
from torch import Tensor

from hmcompress.hmatrix.grid import EXPONENT_LIMIT, Grid, powers
from hmcompress.network.least_squares import Price, minimise
from hmcompress.network.small import Data, Layer, SmallNetwork

_NEGLIGIBLE = 1e-7  # pivots below this share of the first one count as this
_LOADING = 1e-12  # share of the mean diagonal added where later layers are eliminated
_SWEEPS = 20
_DAMPING = 1e-6


@dataclass(frozen=True)
class Rounding:
    """What the search over quantised forms of one network turns."""

    level: float  # distortion of each coefficient, a squared relative error of the outputs
    dead_zone: float = 0.1
    holding: float = 1.0  # how firmly exponents of rows and columns are held together
    refits: int = 3  # steps of the later layers after each layer


def quantised(network: SmallNetwork, data: Data, level: float, rounding: Rounding) -> list[Grid]:
    """Grids of the layers of a network, whose weights become those of the grids. `level`: of the price of weights."""
    layers, grids = network.layers, []
    for k, layer in enumerate(layers):
        later = layers[k + 1 :]
        grids.append(_quantise(network, data, layer, later, level, rounding))
        if later and rounding.refits:
            price = Price.of(later, level)
            minimise(network, data, rounding.refits, price, layers=later, damping=_DAMPING)
    return grids


def _quantise(
    network: SmallNetwork, data: Data, layer: Layer, later: Sequence[Layer], level: float, rounding: Rounding
) -> Grid:
    theta = network.theta([layer, *later])
    gram, _, _ = network.normal(data, [layer, *later])
    gram.diagonal().add_(Price.of([layer, *later], level).curvature(theta))
    count = int(layer.live.sum())
    own, gain = _eliminated(gram, count)
    grid = _on_grid(layer, theta[:count].numpy(), own.numpy(), rounding)
    layer.matrix = torch.from_numpy(grid.to_dense())
    network.set_theta(theta[count:] - gain.T @ (layer.matrix[layer.live] - theta[:count]), later)
    return grid


def _eliminated(gram: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Metric of the first weights where all others follow freely, and how they follow: -gain.T @ (error)."""
    own, cross, rest = gram[:count, :count], gram[:count, count:], gram[count:, count:].clone()
    if not rest.numel():
        return own, cross
    rest.diagonal().add_(_LOADING * rest.diagonal().mean())
    gain = torch.cholesky_solve(cross.T, torch.linalg.cholesky(rest)).T
    return own - gain @ cross.T, gain


def _on_grid(layer: Layer, w: np.ndarray, metric: np.ndarray, rounding: Rounding) -> Grid:
    live = layer.live.numpy()
    i, j = np.nonzero(live)
    whole = np.zeros(live.shape, np.int64)
    if not len(i):
        return Grid(whole, np.zeros(live.shape[0], np.int64), np.zeros(live.shape[1], np.int64))
    order, lower = _factor(metric)
    pivots = np.empty(len(w))
    pivots[order] = np.diag(lower)
    rows, columns = additive_exponents(live, np.sqrt(12 * rounding.level) / pivots, rounding.holding)
    steps = powers(rows[i] + columns[j])
    whole[i, j] = nearest_plane(w, order, lower, steps, rounding.dead_zone)
    return Grid(whole, rows, columns)


def _factor(moment: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Order, and lower factor (P, P) of the moment in this order, by complete pivoting."""
    lower, order, rank, _ = lapack.dpstrf(np.asarray(moment, np.float64, order="F"), lower=1, tol=0.0)
    lower = np.tril(lower)
    lower[rank:, rank:] = 0.0
    diagonal = np.arange(len(lower))
    least = _NEGLIGIBLE * max(lower[0, 0], np.finfo(np.float64).tiny)
    lower[diagonal, diagonal] = np.maximum(lower[diagonal, diagonal], least)
    return order - 1, lower


def additive_exponents(live: np.ndarray, steps: np.ndarray, holding: float) -> tuple[np.ndarray, np.ndarray]:
    """Half octaves of rows and columns whose sums come near the wanted steps of the live entries.

    Each is held towards the common mean as if by `holding` further entries.
    """
    logs = np.zeros(live.shape)
    logs[live] = 2 * np.log2(steps)
    mean = logs[live].mean()
    rows, columns = np.zeros(len(live)), np.zeros(live.shape[1])
    for _ in range(_SWEEPS):
        rows = np.where(live, logs - mean - columns, 0).sum(1) / (live.sum(1) + holding)
        columns = np.where(live, logs - mean - rows[:, None], 0).sum(0) / (live.sum(0) + holding)
    return _whole(rows), _whole(columns + mean)


def _whole(exponents: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(exponents), -EXPONENT_LIMIT, EXPONENT_LIMIT).astype(np.int64)


def nearest_plane(w: np.ndarray, order: np.ndarray, lower: np.ndarray, steps: np.ndarray, zone: float) -> np.ndarray:
    """Integers of w (P,) so that the error in the metric of the factor is small; last of the order first."""
    w, s = w[order], steps[order]
    carried = np.zeros(len(w))  # lower^T times the errors so far
    q = np.zeros(len(w), np.int64)
    for j in range(len(w) - 1, -1, -1):
        t = (w[j] + carried[j] / lower[j, j]) / s[j]
        q[j] = int(np.sign(t) * np.floor(abs(t) + 0.5 - zone))
        carried[: j + 1] += lower[j, : j + 1] * (w[j] - q[j] * s[j])
    unordered = np.empty(len(w), np.int64)
    unordered[order] = q
    return unordered
