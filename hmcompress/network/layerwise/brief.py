"""The search where passes are dear: one way to begin and a look at the other, few knobs, and no random trials.

A level is found by the slopes that trials of the same knobs show: those of errors and bytes over the water level differ
from network to network, by how many bits a weight takes.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hmcompress.network.layerwise.propagate import Knobs
from hmcompress.network.layerwise.search import Preference, Search, chosen
from hmcompress.network.layerwise.trial import LIMIT, Measure, Pass, Trial
from hmcompress.network.layerwise.way import START, Ladder, Way

_NEAR: dict[str, Any] = {"ridge": 3e-2, "shrinkage": 1.5, "floor": 0.0}  # where few samples begin,
_OF_MANY_ROWS: dict[str, Any] = {"ridge": 1e-3, "shrinkage": 0.5, "floor": 0.0}  # each with many rows, which say more
_NEAR_LADDERS: tuple[Ladder, ...] = (  # each goes on as long as it gains
    (("shrinkage",), (0.5, 0.2, 0.1)),
    (("shrinkage",), (1.5, 5.0)),
    (("ridge",), (1e-3, 1e-4)),
    (("ridge",), (1e-2, 1e-1)),
    (("mu",), (3e-2,)),
    (("variance",), (0.6,)),
)
_LADDERS: tuple[Ladder, ...] = (
    (("ridge",), (1e-5, 1e-3)),
    (("variance",), (0.6,)),
    (("mu",), (1e-1, 1.0)),
    (("growth",), (1.2, 1.4)),
    (("dead_zone",), (0.0,)),
)
_OTHER_LADDERS: tuple[Ladder, ...] = ((("dead_zone",), (0.2,)), (("dead_zone",), (0.0,)))
_AIM, _ROUNDS = 0.985, 3  # of the tolerance, and how many there are
_LOWER, _SURE = 0.97, 0.985  # where errors jump, and of what would do where it does not hold on guard points
_USED = 0.98  # share of what is aimed at above which no coarser step is looked for
_CLOSE = 0.2  # logarithm of the error over the tolerance at which trials are compared
_NOT_FAR, _LOW = 0.5, 0.3  # the same up to which a trial may lead; error over tolerance as which lower ones count
_WILD = 2.0  # times the tolerance, above which the first knobs do not lead to it
_FIRST, _LAST = 4, 5  # passes for the first level, and kept for the last one, for which there may be as many more
_RISE, _RISES = 0.8, (0.4, 2.0)  # of the error's logarithm over the level's, until two trials show it; least and most
_FALL, _FALLS = 0.6, (0.2, 1.0)  # of the bytes' logarithm over the error's, negative
_APART = 0.05  # of the logarithms by which two trials show a slope
_SAME = 0.003  # the same of levels that need no further trial
_LONGEST = 2.5  # logarithm of a factor of the level


def brief_search(
    run: Pass,
    measure: Measure,
    tol: float,
    budget: int,
    tick: Callable[[int], None],
    way: Way,
    *,
    worth: float = math.inf,
    prefer: Preference = lambda parts: True,
    guard: Measure = lambda parts: 0.0,
) -> Trial | None:
    """The smallest trial that holds, or None. Parameters are those of `search`; guard: the error on points that nothing
    is chosen by, over the tolerance."""
    found = _Brief(run, measure, tol, budget, tick, way.slim)
    found.begin(way)
    if found.leading().score(tol) > worth:
        return None
    found.turn(found.leading(), _ladders(way, found.leading().knobs))
    aim = _AIM
    for _ in range(_ROUNDS):
        found.approach(aim)
        if not found.uses(aim):
            aim *= _LOWER
        elif (excess := guard(found.below(aim)[0].parts)) <= 1:
            break
        else:
            aim = _SURE * found.below(aim)[0].error / tol / excess
    if not found.holding():
        found.refine()
    return chosen(found, prefer)


def _ladders(way: Way, knobs: Knobs) -> tuple[Ladder, ...]:
    if not way.dense:
        return _OTHER_LADDERS
    return _NEAR_LADDERS if knobs.shrinkage else _LADDERS


class _Brief(Search):
    """Trials that are compared by the slopes they show."""

    def begin(self, way: Way) -> None:
        """Near the tolerance: near the original weights where samples are few, or refitted to these; the other way is
        looked at where samples are few, or where the first does not lead to the tolerance."""
        start = way.start(self.tol)
        near = replace(start, **(_OF_MANY_ROWS if way.rows else _NEAR))
        if way.few and way.dense:
            level = self._near_level(near)
            self.trial(replace(start, delta=level))
        else:
            self._near_level(start)
            if way.dense and self.leading().error > _WILD * self.tol:
                self._near_level(near)

    def _near_level(self, knobs: Knobs) -> float:
        """Turn the level until the error is near the tolerance; the last one that was tried."""
        for k in range(_FIRST):
            knobs = replace(knobs, delta=self._level(knobs, _AIM)) if k else knobs
            if abs(self._gap(self.trial(knobs))) < _CLOSE:
                break
        return knobs.delta

    def leading(self) -> Trial:
        """The trial that promises the fewest bytes at the tolerance, of those that hold or are not far off."""
        near = [t for t in self.trials.values() if self._gap(t) > -_NOT_FAR]
        return min(near, key=self._promise) if near else max(self.trials.values(), key=self._gap)

    def _promise(self, trial: Trial) -> float:
        return trial.cost * max(trial.error / self.tol, _LOW) ** self._fall(trial.knobs)

    def turn(self, trial: Trial, ladders: tuple[Ladder, ...]) -> Trial:
        """Coordinate descent over the other knobs, one pass for each value."""
        for names, ladder in ladders:
            for value in ladder:
                if self.left() <= _LAST:
                    return trial
                turned: dict[str, Any] = dict.fromkeys(names, value)
                other = self.trial(replace(trial.knobs, **turned))
                if self._promise(other) >= self._promise(trial):
                    break
                trial = other
        return trial

    def approach(self, aim: float) -> None:
        """Turn the level of what promises the fewest bytes until it holds and little of the tolerance is unused."""
        for _ in range(min(_LAST, _LAST + self.left())):
            best = self.leading()
            if self.uses(aim) and _alike(self.below(aim)[0].knobs, best.knobs):
                return
            level = self._level(best.knobs, aim)
            if any(abs(math.log(level / t.knobs.delta)) < _SAME for t in self._of(best.knobs)):
                return
            self.trial(replace(best.knobs, delta=level))

    def uses(self, aim: float) -> bool:
        """Whether the smallest of those leaves little of it."""
        return bool(held := self.below(aim)) and held[0].error >= _USED * aim * self.tol

    def below(self, aim: float) -> list[Trial]:
        """Those that hold and are about this share of the tolerance at most, smallest first."""
        most = aim * LIMIT / _AIM * self.tol
        return [t for t in self.holding() if t.error <= most and t.parts]

    def _of(self, knobs: Knobs) -> list[Trial]:
        """Trials at any level with these knobs, the nearest to the tolerance first."""
        alike = (t for t in self.trials.values() if _alike(t.knobs, knobs) and 0 < t.error < math.inf)
        return sorted(alike, key=lambda t: abs(math.log(t.error / self.tol)))

    def _level(self, knobs: Knobs, aim: float) -> float:
        """A water level at which the error is about this share of the tolerance."""
        alike = self._of(knobs)
        if not alike:
            return knobs.delta * math.exp(-_LONGEST)
        nearest = alike[0]
        across = [t for t in alike if (t.error > aim * self.tol) != (nearest.error > aim * self.tol)]
        points = [(math.log(t.knobs.delta), math.log(t.error)) for t in (nearest, *across, *alike[1:])]
        step = math.log(aim * self.tol / nearest.error) / _slope(points, _RISE, _RISES)
        return nearest.knobs.delta * math.exp(min(max(step, -_LONGEST), _LONGEST))

    def _fall(self, knobs: Knobs) -> float:
        """How fast bytes fall with the error: the negative slope of their logarithms."""
        points = [(math.log(t.error), -math.log(max(t.cost, 1.0))) for t in self._of(knobs)]
        return _slope(points, _FALL, _FALLS)


def _slope(points: list[tuple[float, float]], usual: float, ends: tuple[float, float]) -> float:
    """From the first of some points (x, y) to the next that is not too near; what is usual where none is."""
    for x, y in points[1:]:
        if abs(x - points[0][0]) > _APART:
            return min(max((y - points[0][1]) / (x - points[0][0]), ends[0]), ends[1])
    return usual


def _alike(a: Knobs, b: Knobs) -> bool:
    return replace(a, delta=b.delta) == b


def glance(run: Pass, measure: Measure, tol: float, passes: int) -> float:
    """About how many bytes a search would find at the tolerance, from a few passes. inf where none comes near."""
    found = Search(run, measure, tol, passes, lambda done: None)
    return found.settle(Knobs(START * tol), passes).score(tol)
