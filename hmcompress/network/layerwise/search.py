"""The search of the outputs metric: the smallest file whose held-out error keeps the tolerance."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from hmcompress.errors import NetworkError
from hmcompress.network.layerwise.propagate import Knobs, Parts
from hmcompress.network.layerwise.trial import LIMIT, Measure, Pass, Trial, trial_of
from hmcompress.network.layerwise.way import USUAL, Ladder, Way

_CLOSE = 0.15  # relative distance from the tolerance at which a comparison is fair
_AIM = 0.97
_NEAR = 0.5  # logarithm of the error over the tolerance up to which a trial may lead
_FIRMER = (1e-6, 1e-4)  # ridges and floors tried where the first ones do not lead to the tolerance
_WILD = 2.0  # times the tolerance
_LEAST_SHARE = 0.1  # of the gap to the tolerance
_WORSE = 3.0  # times the error before: what finer steps may do to it
_UNUSED = 0.9  # below this share of the tolerance a coarser step is looked for
DEARER = 1.25  # times the bytes of the smallest trial: what is preferred for other reasons may take
_LANDING, _SAME_STEP = 10, 1.05  # passes, and the ratio of water levels between which no other form is looked for
_LEAST_LEAP, _STRIDE, _WIDE_STRIDE = 0.3, 0.7, 2.5  # logarithms of factors of the level, while all trials or none hold
_FAR_AWAY, _NEARLY = 30.0, 6.0  # times the tolerance
_FILLING = 5  # further passes
_MIDDLE = 0.25  # of the logarithm of that ratio, from either end
_ENOUGH = 20  # passes for two knobs
_PATIENCE = 2  # values of a ladder without gain before the next knob's turn
_NOISY: dict[str, Any] = {"ridge": 0.1, "shrinkage": 5.0}  # where few samples begin: no refit to each of them
_FACTORED = 0.1  # first water level of products over that of grids
_SPREAD = {"mu": 0.5, "ridge": 1.0, "floor": 0.5, "delta": 0.06}  # of the logarithms of random trials
_SPREAD_OTHERS = {"delta": 0.025}  # the same without dense layers
_HOPELESS = 1.5  # times the score of another way, after one pass
_NO_BETTER = 1.5  # the same, before the knobs of either are turned
_OTHER = 3.0  # the same of other forms, beside fields
_FAR_OFF = 10.0  # the same of grids, whose score far from the tolerance says little
_FAILURES, _LOWER = 8, 0.04  # random trials in a row that do not hold, after which each takes the level down so much
_SPREAD_SHRINKAGE = 0.3  # of its logarithm

Preference = Callable[[Parts], bool]


class Search:
    """Trials within a budget of passes."""

    def __init__(
        self, run: Pass, measure: Measure, tol: float, budget: int, tick: Callable[[int], None], slim: bool = False
    ) -> None:
        self._run, self._measure, self.tol = run, measure, tol
        self._budget, self._tick, self._slim = budget, tick, slim
        self.trials: dict[Knobs, Trial] = {}

    def left(self) -> int:
        return self._budget - len(self.trials)

    def trial(self, knobs: Knobs) -> Trial:
        """Run a pass, or look it up."""
        if knobs not in self.trials:
            self.trials[knobs] = self._made(knobs)
            self._tick(len(self.trials))
            self._forget()
        return self.trials[knobs]

    def _made(self, knobs: Knobs) -> Trial:
        """A pass; of infinite error where the half-compressed network breaks, for the original ran on these points."""
        try:
            parts = self._run(knobs)
        except (NetworkError, np.linalg.LinAlgError):
            return Trial(knobs, {}, 0, math.inf)
        return trial_of(knobs, parts, self._measure, self._slim)

    def holding(self) -> list[Trial]:
        """The trials that hold, smallest first; of those that are alike, one."""
        held: dict[tuple[int, float, int], Trial] = {}
        for trial in self.trials.values():
            if trial.error <= LIMIT * self.tol:
                held.setdefault((trial.nbytes, trial.error, trial.neurons), trial)
        return sorted(held.values(), key=lambda t: t.cost)

    def leading(self) -> Trial:
        """The trial with the best score among those whose error is near the tolerance, where scores are fair."""
        near = [t for t in self.trials.values() if abs(self._gap(t)) < _NEAR]
        return min(near or self.trials.values(), key=lambda t: t.score(self.tol))

    def _forget(self) -> None:
        """Keep the parts of the best trials only."""
        for trial in self.holding()[4:]:
            self.trials[trial.knobs] = replace(trial, parts={})

    def settle(self, knobs: Knobs, passes: int = 8, close: float = _CLOSE) -> Trial:
        """Turn the water level until the error is close to the tolerance."""
        trial = self.trial(knobs)
        power = 1.0
        for _ in range(passes):
            gap = self._gap(trial)
            if abs(gap) < close or self.left() <= 0:
                break
            after = self.trial(replace(trial.knobs, delta=trial.knobs.delta * math.exp(gap * power)))
            moved = (self._gap(trial) - self._gap(after)) / gap
            if gap < 0 and after.error > _WORSE * trial.error:  # finer steps do not help
                break
            if math.isfinite(trial.error):
                power = power * min(max(1 / max(moved, 0.3), 0.5), 2.0) if moved > 0 else power / 2
            trial = after
        return trial

    def land(self, knobs: Knobs, passes: int, prefer: Preference) -> None:
        """Look for the coarsest water level that holds as is preferred, between one that does and one that does not.

        For what the engine codes: bytes and errors go in steps. Ends where what does not hold is already dearer than
        some trial that holds.
        """
        trial, reach, before = self.trial(knobs), 1.0, 0.0
        holds = fails = None
        for _ in range(passes - 1):
            if trial.error <= LIMIT * self.tol and prefer(trial.parts):
                holds = trial
            else:
                fails = trial
            cheapest = min((t.cost for t in self.holding()), default=math.inf)
            if self.left() <= 0 or (fails is not None and fails.cost > cheapest):
                return
            if holds is None or fails is None:
                reach = 2 * reach if trial.error == before else 1.0
                level, before = trial.knobs.delta * self._leap(trial, reach), trial.error
            elif fails.knobs.delta < _SAME_STEP * holds.knobs.delta:
                return
            else:
                level = self._between(holds, fails)
            trial = self.trial(replace(knobs, delta=level))

    def fill(self, knobs: Knobs, passes: int) -> None:
        """Look in the widest gaps of water levels above the coarsest that holds: errors of few numbers jump, and one
        next to one that nearly holds may hold, at fewer bytes."""
        for _ in range(min(passes, self.left())):
            cheapest = min((t.cost for t in self.holding()), default=math.inf)
            alike = [t for t in self.trials.values() if replace(t.knobs, delta=knobs.delta) == knobs]
            by_level = sorted((t for t in alike if t.cost <= cheapest), key=lambda t: t.knobs.delta)
            gaps = [
                (b.knobs.delta / a.knobs.delta, math.sqrt(a.knobs.delta * b.knobs.delta))
                for a, b in pairwise(by_level)
                if min(a.error, b.error) < _NEARLY * self.tol
            ]
            widest = max(gaps, default=(1.0, 0.0))
            if widest[0] < _SAME_STEP:
                return
            self.trial(replace(knobs, delta=widest[1]))

    def _leap(self, trial: Trial, reach: float) -> float:
        """A factor of the water level towards the tolerance: a small one near it, where a form between may hold."""
        gap = self._gap(trial)
        most = _STRIDE if trial.error < _FAR_AWAY * self.tol else _WIDE_STRIDE
        return math.exp(reach * math.copysign(min(max(abs(gap), _LEAST_LEAP), most), gap))

    def _between(self, holds: Trial, fails: Trial) -> float:
        """A water level between two, nearer to that whose error is nearer to the tolerance."""
        above, below = self._gap(holds), -self._gap(fails)
        share = min(max(above / max(above + below, 1e-9), _MIDDLE), 1 - _MIDDLE)
        return float(holds.knobs.delta * (fails.knobs.delta / holds.knobs.delta) ** share)

    def _gap(self, trial: Trial) -> float:
        """Logarithm of how far the error is below the tolerance."""
        if not math.isfinite(trial.error):
            return -2.5
        return max(-2.5, min(math.log(self.tol * _AIM / max(trial.error, 1e-300)), 2.5))

    def turn(self, trial: Trial, ladders: tuple[Ladder, ...]) -> Trial:
        """Coordinate descent over the other knobs."""
        for names, ladder in ladders:
            idle = 0
            for value in ladder:
                if self.left() <= self._budget // 3 or idle == _PATIENCE:
                    break
                turned: dict[str, Any] = dict.fromkeys(names, value)
                knobs = replace(trial.knobs, **turned)
                other = trial if knobs == trial.knobs else self.settle(knobs, passes=2)
                gained = other.score(self.tol) < 0.997 * trial.score(self.tol)
                trial, idle = (other, 0) if gained else (trial, idle + 1)
        return trial

    def scatter(self, dense: bool = True) -> None:
        """Random trials around the best: the error is not monotone in any knob, and each draw may be lucky."""
        rng = np.random.default_rng(len(self.trials))
        spread, failed = _SPREAD if dense else _SPREAD_OTHERS, 0
        while self.left() > 0:
            base = self.leading()
            draws: dict[str, Any] = {
                name: getattr(base.knobs, name) * math.exp(s * rng.standard_normal()) for name, s in spread.items()
            }
            draws["delta"] *= math.exp(self._gap(base) - _LOWER * max(failed - _FAILURES, 0))
            zone = min(max(base.knobs.dead_zone + 0.04 * rng.standard_normal(), 0.0), 0.4)
            if dense:
                draws["variance"] = min(max(base.knobs.variance + 0.1 * rng.standard_normal(), 0.0), 1.0)
                draws["growth"] = base.knobs.growth * math.exp(0.05 * rng.standard_normal())
            if dense and base.knobs.shrinkage:
                draws["shrinkage"] = base.knobs.shrinkage * math.exp(_SPREAD_SHRINKAGE * rng.standard_normal())
            trial = self.trial(replace(base.knobs, dead_zone=zone, **draws))
            failed = 0 if trial.error <= LIMIT * self.tol else failed + 1

    def refine(self) -> None:
        """Where the best trial leaves tolerance unused, or none holds, go on with the water level alone."""
        share = 0.6
        for _ in range(12):
            held = self.holding()
            if held and (held[0].error >= _UNUSED * self.tol or share < _LEAST_SHARE):
                return
            base = held[0] if held else min(self.trials.values(), key=lambda t: t.error)
            factor = share * self._gap(base) if held else min(self._gap(base), -0.3)
            self.trial(replace(base.knobs, delta=base.knobs.delta * math.exp(factor)))
            if held and self.holding()[0] is held[0]:  # too far: nearer to what holds
                share /= 2


def search(
    run: Pass,
    measure: Measure,
    tol: float,
    budget: int,
    tick: Callable[[int], None],
    way: Way = USUAL,
    *,
    worth: float = math.inf,
    prefer: Preference = lambda parts: True,
) -> Trial | None:
    """The smallest trial that holds, or None.

    budget: passes at most; tick: told how many are done. worth: bytes above which the way is given up after its first
    passes. prefer: what one of the smallest should be, if any is.
    """
    found = Search(run, measure, tol, budget if way.dense else min(budget, _ENOUGH), tick, way.slim)
    _other_forms(found, way, prefer)
    best = found.leading() if found.trials else None
    start = way.start(tol)
    if best is None or found.trial(start).score(tol) <= _FAR_OFF * best.score(tol):
        trial = _first(found, way, passes=3 if best else 8)
        if way.dense and not way.firm and not best and not way.near:
            trial = _firmer(found, trial, start)
        if trial.score(tol) > worth:
            return None
        if best is None or trial.score(tol) < _NO_BETTER * best.score(tol):
            found.turn(trial, way.ladders(trial.knobs))
    if not found.holding() or not found.holding()[0].knobs.structured:  # whose steps are landed on already
        found.scatter(way.dense)
        found.refine()
    return chosen(found, prefer)


def chosen(found: Search, prefer: Preference) -> Trial | None:
    """Of the trials that hold, the smallest, or one of the smallest that is preferred."""
    held = found.holding()
    small = (trial for trial in held if trial.parts and trial.cost <= DEARER * held[0].cost)
    preferred = (trial for trial in small if prefer(trial.parts))
    return next(preferred, held[0]) if held else None


def _other_forms(found: Search, way: Way, prefer: Preference) -> None:
    """Layers as products of two factors, coded by the engine, and as operators between points."""
    start = way.start(found.tol)
    factored = Knobs(_FACTORED * start.delta, 0.0, mu=1.0, ridge=start.ridge, floor=1e-3, factored=way.factored)
    structured, located = replace(start, structured=way.structured), replace(factored, located=way.located)
    if way.fields and (way.factored or way.structured):
        found.settle(start, 4)
    if way.factored and _serves(found, way, factored):
        found.settle(factored, 4, 0.05)
    if way.structured and _serves(found, way, structured):
        found.land(structured, _LANDING, prefer)
        found.fill(structured, _FILLING)
    if way.located and _serves(found, way, located):  # last: no structured form is looked for above the cheapest
        found.settle(located, 4, 0.05)


def _serves(found: Search, way: Way, knobs: Knobs) -> bool:
    """Whether a first pass comes near what is known, beside fields."""
    return not way.fields or found.trial(knobs).score(found.tol) <= _OTHER * found.leading().score(found.tol)


def _first(found: Search, way: Way, passes: int) -> Trial:
    """Near the tolerance: refitted to the samples, near the original weights, or whichever is smaller."""
    start = way.start(found.tol)
    near = replace(start, floor=0.0, **_NOISY)
    trial = found.settle(near if way.near else start, passes)
    if way.near is not None:
        return trial
    near = replace(near, delta=trial.knobs.delta if math.isfinite(trial.error) else start.delta)
    if found.trial(near).score(found.tol) > _HOPELESS * trial.score(found.tol):
        return trial
    return min(trial, found.settle(near, passes // 2), key=lambda t: t.score(found.tol))


def _firmer(found: Search, trial: Trial, start: Knobs) -> Trial:
    """Where the first knobs do not lead to the tolerance: the weights of some networks grow without bound."""
    for ridge in _FIRMER:
        if trial.error > _WILD * found.tol:
            firmer = found.settle(replace(start, mu=0.1, ridge=ridge, floor=max(start.floor, ridge)), passes=6)
            trial = min(trial, firmer, key=lambda t: t.score(found.tol))
    return trial
