"""Points that no trial is chosen by: the smallest of many owes a part of its small error to the held-out ones."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from hmcompress.errors import NetworkError
from hmcompress.network.error import Reference
from hmcompress.network.problem import Problem
from hmcompress.network.propagate import Calibration, Parts, decoded


@dataclass(frozen=True)
class Guard:
    """The network's error on such points. None: there are none, or the original has no outputs there."""

    problem: Problem
    data: Calibration
    tol: float
    points: Reference | None

    @classmethod
    def of(cls, problem: Problem, data: Calibration, tol: float) -> "Guard":
        try:
            return cls(problem, data, tol, problem.reference(problem.source.guard(), "guard"))
        except NetworkError:
            return cls(problem, data, tol, None)

    def error(self, parts: Parts) -> float:
        """As on the held-out points; 0 where nothing can be said, inf where the network breaks."""
        if self.points is None:
            return 0.0
        try:
            return max(self.problem.errors(self.points, decoded(self.problem.network, self.data, parts)))
        except NetworkError:
            return math.inf

    def holds(self, parts: Parts) -> bool:
        """Whether the tolerance holds on them too."""
        return self.error(parts) <= self.tol

    def of_those_that_hold(self, measured: Callable[[Parts], float]) -> Callable[[Parts], float]:
        """What is measured, and inf where the tolerance does not hold here."""
        return lambda parts: measured(parts) if self.holds(parts) else math.inf
