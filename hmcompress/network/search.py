"""The search of the outputs metric: the smallest file whose held-out error keeps the tolerance."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hmcompress.hmatrix import weighted
from hmcompress.hmatrix.grid import Grid
from hmcompress.network.propagate import Knobs

_SLOPE = 0.3  # bytes fall about as the error to this power: how trials of different errors are compared
_CLOSE = 0.15  # relative distance from the tolerance at which a comparison is fair
_AIM = 0.97
_LIMIT = 0.998  # of the tolerance: held-out points are a sample too
START = 0.15  # water level over tolerance
Ladder = tuple[tuple[str, ...], tuple[float, ...]]  # knobs that are turned together, and their values
LADDERS: tuple[Ladder, ...] = (
    (("growth",), (1.0, 1.2, 1.4, 1.7)),
    (("mu",), (1e-2, 1e-1, 1e-3, 3e-2, 1.0)),
    (("ridge",), (1e-9, 1e-7, 1e-5, 1e-4)),
    (("dead_zone",), (0.1, 0.0, 0.2)),
)
KERNEL_LADDERS: tuple[Ladder, ...] = (  # where the tangent kernel is bounded too: how much each regulariser costs it
    (("ridge", "floor"), (1e-4, 1e-3, 1e-2, 1e-5, 1e-1)),
    (("mu",), (1.0, 0.1, 10.0)),
    (("ridge",), (1e-4, 1e-3, 1e-2, 1e-5, 1e-6)),
    (("growth",), (1.0, 1.2, 0.85)),
    (("dead_zone",), (0.1, 0.0, 0.2)),
)


@dataclass(frozen=True)
class Trial:
    """One pass: its knobs, grids, bytes and the error that is bounded."""

    knobs: Knobs
    grids: dict[str, Grid]
    nbytes: int
    error: float

    def score(self, tol: float) -> float:
        """Bytes that the same knobs would need at the tolerance, roughly."""
        if not math.isfinite(self.error) or self.error <= 0:
            return math.inf
        return self.nbytes * max(self.error / tol, 0.3) ** _SLOPE


Pass = Callable[[Knobs], dict[str, Grid]]
Measure = Callable[[dict[str, Grid]], float]


class Search:
    """Trials within a budget of passes."""

    def __init__(self, run: Pass, measure: Measure, tol: float, budget: int, tick: Callable[[int], None]) -> None:
        self._run, self._measure, self._tol = run, measure, tol
        self._budget, self._tick = budget, tick
        self.trials: dict[Knobs, Trial] = {}

    def left(self) -> int:
        return self._budget - len(self.trials)

    def trial(self, knobs: Knobs) -> Trial:
        if knobs not in self.trials:
            grids = self._run(knobs)
            nbytes = sum(len(weighted.encode(grid, thorough=False)) for grid in grids.values())
            self.trials[knobs] = Trial(knobs, grids, nbytes, self._measure(grids))
            self._tick(len(self.trials))
            self._forget()
        return self.trials[knobs]

    def best(self) -> Trial | None:
        """The smallest trial that holds."""
        held = [t for t in self.trials.values() if t.error <= _LIMIT * self._tol]
        return min(held, key=lambda t: t.nbytes, default=None)

    def _forget(self) -> None:
        """Keep the grids of the best trials only."""
        held = sorted((t for t in self.trials.values() if t.error <= self._tol and t.grids), key=lambda t: t.nbytes)
        for trial in held[4:]:
            self.trials[trial.knobs] = replace(trial, grids={})

    def settle(self, knobs: Knobs, passes: int = 8) -> Trial:
        """Turn the water level until the error is close to the tolerance."""
        trial = self.trial(knobs)
        power = 1.0
        for _ in range(passes):
            gap = math.log(self._tol * _AIM / max(trial.error, 1e-12)) if math.isfinite(trial.error) else -2.0
            if abs(gap) < _CLOSE or self.left() <= 0:
                break
            knobs = replace(knobs, delta=knobs.delta * math.exp(max(-2.5, min(gap * power, 2.5))))
            after = self.trial(knobs)
            moved = math.log(max(after.error, 1e-12) / max(trial.error, 1e-12)) if math.isfinite(after.error) else 0
            power = power * 0.8 if moved / gap > 1.3 else power
            trial = after
        return trial

    def turn(self, trial: Trial, ladders: tuple[Ladder, ...]) -> Trial:
        """Coordinate descent over the other knobs."""
        for names, ladder in ladders:
            for value in ladder:
                if self.left() <= self._budget // 4:
                    return trial
                knobs = replace(trial.knobs, **dict.fromkeys(names, value))
                other = trial if knobs == trial.knobs else self.settle(knobs, passes=2)
                if other.score(self._tol) < 0.997 * trial.score(self._tol):
                    trial = other
        return trial

    def scan(self, trial: Trial) -> None:
        """The error is not monotone in the water level: draw around it while the budget lasts."""
        centre = self.settle(trial.knobs, passes=3)
        gap = math.log(self._tol * _AIM / max(centre.error, 1e-12))
        middle = centre.knobs.delta * math.exp(gap)
        k = 0
        while self.left() > 0:
            k += 1
            offset = (k + 1) // 2 * 0.03 * (1 if k % 2 else -1)
            self.trial(replace(centre.knobs, delta=middle * math.exp(offset)))


def search(
    run: Pass, measure: Measure, tol: float, budget: int, tick: Callable[[int], None], kernel: bool = False
) -> Trial | None:
    """The smallest trial that holds, or None. `kernel`: the tangent kernel is part of what `measure` bounds."""
    found = Search(run, measure, tol, budget, tick)
    start = Knobs(START * tol, mu=1.0, ridge=1e-4, floor=1e-4) if kernel else Knobs(START * tol)
    trial = found.settle(start)
    found.scan(found.turn(trial, KERNEL_LADDERS if kernel else LADDERS))
    best = found.best()
    extra = trial.knobs.delta
    while best is None and extra > 1e-12 * tol:  # the budget ended above the tolerance: go finer until it holds
        extra /= 2
        found.trial(replace(trial.knobs, delta=extra))
        best = found.best()
    return best


def as_tensors(grids: Mapping[str, Grid], dtype: torch.dtype) -> dict[str, Tensor]:
    """Decoded matrices in the stored dtype."""
    return {name: torch.from_numpy(grid.to_dense()).to(dtype) for name, grid in grids.items()}
