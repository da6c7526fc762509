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
    parts: int = 4  # of a layer, one after another
    refits: int = 2  # steps of all that is still free after each part


def quantised(network: SmallNetwork, data: Data, level: float, rounding: Rounding) -> list[Grid]:
    """Grids of the layers of a network, whose weights become those of the grids. `level`: of the price of weights."""
    layers = network.layers
    return [_quantise(network, data, layers[k:], level, rounding) for k in range(len(layers))]


def _quantise(network: SmallNetwork, data: Data, layers: Sequence[Layer], level: float, rounding: Rounding) -> Grid:
    """The grid of the first of the layers, while it and the others move."""
    layer, live = layers[0], layers[0].live
    whole = np.zeros(live.shape, np.int64)
    places = np.argwhere(live.numpy())
    if not len(places):
        return Grid(whole, np.zeros(len(whole), np.int64), np.zeros(whole.shape[1], np.int64))
    own, _ = _eliminated(_metric(network, data, layers, level), len(places))
    order, lower = _factor(own.numpy())
    pivots = np.empty(len(places))
    pivots[order] = np.diag(lower)
    rows, columns = additive_exponents(live.numpy(), np.sqrt(12 * rounding.level) / pivots, rounding.holding)
    for part in np.array_split(order[::-1], rounding.parts):
        if len(part):
            chosen = tuple(places[np.sort(part)].T)
            steps = powers(rows[chosen[0]] + columns[chosen[1]])
            whole[chosen] = _fix(network, data, layers, level, rounding, chosen, steps)
    layer.live = live
    return Grid(whole, rows, columns)


def _fix(
    network: SmallNetwork,
    data: Data,
    layers: Sequence[Layer],
    level: float,
    rounding: Rounding,
    chosen: tuple[np.ndarray, ...],
    steps: np.ndarray,
) -> np.ndarray:
    """Integers of some weights of the first layer, which then are no longer free; all others follow."""
    layer = layers[0]
    mask = torch.zeros_like(layer.live)
    mask[chosen] = True
    first = mask[layer.live]
    places = torch.cat([torch.nonzero(first)[:, 0], torch.nonzero(~first)[:, 0]])
    theta, gram = network.theta(layers), _metric(network, data, layers, level)
    places = torch.cat([places, torch.arange(len(places), len(theta))])
    own, gain = _eliminated(gram[places][:, places], len(steps))
    w, rest = theta[places].split([len(steps), len(theta) - len(steps)])
    q = nearest_plane(w.numpy(), *_factor(own.numpy()), steps, rounding.dead_zone)
    layer.matrix[mask] = torch.from_numpy(q * steps)
    layer.live = layer.live & ~mask
    if len(rest):
        network.set_theta(rest - gain.T @ (layer.matrix[mask] - w), layers)
        minimise(network, data, rounding.refits, Price.of(layers, level), layers=layers, damping=_DAMPING)
    return q


def _metric(network: SmallNetwork, data: Data, layers: Sequence[Layer], level: float) -> Tensor:
    """Half the Hessian of error and price, by Gauss and Newton."""
    gram, _, _ = network.normal(data, layers)
    gram.diagonal().add_(Price.of(layers, level).curvature(network.theta(layers)))
    return gram


def _eliminated(gram: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Metric of the first weights where all others follow freely, and how they follow: -gain.T @ (error)."""
    own, cross, rest = gram[:count, :count], gram[:count, count:], gram[count:, count:].clone()
    if not rest.numel():
        return own, cross
    rest.diagonal().add_(_LOADING * rest.diagonal().mean())
    gain = torch.cholesky_solve(cross.T, torch.linalg.cholesky(rest)).T
    return own - gain @ cross.T, gain


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
