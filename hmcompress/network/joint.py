"""The joint stage of the outputs metric: a small network learns the large one's function, is pruned and quantised as a
whole, and takes its place in the first neurons of each layer.

Neurons then have nothing to do with the original's: only the function is bounded.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from hmcompress.hmatrix.compact import canonical
from hmcompress.hmatrix.grid import Grid
from hmcompress.network.coded import Compact, living
from hmcompress.network.distil import fresh, inner_weights, learning_data, placed, widths_of, with_outputs
from hmcompress.network.error import block_errors
from hmcompress.network.joint_quantise import Rounding, quantised
from hmcompress.network.least_squares import Price, minimise
from hmcompress.network.model import Network
from hmcompress.network.ntk import LIMIT_ROWS, rate_limit_bytes
from hmcompress.network.problem import Problem
from hmcompress.network.propagate import Knobs, Parts
from hmcompress.network.pruning import compact, drop_weakest, prune
from hmcompress.network.search import Trial
from hmcompress.network.small import SmallNetwork

_HIDDEN = (3, 4, 5, 6, 8, 10, 12, 15, 19, 24, 30)  # neurons of a hidden layer, tried in this order
_FIT_STEPS, _FIT_GOAL, _FIT_ENOUGH = 60, 0.3, 0.7  # of the first fit; goals in units of the tolerance
_FIT_MORE, _FIT_TOL = 2.0, 1e-2  # times the steps for each decade below this tolerance
_FIT_GAIN = 0.01  # of a step below which a fit is about to end
_COARSE = 3e-3  # tolerance from which J^T J in single precision is enough
_FIT_ROWS = 2048
_ROUND_ROWS = 4096
_FORM_ROWS = 2048
_ROWS_PER_WEIGHT = 4
_ROUNDS = ((30, 0.03), (30, 0.03), (30, 0.03), (15, 0.0))  # steps under a price, then the share below which weights go
_SHARE = 0.5  # of the squared tolerance that the price counts on for quantisation
_AIM = 0.97
_LIMIT = 0.998
_ZONES = (0.1,)
_HOLDINGS = (1.0, 1e9)
_SETTLING = 5  # trials to find the level
_BEST, _NEARLY = 2, 1.08  # candidates whose rounding is tried at random, and how near the best they must come
_FORMS, _SCATTER = 40, 0.15  # forms of a candidate, or share of the work, at which that ends
_FIRST_PART = 0.7  # of the time that the search for candidates takes
_NEAR = 1.5  # error over what is near enough up to which other first weights are tried
_CLOSE, _FAR = 0.03, 1.5  # logarithm of the error over the tolerance
_WEIGHTS_PER_BYTE = 1.3  # of the linearised rate: fewer never fitted
_DECAY = 0.15  # power of the error by which the width grows where a fit fails
_PATIENCE = 5.0  # times the work allowed as long as nothing fits
_FAILED = 1.5  # held-out error over the tolerance of a network that fits all samples
_DROP_STEPS = 15  # after a neuron went
_MAX = 0.5  # L2 error over the largest deviation, both relative
_SEEDS = 3  # first weights of each width, and widths
_OVERHEAD = 200  # weights that cost as much as the rest of a Jacobian
_WORK = {"default": 1e11, "max": 1e12}  # multiplications at most, by effort


@dataclass(frozen=True)
class Form:
    """A quantised small network."""

    parts: Parts
    nbytes: int
    error: float  # on held-out points
    rounding: Rounding
    neurons: int

    def trial(self, slim: bool) -> Trial:
        """As the search over passes has them; slim: its neurons count."""
        return Trial(Knobs(0.0), self.parts, self.nbytes, self.error, self.neurons if slim else 0)


@dataclass
class Candidate:
    """A small network before quantisation, and its quantised forms."""

    network: SmallNetwork
    level: float  # of its price
    forms: list[Form] = field(default_factory=list)

    def score(self, tol: float, slim: bool) -> float:
        """Of its best form."""
        return min((form.trial(slim).score(tol) for form in self.forms), default=math.inf)


def smallest_joint(
    problem: Problem,
    tol: float,
    effort: str,
    measured: Callable[[Parts], float],
    tick: Callable[[float], None],
    slim: bool = False,
) -> Form | None:
    """The smallest form whose decoded network holds the tolerance by `measured`, or None.

    tick: told which share of the work is done. slim: neurons go first, and count beside bytes.
    """
    stage = JointStage(problem, tol, _WORK[effort], slim)
    candidates: list[Candidate] = []
    for candidate in stage.candidates():
        stage.quantise(candidate)
        candidates.append(candidate)
        tick(_FIRST_PART * stage.share)
    scores = {id(candidate): candidate.score(tol, slim) for candidate in candidates}
    best = sorted(candidates, key=lambda candidate: scores[id(candidate)])[:_BEST]
    best = [candidate for candidate in best if scores[id(candidate)] <= _NEARLY * scores[id(best[0])]]
    for k, candidate in enumerate(best):
        stage.scatter(candidate)
        tick(_FIRST_PART + (1 - _FIRST_PART) * (k + 1) / len(best))
    forms = [form for candidate in candidates for form in candidate.forms]
    holding = sorted((f for f in forms if f.error <= _LIMIT * tol), key=lambda form: form.trial(slim).cost)
    for form in holding:
        error = measured(form.parts)
        if error <= _LIMIT * tol:
            return replace(form, error=error)
    return None


@dataclass
class JointStage:
    """Small networks for one problem at one tolerance, within so many multiplications."""

    problem: Problem
    tol: float
    work: float
    slim: bool = False

    def __post_init__(self) -> None:
        largest = self.problem.settings.tolerance == "max"
        self._fit_tol = self.tol * (_MAX if largest else 1.0)  # of the relative L2 error that is minimised
        self.data, self.scale = learning_data(self.problem)
        held = self.problem.held_out
        self._held, _ = with_outputs(self.problem, held.points.pairs(len(held.points)), self.scale)
        self._done, self._wary, self._hopeless = 0.0, False, False

    @property
    def share(self) -> float:
        """Of the work that is done."""
        return min(self._done / self.work, 1.0)

    def candidates(self) -> Iterator[Candidate]:
        """Candidates of growing size: the first width that fits, with several first weights, and the next ones."""
        widths, least = 0, _narrowest(self.problem, self.tol)
        for hidden in (h for h in _HIDDEN if h >= least):
            if widths == _SEEDS or hidden < least:
                continue
            if self._done > self.work * (1 if widths else _PATIENCE):
                return
            fitting, nearest = False, math.inf
            for seed in range(_SEEDS):
                if seed and self._done > self.work * (1 if widths or fitting else _PATIENCE):
                    break
                network, ratio = self._fitted(hidden, seed)
                if self._hopeless:  # too much work, or samples too few to say what the function is elsewhere
                    return
                nearest = min(ratio, nearest)
                if ratio <= 1:
                    fitting = True
                    candidate = self._candidate(network)
                    if self._error(candidate.network) < self.tol:  # the price may have been too much for it
                        yield candidate
                elif ratio > _NEAR:
                    break
            widths += fitting
            least = hidden if widths else hidden * nearest**_DECAY

    def _fit(self, network: SmallNetwork, rows: int, steps: int, price: Price | None = None, **options: Any) -> float:
        """Relative error after at most so many steps on the first rows."""
        data = self.data.first(rows)
        error, taken = minimise(network, data, steps, price, **options)
        self._spend(taken, len(data), network.weights())
        return error**0.5

    def _spend(self, steps: int, rows: int, weights: int) -> None:
        """Note the cost of some steps."""
        self._done += self._cost(steps, rows, weights)

    def _cost(self, steps: int, rows: int, weights: int) -> float:
        return float(steps * rows * self.data.outputs.shape[1] * weights * (weights + _OVERHEAD))

    def _fitted(self, hidden: int, seed: int) -> tuple[SmallNetwork, float]:
        """A network of some width, and its error over what is near enough."""
        network = fresh(self.problem, self.data, self.scale, widths_of(self.problem.network, hidden), seed)
        goal, enough = (_FIT_GOAL * self._fit_tol) ** 2, _FIT_ENOUGH * self._fit_tol
        coarse = network.weights() > _OVERHEAD and self.tol >= _COARSE
        steps = round(_FIT_STEPS * max(_FIT_MORE ** math.log10(_FIT_TOL / self.tol), 1.0))
        rows = self._rows(network, _FIT_ROWS)
        if self._cost(steps, rows, network.weights()) > _PATIENCE * self.work:
            self._hopeless = True
            return network, math.inf
        error = self._fit(network, rows, steps, damping=1.0, goal=goal, gain=_FIT_GAIN, coarse=coarse)
        if error <= enough < network.error(self.data) ** 0.5:
            self._wary = True  # what a part of the samples taught does not hold for the others
            error = self._fit(network, len(self.data), steps, goal=goal, gain=_FIT_GAIN, coarse=coarse)
        held = self._error(network) / self.tol
        self._hopeless |= error <= enough and held > _FAILED
        return network, max(error / enough, held)

    def _rows(self, network: SmallNetwork, least: int) -> int:
        """Samples that a network learns from: some times its weights, or all once that was too few."""
        return len(self.data) if self._wary else max(least, _ROWS_PER_WEIGHT * network.weights())

    def _candidate(self, network: SmallNetwork) -> Candidate:
        level = 0.0
        for steps, share in _ROUNDS:
            level = _SHARE * self._fit_tol**2 / max(network.weights(), 1)
            rows = self._rows(network, _ROUND_ROWS)
            self._fit(network, rows, steps, Price.of(network.layers, level))
            if share:
                prune(network, share)
        if self.slim:
            network = self._slimmer(network, level)
        compact(network)
        return Candidate(network, level)

    def _slimmer(self, network: SmallNetwork, level: float) -> SmallNetwork:
        """Without the neurons that the others can make up for."""
        rows = self._rows(network, _ROUND_ROWS)
        while self._done < self.work * _PATIENCE:
            other = network.clone()
            if not drop_weakest(other, self.data.first(rows).inputs):
                break
            if self._fit(other, rows, _DROP_STEPS, Price.of(other.layers, level)) > _FIT_ENOUGH * self._fit_tol:
                break
            network = other
        return network

    def quantise(self, candidate: Candidate) -> None:
        """Find quantised forms near the tolerance."""
        for zone in _ZONES:
            for holding in _HOLDINGS:
                self._settle(candidate, Rounding(candidate.level, zone, holding))

    def scatter(self, candidate: Candidate) -> None:
        """Forms at random around the best: each rounding is a draw, and a lucky one is smaller."""
        rng = np.random.default_rng(len(candidate.forms))
        begin = self._done
        while len(candidate.forms) < _FORMS and (
            self._done - begin < _SCATTER * self.work or not self._holds(candidate)
        ):
            base = min(candidate.forms, key=lambda form: form.trial(self.slim).score(self.tol))
            level = base.rounding.level * math.exp(2 * self._gap(base.error) + 0.15 * rng.standard_normal())
            zone = min(max(base.rounding.dead_zone + 0.05 * rng.standard_normal(), 0.0), 0.3)
            holding = float(rng.choice([*_HOLDINGS, base.rounding.holding]))
            candidate.forms.append(
                self._form(candidate, replace(base.rounding, level=level, dead_zone=zone, holding=holding))
            )

    def _holds(self, candidate: Candidate) -> bool:
        return any(form.error <= _LIMIT * self.tol for form in candidate.forms)

    def _gap(self, error: float) -> float:
        """Logarithm of how far an error is below the tolerance."""
        gap = math.log(_AIM * self.tol / max(error, 1e-300)) if math.isfinite(error) else -_FAR
        return max(-_FAR, min(gap, _FAR))

    def _settle(self, candidate: Candidate, rounding: Rounding) -> None:
        for _ in range(_SETTLING):
            form = self._form(candidate, rounding)
            candidate.forms.append(form)
            gap = self._gap(form.error)
            if abs(gap) < _CLOSE:
                return
            rounding = replace(rounding, level=rounding.level * math.exp(2 * gap))

    def _form(self, candidate: Candidate, rounding: Rounding) -> Form:
        network = candidate.network.clone()
        data = self.data.first(self._rows(network, _FORM_ROWS))
        grids = quantised(network, data, candidate.level, rounding)
        parts = embedded(self.problem.network, network, grids)
        steps = len(grids) * rounding.parts * (2 + rounding.refits) // 3  # of fewer and fewer weights
        self._spend(steps, len(data), network.weights())
        nbytes = sum(len(part.payload(False)) for part in parts.values())
        return Form(parts, nbytes, self._error(network), rounding, living(parts.values()))

    def _error(self, network: SmallNetwork) -> float:
        """As the tolerance defines it, on held-out points."""
        kind = self.problem.settings.tolerance
        return max(block_errors(kind, [self._held.outputs], [network.outputs(self._held.inputs)]))


def _narrowest(problem: Problem, tol: float) -> float:
    """Neurons of a layer below which no fit is tried: with fewer weights than the linearised rate asks for."""
    points = problem.calibration.points.pairs(LIMIT_ROWS)
    wanted = _WEIGHTS_PER_BYTE * rate_limit_bytes(problem.network, points, tol)
    enough = (hidden for hidden in _HIDDEN if inner_weights(problem.network, hidden) >= wanted)
    return next(enough, _HIDDEN[-1])


def embedded(network: Network, small: SmallNetwork, grids: list[Grid]) -> Parts:
    """The small network's layers in the first neurons of the large one's."""
    return {
        layer.layer.weight: Compact(canonical(placed(network, layer.layer, grid)))
        for layer, grid in zip(small.layers, grids, strict=True)
    }
