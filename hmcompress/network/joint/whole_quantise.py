"""All numbers of a small network of the user's own, quantised together: section after section by the nearest plane in
the metric of the joint Gauss-Newton matrix in which all that is still free follows, and refitted after each part."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hmcompress.errors import NetworkError
from hmcompress.hmatrix.grids.grid import Grid, powers
from hmcompress.network.bound.problem import Problem
from hmcompress.network.joint.nearest_plane import nearest_plane
from hmcompress.network.joint.quantise import additive_exponents, eliminated, factor
from hmcompress.network.joint.whole import CHUNK, Section, Whole, numbers, samples_at_once
from hmcompress.network.layerwise.original import Original
from hmcompress.network.layerwise.propagate import Knobs, Parts
from hmcompress.network.layerwise.trial import LIMIT, Trial, trial_of
from hmcompress.work.parallel import one_thread

_MOST_NUMBERS, _MOST_OUTPUTS = 5000, 16
_MOST_WORK = 6e5  # operations on the way back, for one Gauss-Newton matrix
_MOST_CALLS = 9e4  # or of those of many samples together, for one of each trial
_ROWS_PER_NUMBER, _LEAST_ROWS = 1.75, 400
_SAMPLED = 1.25  # outputs of all samples for each number, below which they do not tell them
_LEVELS = ((0.03, 0.5), (0.1, 0.75), (0.01, 1.0))  # shares of the squared tolerance that all roundings together are to
# take, and of the trials until which each is tried
_CAUTION, _FINE = 6.0, 1e-3  # times the level: how firmly numbers are held where they are, over their section's mean
# square, at a fine tolerance; at a coarser one they go further before that counts
_DEAD_ZONE = 0.1
_AT_ONCE = 4200  # numbers of a section that are rounded in one part, beside the first
_REFITS, _TRIES = 4, 6
_RECOVERED = 1.1
_HOLDING = 1.0  # of rows and columns to their mean
_WORK = {"default": 2.4e11, "max": 2.4e12}  # cubes of the numbers that all trials may take
_FIXED = 3.5e10  # what a trial takes beside it, where the network itself takes less
_NORMALS, _NUMBER = 2.5, 35.0  # Gauss-Newton matrices for each section; cubes in the time of a number that is written
_LONGEST = 2.5  # times that work, for the fewest trials
_FEWEST, _MOST = 3, 30  # trials
_WORTH = 1.4  # times the bytes of passes, above which what the first trials promise is given up
_MORE, _USED = 2, 0.8  # trials, where the smallest that holds leaves more than this share of the tolerance
_FAR = 3.0  # logarithm of an error over the tolerance that is none
_BROKEN = 2.3  # the same of one that says nothing about what a little more caution would give
_AIM, _CLOSE = 0.96, 0.03
_POWER = 0.5  # of the caution, by which the error falls about


def smallest_whole(
    problem: Problem,
    data: Original,
    tol: float,
    effort: str,
    measured: Callable[[Parts], float],
    holds: Callable[[Parts], bool],
    tick: Callable[[float], None],
    passes: Callable[[], float],
    slim: bool = False,
) -> Trial | None:
    """The smallest of some quantised forms that holds by `measured`, or None where none does or all took too long.

    holds: the same on points that nothing is chosen by; of those that hold there, if any do. tick: told which share of
    the work is done. passes: about how many bytes these take. slim: neurons count beside bytes.
    """
    if not _is_small(problem, data):
        return None
    try:
        with one_thread():
            stage = WholeStage(Whole(problem, data), tol, measured, slim)
            if stage.is_slow(_WORK[effort]):
                return None
            stage.search(_WORK[effort], tick, _WORTH * passes())
    except NetworkError:  # it runs without gradients, or in its own precision alone
        return None
    held = sorted((t for t in stage.trials if t.error <= LIMIT * tol), key=lambda t: t.cost)
    return next((t for t in held if holds(t.parts)), held[0] if held else None)


def _is_small(problem: Problem, data: Original) -> bool:
    """Whether a network of the user's own is small enough, and has the samples to tell all of its numbers."""
    if problem.network.kind != "factory" or problem.order:
        return False
    count, (samples, outputs) = numbers(problem, data), problem.calibration.blocks[0].shape
    return count <= _MOST_NUMBERS and outputs <= _MOST_OUTPUTS and samples * outputs >= _SAMPLED * count


