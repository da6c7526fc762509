"""Points that no trial is chosen by: the smallest of many owes a part of its small error to the held-out ones."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from hmcompress.errors import NetworkError
from hmcompress.network.bound.error import Reference, block_errors, evaluate, squared_rows
from hmcompress.network.bound.outcome import LUCKY
from hmcompress.network.bound.problem import Problem
from hmcompress.network.layerwise.original import Original
from hmcompress.network.layerwise.propagate import Parts, decoded

_OPEN = 0.02  # standard error of an error that is left out of account, relative


@dataclass(frozen=True)
class Guard:
    """The network's error on such points. None: there are none, or the original has no outputs there."""

    problem: Problem
    data: Original
    tol: float
    points: Reference | None

    @classmethod
    def of(cls, problem: Problem, data: Original, tol: float) -> "Guard":
        try:
            return cls(problem, data, tol, problem.reference(problem.source.guard(), "guard"))
        except NetworkError:
            return cls(problem, data, tol, None)

    def error(self, parts: Parts) -> float:
        """As on the held-out points, and what so few leave open; 0 where nothing can be said, inf where it breaks."""
        return 0.0 if self.points is None else self.error_of(decoded(self.problem.network, self.data, parts))

    def error_of_all(self, parts: Parts) -> float:
        """As `error`, and on calibration points but for what chance may add: weights were fitted to these, so that
        held-out points with a smaller error miss what is rare."""
        try:
            seen = max(self.problem.errors(self.problem.calibration, decoded(self.problem.network, self.data, parts)))
        except NetworkError:
            return math.inf
        return max(self.error(parts), seen / LUCKY)

    def error_of(self, tensors: Mapping[str, Tensor]) -> float:
        """The same with some tensors replaced, and with those that are coded already."""
        if self.points is None:
            return 0.0
        network, kind = self.problem.network, self.problem.settings.tolerance
        try:
            y = evaluate(network, self.points.points, self.problem.order, {**self.data.standing, **tensors})
        except NetworkError:
            return math.inf
        errors = block_errors(kind, self.points.blocks, y)
        if kind == "max" or not all(map(math.isfinite, errors)):
            return max(errors)
        doubts = (_doubt(squared_rows(a, b)) for a, b in zip(self.points.blocks, y, strict=True))
        return max(error * (1 + doubt) for error, doubt in zip(errors, doubts, strict=True))

    def holds(self, parts: Parts) -> bool:
        """Whether the tolerance holds on them too."""
        return self.error(parts) <= self.tol

    def of_those_that_hold(self, measured: Callable[[Parts], float]) -> Callable[[Parts], float]:
        """What is measured, and inf where the tolerance does not hold here."""
        return lambda parts: measured(parts) if self.holds(parts) else math.inf


def _doubt(squares: Tensor) -> float:
    """The relative standard error of a root mean square from squares (N,), beyond what is left out of account."""
    mean, count = float(squares.mean()), len(squares)
    if count < 2 or mean == 0:
        return 0.0
    return max(float(squares.std()) / (2 * mean * math.sqrt(count)) - _OPEN, 0.0)
