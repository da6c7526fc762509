"""The search of the outputs metric: the smallest file whose held-out error keeps the tolerance."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hmcompress.network.coded import living
from hmcompress.network.propagate import Knobs, Parts

_NEURON = 0.003  # share of the bytes that a living neuron is worth where fewer are preferred
_SLOPE = 0.45  # bytes fall about as the error to this power: how trials of different errors are compared
_CLOSE = 0.15  # relative distance from the tolerance at which a comparison is fair
_AIM = 0.97
LIMIT = 0.998  # of the tolerance: held-out points are a sample too
_NEAR = 0.5  # logarithm of the error over the tolerance up to which a trial may lead
_FIRMER = (1e-6, 1e-4)  # ridges and floors tried where the first ones do not lead to the tolerance
_WILD = 2.0  # times the tolerance
_LEAST_SHARE = 0.1  # of the gap to the tolerance
_WORSE = 3.0  # times the error before: what finer steps may do to it
_UNUSED = 0.9  # below this share of the tolerance a coarser step is looked for
_PATIENCE = 2  # values of a ladder without gain before the next knob's turn
START = 0.15  # water level over tolerance
Ladder = tuple[tuple[str, ...], tuple[float, ...]]  # knobs that are turned together, and their values
FLOORS: Ladder = (("floor",), (1e-6, 1e-4, 1e-2, 1.0))
LADDERS: tuple[Ladder, ...] = (
    (("variance",), (0.0, 0.6)),
    (("mu",), (1e-1, 1.0, 3e-2, 1e-3)),
    (("growth",), (1.2, 1.4, 1.7, 2.0)),
    (("ridge",), (1e-7, 1e-5, 1e-4)),
    (("dead_zone",), (0.0, 0.2)),
)
KERNEL_LADDERS: tuple[Ladder, ...] = (  # where the tangent kernel is bounded too: how much each regulariser costs it
    (("variance",), (0.0, 1.0)),
    (("floor",), (1e-3, 3e-3, 1e-2, 3e-2)),
    (("floor",), (1e-4, 3e-5)),
    (("mu",), (1e-2, 1.0)),
    (("ridge",), (1e-3, 1e-5)),
    (("growth",), (1.15, 0.87)),
    (("dead_zone",), (0.05, 0.0)),
)
_FIRM: dict[str, Any] = {"mu": 0.1, "ridge": 1e-4, "floor": 3e-4}  # where firm ones begin
_FACTORED = 0.1  # first water level of products over that of grids
_SPREAD = {"mu": 0.5, "ridge": 1.0, "floor": 0.5, "delta": 0.06}  # of the logarithms of random trials


@dataclass(frozen=True)
class Trial:
    """One pass: its knobs, coded parts, bytes and the error that is bounded."""

    knobs: Knobs
    parts: Parts
    nbytes: int
    error: float
    neurons: int = 0  # where fewer are preferred

    @property
    def cost(self) -> float:
        """Bytes, and a share of them for each neuron that counts."""
        return self.nbytes * (1 + _NEURON * self.neurons)

    def score(self, tol: float) -> float:
        """Bytes that the same knobs would need at the tolerance, roughly."""
        if not math.isfinite(self.error):
            return math.inf
        return self.cost * max(self.error / tol, 0.3) ** _SLOPE


Pass = Callable[[Knobs], Parts]
Measure = Callable[[Parts], float]


class Search:
    """Trials within a budget of passes."""

    def __init__(
        self, run: Pass, measure: Measure, tol: float, budget: int, tick: Callable[[int], None], slim: bool = False
    ) -> None:
        self._run, self._measure, self._tol = run, measure, tol
        self._budget, self._tick, self._slim = budget, tick, slim
        self.trials: dict[Knobs, Trial] = {}

    def left(self) -> int:
        return self._budget - len(self.trials)

    def trial(self, knobs: Knobs) -> Trial:
        """Run a pass, or look it up."""
        if knobs not in self.trials:
            parts = self._run(knobs)
            nbytes = sum(len(part.payload(thorough=False)) for part in parts.values())
            neurons = living(parts.values()) if self._slim else 0
            self.trials[knobs] = Trial(knobs, parts, nbytes, self._measure(parts), neurons)
            self._tick(len(self.trials))
            self._forget()
        return self.trials[knobs]

    def holding(self) -> list[Trial]:
        """The trials that hold, smallest first."""
        return sorted((t for t in self.trials.values() if t.error <= LIMIT * self._tol), key=lambda t: t.cost)

    def leading(self) -> Trial:
        """The trial with the best score among those whose error is near the tolerance, where scores are fair."""
        near = [t for t in self.trials.values() if abs(self._gap(t)) < _NEAR]
        return min(near or self.trials.values(), key=lambda t: t.score(self._tol))

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
            power = power * min(max(1 / max(moved, 0.3), 0.5), 2.0) if moved > 0 else power / 2
            trial = after
        return trial

    def _gap(self, trial: Trial) -> float:
        """Logarithm of how far the error is below the tolerance."""
        if not math.isfinite(trial.error):
            return -2.5
        return max(-2.5, min(math.log(self._tol * _AIM / max(trial.error, 1e-300)), 2.5))

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
                gained = other.score(self._tol) < 0.997 * trial.score(self._tol)
                trial, idle = (other, 0) if gained else (trial, idle + 1)
        return trial

    def scatter(self) -> None:
        """Random trials around the best: the error is not monotone in any knob, and each draw may be lucky."""
        rng = np.random.default_rng(len(self.trials))
        while self.left() > 0:
            base = self.leading()
            draws: dict[str, Any] = {
                name: getattr(base.knobs, name) * math.exp(s * rng.standard_normal()) for name, s in _SPREAD.items()
            }
            draws["delta"] *= math.exp(self._gap(base))
            zone = min(max(base.knobs.dead_zone + 0.04 * rng.standard_normal(), 0.0), 0.4)
            share = min(max(base.knobs.variance + 0.1 * rng.standard_normal(), 0.0), 1.0)
            growth = base.knobs.growth * math.exp(0.05 * rng.standard_normal())
            self.trial(replace(base.knobs, dead_zone=zone, growth=growth, variance=share, **draws))

    def refine(self) -> None:
        """Where the best trial leaves tolerance unused, or none holds, go on with the water level alone."""
        share = 0.6
        for _ in range(12):
            held = self.holding()
            if held and (held[0].error >= _UNUSED * self._tol or share < _LEAST_SHARE):
                return
            base = held[0] if held else min(self.trials.values(), key=lambda t: t.error)
            factor = share * self._gap(base) if held else min(self._gap(base), -0.3)
            self.trial(replace(base.knobs, delta=base.knobs.delta * math.exp(factor)))
            if held and self.holding()[0] is held[0]:  # too far: nearer to what holds
                share /= 2


def glance(run: Pass, measure: Measure, tol: float, passes: int) -> float:
    """About how many bytes a search would find at the tolerance, from a few passes. inf where none comes near."""
    found = Search(run, measure, tol, passes, lambda done: None)
    return found.settle(Knobs(START * tol), passes).score(tol)


def _other_forms(found: Search, start: Knobs, structured: frozenset[str], factored: frozenset[str]) -> list[Trial]:
    """Layers coded by the engine, and as products of two factors."""
    others = [found.settle(replace(start, structured=structured), 4, 0.1)] if structured else []
    if factored:
        knobs = Knobs(_FACTORED * start.delta, 0.0, mu=1.0, ridge=start.ridge, floor=1e-3, factored=factored)
        others.append(found.settle(knobs, 4, 0.05))
    return others


def search(
    run: Pass,
    measure: Measure,
    tol: float,
    budget: int,
    tick: Callable[[int], None],
    *,
    firm: bool = False,
    worth: float = math.inf,
    few: bool = False,
    structured: frozenset[str] = frozenset(),
    factored: frozenset[str] = frozenset(),
    slim: bool = False,
) -> Trial | None:
    """The smallest trial that holds, or None.

    firm: the regularisers begin and turn as a bound on the tangent kernel asks for. worth: bytes above which that is
    given up after the first passes. few: fewer samples than the widest layer needs.
    structured: layers that the engine may code. factored: layers that may be products of two factors.
    slim: living neurons count beside bytes.
    """
    found = Search(run, measure, tol, budget, tick, slim)
    start = replace(Knobs(START * tol), **_FIRM) if firm else Knobs(START * tol)
    start = replace(start, floor=max(start.floor, 1e-3 if few else 0.0))
    others = _other_forms(found, start, structured, factored)
    trial = found.settle(start, passes=3 if others else 8)
    for ridge in () if firm or others else _FIRMER:  # without, the weights of some networks grow without bound
        if trial.error > _WILD * tol:
            firmer = found.settle(replace(start, mu=0.1, ridge=ridge, floor=max(start.floor, ridge)), passes=6)
            trial = min(trial, firmer, key=lambda t: t.score(tol))
    if trial.score(tol) > worth:
        return None
    best = min(others, key=lambda other: other.score(tol), default=trial)
    if trial.score(tol) < 1.5 * best.score(tol):
        ladders = KERNEL_LADDERS if firm else LADDERS
        found.turn(trial, (FLOORS, *ladders) if few else ladders)
        best = trial
    if not best.knobs.structured:  # the engine searches by itself
        found.scatter()
    found.refine()
    held = found.holding()
    return held[0] if held else None