@dataclass
class Sweep:
    """One quantisation: what is free, and where all numbers are meanwhile."""

    whole: Whole
    level: float  # distortion of each coefficient, a squared relative error of the outputs
    ridge: Tensor  # (P,) held where they are

    def __post_init__(self) -> None:
        self.theta, self.live = self.whole.start.clone(), torch.ones(len(self.whole.start), dtype=torch.bool)
        self.squared = 0.0

    def metric(self) -> Tensor:
        """Of the free numbers."""
        gram, _ = self.whole.normal(self.theta, self.live, self.rows())
        return self.held(gram)

    def held(self, gram: Tensor) -> Tensor:
        gram = gram.clone()
        gram.diagonal().add_(self.ridge[self.live])
        return gram

    def rows(self) -> int:
        return int(max(_ROWS_PER_NUMBER * int(self.live.sum()), _LEAST_ROWS))

    def quantise(self, section: Section, gram: Tensor | None = None) -> Grid:
        """Round a section, part after part; `gram`: the metric, where it is known."""
        gram = self.metric() if gram is None else gram
        chosen, own, _ = self._eliminated(gram, section.places)
        order, lower = factor(own.numpy())
        wanted = np.empty(len(order))
        wanted[chosen[order] - section.places[0]] = math.sqrt(12 * self.level) / np.diag(lower)
        alive = np.ones(section.shape, dtype=bool)
        rows, columns = additive_exponents(alive, wanted, math.inf if section.is_vector else _HOLDING, 0.0)
        steps, q = powers(rows[:, None] + columns).reshape(-1), np.zeros(len(order), np.int64)
        count = min(1 + math.ceil(len(order) / _AT_ONCE), len(order))
        for k, part in enumerate(np.array_split(chosen[order[::-1]], count)):
            at = np.sort(part) - section.places[0]
            q[at] = self._fix(gram if not k else self.metric(), np.sort(part), steps[at])
        return Grid(q.reshape(section.shape), rows, columns)

    def _eliminated(self, gram: Tensor, chosen: np.ndarray) -> tuple[np.ndarray, Tensor, Tensor]:
        """Some of the free numbers, the metric of these where the others follow, and how they do."""
        free = np.flatnonzero(self.live.numpy())
        first = np.isin(free, chosen)
        places = torch.from_numpy(np.concatenate([np.flatnonzero(first), np.flatnonzero(~first)]))
        return free[first], *eliminated(gram[places[:, None], places], len(chosen))

    def _fix(self, gram: Tensor, chosen: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """Integers of some free numbers, which then are no longer free; all others follow."""
        _, own, gain = self._eliminated(gram, chosen)
        w, before = self.theta[chosen], self.squared
        q = nearest_plane(w.numpy(), *factor(own.numpy()), steps, _DEAD_ZONE)
        self.theta[chosen] = torch.from_numpy(q * steps)
        self.live[chosen] = False
        self.squared = self.whole.error(self.theta)
        if self.live.any():
            self._accept(self.theta[self.live] - gain.T @ (self.theta[chosen] - w))
            self._refit(_RECOVERED * before + self.level * len(chosen))
        return q

    def _accept(self, moved: Tensor) -> bool:
        """Move the free numbers where that lowers the error."""
        theta = self.theta.clone()
        theta[self.live] = moved
        error = self.whole.error(theta)
        if not error < self.squared:
            return False
        self.theta, self.squared = theta, error
        return True

    def _refit(self, enough: float) -> None:
        """Gauss-Newton steps of the free numbers, each as far as it lowers the error."""
        more = 1.0
        for _ in range(_REFITS):
            if self.squared <= enough:
                return
            gram, gradient = self.whole.normal(self.theta, self.live, self.rows(), coarse=True)
            for _ in range(_TRIES):
                damped = gram.clone()
                damped.diagonal().add_(more * self.ridge[self.live])
                lower, failed = torch.linalg.cholesky_ex(damped)
                if not failed:
                    step = torch.cholesky_solve(gradient[:, None], lower)[:, 0]
                    if self._accept(self.theta[self.live] + step):
                        more /= 10
                        break
                more *= 10
            else:
                return


class WholeStage:
    """Sweeps of different levels and cautions, and what they give."""

    def __init__(self, whole: Whole, tol: float, measured: Callable[[Parts], float], slim: bool = False) -> None:
        self.whole, self.tol, self._measured, self._slim = whole, tol, measured, slim
        self.trials: list[Trial] = []
        self._gram: Tensor | None = None
        squares = [whole.start[torch.from_numpy(section.places)].square() for section in whole.sections]
        means = torch.cat([s.mean().expand(len(s)) for s in squares])
        self._squares = means.clamp_min(1e-12 * float(means.max()))

    def is_slow(self, work: float) -> bool:
        count, written = len(self.whole.start), self.whole.network.written
        most = max(_MOST_WORK, _MOST_CALLS / self._most(work) * min(samples_at_once(count, written), CHUNK))
        return self.whole.work() * _ROWS_PER_NUMBER * count > most or _FEWEST * self._each() > _LONGEST * work

    def _most(self, work: float) -> int:
        """Trials."""
        return min(max(round(work / self._each()), _FEWEST), _MOST)

    def _each(self) -> float:
        """What a trial takes: cubes of the numbers, and rows of Jacobians, which the network writes again for each."""
        count, written = len(self.whole.start), self.whole.network.written
        rows = max(_ROWS_PER_NUMBER * count, _LEAST_ROWS) * samples_at_once(count, written)
        return float(count**3 + max(_FIXED, _NORMALS * len(self.whole.sections) * rows * written * _NUMBER))

    def search(self, work: float, tick: Callable[[float], None], worth: float = math.inf) -> None:
        """At each level the caution that comes near the tolerance, as far as the work allows, and only as long as the
        trials promise no more bytes than what they are worth."""
        most = self._most(work)
        caution = math.log(_CAUTION * (_FINE / self.tol) ** 0.5)
        known = {level: list[tuple[float, float]]() for level, _ in _LEVELS}
        for level, share in _LEVELS:
            while len(self.trials) < max(share * most, _FEWEST) and not _is_close(known[level]):
                known[level].append(self._step(level, caution))
                if self._is_given_up(worth):
                    return
                caution = _next(known[level])
                tick(len(self.trials) / most)
        level = _LEVELS[0][0]  # of most of the trials
        for _ in range(_MORE):
            if self._is_used():
                break
            known[level].append(self._step(level, _next(known[level])))
        tick(1.0)

    def _is_given_up(self, worth: float) -> bool:
        """Whether the trials promise more bytes than they are worth; one that was far too coarse, as the first may be,
        says nothing."""
        telling = [t for t in self.trials if self._excess(t.error) <= _BROKEN or math.isinf(t.error)]
        if not telling:
            return len(self.trials) >= _FEWEST
        return min(t.score(self.tol) for t in telling) > worth

    def _step(self, level: float, caution: float) -> tuple[float, float]:
        """A further trial: the logarithms of its caution, which is given, and of its error over what is aimed at."""
        self.trials.append(self._trial(level * self.tol**2 / len(self.whole.start), math.exp(caution)))
        return caution, self._excess(self.trials[-1].error)

    def _is_used(self) -> bool:
        """Whether the smallest trial that holds leaves little of the tolerance."""
        held = [t for t in self.trials if t.error <= LIMIT * self.tol]
        return not held or min(held, key=lambda t: t.cost).error >= _USED * self.tol

    def _excess(self, error: float) -> float:
        """Logarithm of an error over what is aimed at."""
        return math.log(min(max(error / (_AIM * self.tol), math.exp(-_FAR)), math.exp(_FAR)))

    def _trial(self, level: float, caution: float) -> Trial:
        """Of infinite error where the half-compressed network breaks."""
        try:
            parts = self._quantised(Sweep(self.whole, level, caution * level / self._squares))
        except (NetworkError, torch.linalg.LinAlgError):
            return Trial(Knobs(level), {}, 0, math.inf)
        return trial_of(Knobs(level), parts, self._measured, self._slim)

    def _quantised(self, sweep: Sweep) -> Parts:
        if self._gram is None:
            self._gram, _ = self.whole.normal(sweep.theta, sweep.live, sweep.rows())
        gram: Tensor | None = sweep.held(self._gram)
        grids = dict[int, Grid]()
        for section in self._in_order():
            grids[int(section.places[0])], gram = sweep.quantise(section, gram), None
        return self.whole.parts([grids[int(section.places[0])] for section in self.whole.sections])

    def _in_order(self) -> list[Section]:
        """As they stand, but for one that holds half of all numbers: what is free beside it is little."""
        half = len(self.whole.start) / 2
        return sorted(self.whole.sections, key=lambda section: len(section.places) <= half)


def _is_close(known: list[tuple[float, float]]) -> bool:
    return bool(known) and abs(known[-1][1]) < _CLOSE


def _next(known: list[tuple[float, float]]) -> float:
    """The logarithm of the caution at which the error would be the tolerance."""
    (x, gap) = known[-1]
    above, below = [k for k in known if k[1] > 0], [k for k in known if k[1] <= 0]
    if above and below:
        (a, u), (b, v) = max(above), min(below)
        return a + (b - a) * min(max(u / (u - v), 0.2), 0.8)
    return x + min(max(gap / _POWER, -2.0), 2.0)
