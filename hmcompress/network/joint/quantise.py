"""Quantise a small network layer by layer; after each, all later layers are refitted together, so that they absorb its
error: the nearest plane in the metric of the joint Gauss-Newton matrix, linearised anew at every layer."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hmcompress.hmatrix.grids.factors import pivoted_cholesky
from hmcompress.hmatrix.grids.grid import Grid, powers, whole_exponents
from hmcompress.network.joint.least_squares import Price, minimise
from hmcompress.network.joint.nearest_plane import nearest_plane
from hmcompress.network.joint.small import Data, SmallNetwork

_NEGLIGIBLE = 1e-7  # pivots below this share of the first one count as this
_LOADING = 1e-12  # share of the mean diagonal added where later layers are eliminated
_SWEEPS = 20
_REFITS = 4  # at most, of all that is still free, after each part
_AT_ONCE, _DAMPING = 3, 1e-8  # steps of a refit, and their first damping
_RECOVERED = 1.05  # squared error, over that before a rounding, at which a refit ends


@dataclass(frozen=True)
class LayerKnobs:
    """What the search over quantised forms of one network turns."""

    level: float  # distortion of each coefficient, a squared relative error of the outputs
    dead_zone: float = 0.1
    holding: float = 1.0  # how firmly exponents of rows and columns are held together
    power: float = 0.0  # of the mean distortion that rows and columns have in common: 0 geometric, 1 arithmetic
    caution: float = 1.0  # times the price's curvature in the metric: how far the others are not assumed to follow
    parts: int = 4  # of a layer, one after another


@dataclass(frozen=True)
class Quantised:
    """A quantised network, how its layers were rounded, and what it was before each of them was."""

    network: SmallNetwork
    grids: tuple[Grid, ...]
    knobs: tuple[LayerKnobs, ...]
    before: tuple[SmallNetwork, ...]

    @classmethod
    def of(cls, network: SmallNetwork) -> "Quantised":
        """Nothing is quantised yet."""
        return cls(network, (), (), ())

    def until(self, layer: int) -> "Quantised":
        """With the layers before this one quantised."""
        if layer >= len(self.before):
            return self
        return Quantised(self.before[layer], self.grids[:layer], self.knobs[:layer], self.before[:layer])


def quantised(begun: Quantised, data: Data, level: float, knobs: Sequence[LayerKnobs], most: float) -> Quantised | None:
    """Quantise the layers that are left, with its own knobs each. `level`: of the price of weights.

    None once the squared error is above `most`, which what is still free hardly makes up for.
    """
    network, grids, before = begun.network.clone(), [*begun.grids], [*begun.before]
    for own in knobs:
        before.append(network.clone())
        left, entering = network.from_layer(len(grids), data)
        grids.append(_quantise(left, entering, level, own))
        if not left.error(entering) <= most:
            return None
    return Quantised(network, tuple(grids), (*begun.knobs, *knobs), tuple(before))


def _quantise(network: SmallNetwork, data: Data, level: float, knobs: LayerKnobs) -> Grid:
    """The grid of the first layer, while it and the others move."""
    layer, live = network.layers[0], network.layers[0].live
    whole = np.zeros(live.shape, np.int64)
    places = np.argwhere(live.numpy())
    if not len(places):
        return Grid(whole, np.zeros(len(whole), np.int64), np.zeros(whole.shape[1], np.int64))
    gram = _metric(network, data, level, knobs.caution)
    own, _ = eliminated(gram, len(places))
    order, lower = factor(own.numpy())
    pivots = np.empty(len(places))
    pivots[order] = np.diag(lower)
    wanted = np.sqrt(12 * knobs.level) / pivots
    rows, columns = additive_exponents(live.numpy(), wanted, knobs.holding, knobs.power)
    for k, part in enumerate(np.array_split(order[::-1], knobs.parts)):
        if len(part):
            chosen = tuple(places[np.sort(part)].T)
            steps = powers(rows[chosen[0]] + columns[chosen[1]])
            gram = _metric(network, data, level, knobs.caution) if k else gram
            whole[chosen] = _fix(network, data, level, knobs, gram, chosen, steps)
    layer.live = live
    return Grid(whole, rows, columns)


def _fix(
    network: SmallNetwork,
    data: Data,
    level: float,
    knobs: LayerKnobs,
    gram: Tensor,
    chosen: tuple[np.ndarray, ...],
    steps: np.ndarray,
) -> np.ndarray:
    """Integers of some weights of the first layer, which then are no longer free; all others follow, in this metric."""
    layer = network.layers[0]
    mask = torch.zeros_like(layer.live)
    mask[chosen] = True
    first = mask[layer.live]
    places = torch.cat([torch.nonzero(first)[:, 0], torch.nonzero(~first)[:, 0]])
    theta = network.theta()
    places = torch.cat([places, torch.arange(len(places), len(theta))])
    own, gain = eliminated(gram[places][:, places], len(steps))
    w, rest = theta[places].split([len(steps), len(theta) - len(steps)])
    q = nearest_plane(w.numpy(), *factor(own.numpy()), steps, knobs.dead_zone)
    before = network.error(data)
    layer.matrix[mask] = torch.from_numpy(q * steps)
    layer.live = layer.live & ~mask
    if len(rest):
        _follow(network, data, level, rest, gain.T @ (layer.matrix[mask] - w), before)
    return q


def _follow(network: SmallNetwork, data: Data, level: float, rest: Tensor, change: Tensor, before: float) -> None:
    """Move the free weights `rest` until the error is about what it was `before`."""
    still = network.error(data)
    network.set_theta(rest - change)
    if network.error(data) > still:  # too far for a linear model
        network.set_theta(rest)
    for _ in range(_REFITS):
        error, _ = minimise(network, data, _AT_ONCE, Price.of(network.layers, level), damping=_DAMPING)
        if error <= _RECOVERED * before:
            return


def _metric(network: SmallNetwork, data: Data, level: float, caution: float) -> Tensor:
    """Half the Hessian of error and price, by Gauss and Newton."""
    gram, _, _ = network.normal(data)
    gram.diagonal().add_(caution * Price.of(network.layers, level).curvature(network.theta()))
    return gram


def eliminated(gram: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Metric of the first weights where all others follow freely, and how they follow: -gain.T @ (error)."""
    own, cross, rest = gram[:count, :count], gram[:count, count:], gram[count:, count:].clone()
    if not rest.numel():
        return own, cross
    rest.diagonal().add_(_LOADING * rest.diagonal().mean())
    gain = torch.cholesky_solve(cross.T, torch.linalg.cholesky(rest)).T
    return own - gain @ cross.T, gain


