"""Every weight by itself, as the weights metric codes it, at tolerances with which the outputs keep their bound.

Passes save what the outputs do not need, as far as samples tell it, and do not look at what layers are like. The engine
does the opposite, and its result is smaller where samples are few, where layers are copies of others that trained
apart, and where tolerances come near the resolution of the numbers.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from hmcompress.container import EncodedLayer
from hmcompress.container.payload import decode_layer
from hmcompress.errors import NetworkError
from hmcompress.network.allotment import Allotment, allotments, like_noise, weights_of
from hmcompress.network.layerwise.structure import structured_layers
from hmcompress.network.layerwise.subject import Subject
from hmcompress.network.layerwise.trial import LIMIT
from hmcompress.network.model.products import canonical

Layers = tuple[EncodedLayer, ...]
MeasureOf = Callable[[Mapping[str, Tensor]], float]

_SURE, _PROMISING = 1.6, 1.1  # times the bytes of passes, which promises must come below: the first, and later ones
_TRIALS = 4  # of the engine
_AIM, _USED = 0.985, 0.965  # of the tolerance; the share that leaves nothing to look for
_NARROW = 0.02  # logarithm of the ratio between levels that hold and that do not, below which nothing is between them
_INSIDE = 0.15  # of that logarithm, from either end
_LONGEST = 4.0  # logarithm of a factor of the level
_NOISE_RUNS, _CLOSE = 5, 0.1  # and the logarithm of the error that ends them
_TINY, _HUGE = 1e-6, 1e6  # errors that are counted as such


class WeightsMetric(Protocol):
    """What codes weights by themselves."""

    @property
    def alike(self) -> Mapping[str, str]:
        """Layers that may stand on another one, where their tolerances are the same, and on which."""

    def code(self, tolerances: Mapping[str, float]) -> Layers:
        """Those that have a relative Frobenius error, in the checkpoint's order, as all layers of a file."""


@dataclass(frozen=True)
class Alone:
    """Coded layers, the tensors that they decode to, and the largest of the errors that are bounded, over its bound."""

    layers: Layers
    tensors: Mapping[str, Tensor]
    error: float

    @property
    def nbytes(self) -> int:
        return sum(len(layer.payload) for layer in self.layers)


def smaller_alone(subject: Subject, metric: WeightsMetric, bounds: Callable[[], MeasureOf], most: int) -> Alone | None:
    """All weights by themselves, where they take fewer than `most` bytes and hold, on guard points too; else None.

    bounds: makes what measures the error that is bounded, in the unit of the guard's tolerance. Where nothing is to be
    gained one run of the network on held-out points tells it.
    """
    try:
        allotment = _promising(subject, metric, most)
    except NetworkError:
        return None
    if allotment is None:
        return None
    measured, tol, guard = bounds(), subject.guard.tol, subject.guard

    def trial(level: float) -> Alone:
        layers = metric.code(allotment.tolerances(level))
        tensors = {**allotment.weights, **canonical(subject.problem.network, decoded_layers(layers))}
        return Alone(layers, tensors, max(measured(tensors) / (LIMIT * tol), guard.error_of(tensors) / tol))

    found = [t for t in _trials(trial, allotment, most) if t.error <= 1]
    smallest = min(found, key=lambda t: t.nbytes, default=None)
    return smallest if smallest is not None and smallest.nbytes + allotment.left_out < most else None


def _promising(subject: Subject, metric: WeightsMetric, most: int) -> Allotment | None:
    """The allotment that seems to take the fewest bytes, at a level about which noise has the size that is bounded."""
    if _searched(subject):
        return None
    tol, guard = subject.guard.tol, subject.guard
    held_out = subject.measure_of_tensors(tol, None)
    even = Allotment.even(subject, metric.alike)
    level = even.level_of(_SURE * most)
    if level is None or held_out(like_noise(even, level)) > tol:
        return None

    def error(tensors: Mapping[str, Tensor]) -> float:
        return max(held_out(tensors), guard.error_of(tensors)) / tol

    found = [(a, _noise_level(a, error)) for a in allotments(subject, metric.alike)]
    best, level = min(found, key=lambda pair: pair[0].promise(pair[1]))
    return best.at(level) if best.promise(level) < _PROMISING * most else None


def _searched(subject: Subject) -> bool:
    """Whether most numbers are of layers with structure, for which passes have asked the engine at many levels."""
    structured = structured_layers(subject.problem, subject.tensors, subject.data.engine)
    weights = weights_of(subject)
    return 2 * sum(weights[name].numel() for name in structured) > sum(w.numel() for w in weights.values())


def _noise_level(allotment: Allotment, error: MeasureOf) -> float:
    """About at which noise of the allotted sizes makes an error of the tolerance. error: in units of that."""
    levels: dict[float, float] = {}
    level = 1.0
    for _ in range(_NOISE_RUNS):
        levels[level] = error(like_noise(allotment, level))
        if abs(math.log(max(levels[level], _TINY) / _AIM)) < _CLOSE:
            break
        level = _next_level(levels)
    return level


def _trials(trial: Callable[[float], Alone], allotment: Allotment, most: int) -> Iterator[Alone]:
    """A few at levels that come nearer to the tolerance, as long as they may take fewer bytes."""
    levels: dict[float, float] = {}
    level = 1.0
    for _ in range(_TRIALS):
        found = trial(level)
        yield found
        levels[level] = found.error
        saved = allotment.promise(level) - allotment.promise(level := _next_level(levels))
        if _USED < found.error <= 1 or found.nbytes - saved > _PROMISING * most or level in levels:
            return


def _next_level(levels: Mapping[float, float]) -> float:
    """Where the error, known in units of the tolerance at some levels, may be a little below one."""
    holds = max((level for level, error in levels.items() if error <= 1), default=0.0)
    fails = min((level for level, error in levels.items() if error > 1 and level > holds), default=math.inf)
    if not holds or fails == math.inf:
        known = holds if holds else fails
        step = math.log(_AIM / min(max(levels[known], _TINY), _HUGE))
        return known * math.exp(min(max(step, -_LONGEST), _LONGEST))
    if (width := math.log(fails / holds)) < _NARROW:
        return holds
    rise = math.log(min(levels[fails], _HUGE) / max(levels[holds], _TINY))
    share = math.log(_AIM / max(levels[holds], _TINY)) / rise
    return holds * math.exp(width * min(max(share, _INSIDE), 1 - _INSIDE))


def decoded_layers(layers: Layers) -> dict[str, Tensor]:
    """Tensors by name; some layers stand on others."""

    def tensors(layer: EncodedLayer) -> list[Tensor]:
        return decode_layer(layer.payload, layer.shapes, layer.dtype, lambda number: tensors(layers[number])[0])

    return {name: t for layer in layers for name, t in zip(layer.row.tensors, tensors(layer), strict=True)}
