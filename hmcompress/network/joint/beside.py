"""Other weights than those of dense chains, coded before a small network learns around what they have become."""

import math
from collections.abc import Set

from hmcompress.errors import NetworkError
from hmcompress.network.bound.problem import Problem
from hmcompress.network.layerwise.original import Original
from hmcompress.network.layerwise.propagate import Knobs, Parts, coded_others, decoded
from hmcompress.network.layerwise.way import START

_LEARNED = 300  # numbers of a small network, about, beside which others take their share by how many they are
_LEAST, _MOST = 0.3, 0.8  # of the tolerance
_NEAR = 0.8  # of what is aimed at
_TRIES = 6


def coded_beside(problem: Problem, data: Original, tol: float, structured: Set[str]) -> Parts:
    """The other weights, so coarse that they use a part of the tolerance; without loss where nothing else holds.

    structured: those that the engine of the weights metric codes.
    """
    numbers = sum(w.numel() for w in data.others.values())
    aim = tol * min(max(math.sqrt(numbers / (numbers + _LEARNED)), _LEAST), _MOST)
    best: Parts = coded_others(data, Knobs(0.0), exact=True)
    delta = START * aim
    for _ in range(_TRIES if numbers else 0):
        parts = coded_others(data, Knobs(delta, structured=frozenset(structured)))
        error = _error(problem, data, parts)
        if error <= aim:
            best = parts
            if error >= _NEAR * aim or error == 0:
                break
        delta *= min(max(aim * (1 + _NEAR) / 2 / max(error, 1e-300), 1e-2), 1e2)
    return best


def _error(problem: Problem, data: Original, parts: Parts) -> float:
    """Of the network with its own layers and these weights."""
    try:
        return max(problem.errors(problem.calibration, decoded(problem.network, data, parts)))
    except NetworkError:
        return math.inf