def factor(moment: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Order, and lower factor (P, P) of the moment in this order, by complete pivoting."""
    return pivoted_cholesky(moment, _NEGLIGIBLE)


def additive_exponents(
    live: np.ndarray, steps: np.ndarray, holding: float, power: float
) -> tuple[np.ndarray, np.ndarray]:
    """Half octaves of rows and columns whose sums come near the wanted steps of the live entries.

    The mean of some power of the entries' distortions is the wanted one in each row and column, so that no few of them
    take all; of power 0, that of their logarithms. Each is held towards the common mean as if by `holding` further
    entries.
    """
    logs = np.zeros(live.shape)
    logs[live] = 2 * np.log2(steps)
    mean = _mean(logs, live, None, power)
    rows, columns = np.zeros(len(live)), np.zeros(live.shape[1])
    for _ in range(_SWEEPS):
        rows = _mean(logs - mean - columns, live, 1, power) * _share(live.sum(1), holding)
        columns = _mean(logs - mean - rows[:, None], live, 0, power) * _share(live.sum(0), holding)
    return whole_exponents(rows), whole_exponents(columns + mean)


def _mean(logs: np.ndarray, live: np.ndarray, axis: int | None, power: float) -> np.ndarray:
    """Of the live entries along an axis, those of small steps counting most where the power is above 0."""
    count = np.maximum(live.sum(axis), 1)
    if not power:
        return np.where(live, logs, 0).sum(axis) / count
    least = np.where(live, logs, np.inf).min(axis, keepdims=True)
    least = np.where(np.isfinite(least), least, 0)
    total = np.where(live, 2.0 ** (-power * np.where(live, logs - least, 0)), 0).sum(axis)
    return np.squeeze(least, axis) - np.log2(np.where(total > 0, total / count, 1)) / power


def _share(count: np.ndarray, holding: float) -> np.ndarray:
    return count / np.maximum(count + holding, 1)
