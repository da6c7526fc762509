"""The joint stage of the outputs metric: a small network learns the large one's function, is pruned and quantised as a
whole, and takes its place in the first neurons of each layer.

Neurons then have nothing to do with the original's: only the function is bounded.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hmcompress.network.bound.error import block_errors
from hmcompress.network.bound.problem import Problem
from hmcompress.network.joint.distil import LEARNED_ROWS, Fit, Origin, learning_data, with_outputs
from hmcompress.network.joint.form_search import FormSearch, QuantisedForm, form_work, multiplications
from hmcompress.network.joint.forms_of_many import FormsOfMany
from hmcompress.network.joint.least_squares import Price, minimise
from hmcompress.network.joint.many import many_outputs
from hmcompress.network.joint.origin import fresh, narrowest, numbers_of_neurons, patience
from hmcompress.network.joint.small import Data, SmallNetwork
from hmcompress.network.layerwise.propagate import Parts
from hmcompress.network.layerwise.trial import LIMIT, Trial

_FIT_STEPS, _FIT_GOAL, _FIT_ENOUGH = 60, 0.3, 0.7  # of the first fit; goals in units of the tolerance
_FIT_MORE, _FIT_TOL = 2.0, 1e-2  # times the steps for each decade below this tolerance
_ALMOST = 1.5  # error over what is near enough up to which a fit goes on
_FIT_GAIN = 0.01  # of a step below which a fit is about to end
_COARSE = 3e-3  # tolerance from which J^T J in single precision is enough
_FIT_ROWS = 2048
_ROUND_ROWS = 4096
_FORM_ROWS, _FORM_ROWS_PER_WEIGHT = 1024, 10
_REORDERED = 3  # forms whose neurons change places
_ROWS_PER_WEIGHT = 4
_ROUNDS = ((30, 0.03), (30, 0.03), (30, 0.03), (15, 0.0))  # steps under a price, then the share below which weights go
_ROUND_STEPS = sum(steps for steps, _ in _ROUNDS)
_SHARE = 0.5  # of the squared tolerance that the price counts on for quantisation
_BEST, _NEARLY = 2, 1.08  # candidates whose rounding is tried at random, and how near the best they must come
_SCATTER, _POLISH = 0.5, 0.3  # shares of the work for that, and for their last layers
_TINY = 64  # bytes of a form that holds, up to which no more are tried: a file takes several times as much beside them
_FIRST_PART, _LAST_PART = 0.5, 0.9  # of the time that the search for candidates takes, and when rounding ends
_NEAR = 1.5  # error over what is near enough up to which other first weights are tried
_WORTH = 1.25  # times the best first form's bytes up to which a candidate is tried further
_DECAY = 0.1  # power of the error by which the width grows where a fit fails
_DEAREST = 1.5  # times the work allowed, for a single fit
_WITH_DERIVATIVES = 4  # times as much for a single fit of derivatives, beside which passes are dear too
_WELL = 0.9  # of the tolerance: the error of a form that holds by more than chance
_FAILED = 1.5  # held-out error over the tolerance of a network that fits all samples
_DROP_STEPS = 15  # after a neuron went
_MAX = 0.5  # L2 error over the largest deviation, both relative
_SEEDS, _WIDTHS = 6, 3  # first weights of each width, and widths
_CHEAP = 0.08  # share of the work up to which first weights are tried whatever came of the others
_HEAVY, _LIGHTER = 1e6, 4  # multiplications for a sample, from which on forms have fewer; how many times
_OF_MANY, _SEVERAL = 2, 2  # times the work, and as few samples, where each says modes of many outputs
_FEW = 200  # weights up to which J^T J in single precision gains nothing
_WORK = {"default": 3e11, "max": 3e12}  # multiplications at most, by effort
_PATIENCE = {"default": 1, "max": 2}  # times the usual number of forms in vain


def smallest_joint(
    problem: Problem,
    origin: Origin,
    tol: float,
    effort: str,
    measured: Callable[[Parts], float],
    tick: Callable[[float], None],
    slim: bool = False,
) -> Trial | None:
    """The smallest form whose decoded network holds the tolerance by `measured`, or None.

    tick: told which share of the work is done. slim: neurons go first, and count beside bytes.
    """

    def told(share: float) -> None:
        tick(_FIRST_PART * share)

    stage = JointStage(problem, origin, tol, _WORK[effort], slim, tick=told, patience=_PATIENCE[effort])
    candidates: list[FormSearch] = []
    for some in stage.candidates():
        if not stage.settle(some, min((c.promise for c in candidates), default=math.inf), measured):
            break  # what fewer neurons have found stays
        candidates += some
    best = sorted(candidates, key=lambda candidate: candidate.promise)[:_BEST]
    best = [candidate for candidate in best if candidate.promise <= _NEARLY * best[0].promise]
    for k, candidate in enumerate(best):
        if effort != "max" and any(form.cost <= _TINY for form in candidate.holding()):
            break
        candidate.scatter(_SCATTER * stage.work / len(best))
        candidate.polish(_POLISH * stage.work / len(best))
        tick(_FIRST_PART + (_LAST_PART - _FIRST_PART) * (k + 1) / len(best))
    tick(1.0)
    holding = _holding(candidates)
    for begin in range(0, len(holding), _REORDERED):
        next_ones = holding[begin : begin + _REORDERED]  # a second each
        trials = [candidate.held(form, measured) for form, candidate in next_ones]
        if found := [trial for trial in trials if trial is not None]:
            return min(found, key=lambda trial: trial.cost)
    return None


def _holding(candidates: Sequence[FormSearch]) -> list[tuple[QuantisedForm, FormSearch]]:
    """The forms that hold, smallest first, and whose they are; of those that are alike, one."""
    found = {(form.cost, form.error): (form, candidate) for candidate in candidates for form in candidate.holding()}
    return [found[key] for key in sorted(found)]


@dataclass
class JointStage:
    """Small networks for one problem at one tolerance, within so many multiplications."""

    problem: Problem
    origin: Origin
    tol: float
    work: float
    slim: bool = False
    rows: int = LEARNED_ROWS
    tick: Callable[[float], None] = lambda share: None
    patience: int = 1  # of the search over forms

    def __post_init__(self) -> None:
        largest = self.problem.settings.tolerance == "max"
        self.fit_tol = self.tol * (_MAX if largest else 1.0)  # of the relative L2 error that is minimised
        self.data, self.scale = learning_data(self.problem, self.origin, self.rows)
        held = self.problem.held_out
        self._held, _ = with_outputs(self.problem, self.origin, held.points.pairs(len(held.points)), self.scale)
        self.many = many_outputs(self.problem, self.origin, self.tol)
        self.work *= _OF_MANY if self.many else 1
        self.done = 0.0

    def _did(self, work: float) -> None:
        self.done += work
        self.tick(min(self.done / self.work, 1.0))

    def candidates(self) -> Iterator[list[FormSearch]]:
        """Candidates of growing size: the first width that fits, with several first weights, and the next ones."""
        widths, least = 0, narrowest(self.problem, self.origin, self.tol)
        for hidden in numbers_of_neurons(self.origin):
            if widths == _WIDTHS or hidden < least:
                continue
            if self.done > self.work * (_FIRST_PART if widths else patience(self.origin)):
                return
            fits = self._fits(hidden, widths > 0)
            fitting = [fit for fit in fits if fit.ratio <= 1]
            if fitting:
                yield self._candidates(fitting)
            if any(fit.hopeless for fit in fits):
                return
            widths += bool(fitting)
            least = hidden if widths else hidden * min(fit.ratio for fit in fits) ** _DECAY

    def settle(self, candidates: Sequence[FormSearch], best: float, measured: Callable[[Parts], float]) -> bool:
        """First forms of the candidates, and more of those that come near the best; that of others is `best`.

        Those of few weights come first, as far as the work allows. False: where each form takes long, the first ones
        hold well and only by those samples that they were chosen by.
        """
        begun: list[FormSearch] = []
        for candidate in sorted(candidates, key=lambda candidate: candidate.network.weights()):
            if not begun or self.done < self.work:
                candidate.begin()
                self._did(candidate.work)
                begun.append(candidate)
                if candidate.network.each and self._holds_by_chance(candidate, measured):
                    return False
        for k, candidate in enumerate(sorted(begun, key=lambda candidate: candidate.promise)):
            best = min(best, candidate.promise)
            if candidate.promise <= _WORTH * best and (not k or self.done < self.work):
                before = candidate.work
                candidate.settle(self.work)
                self._did(candidate.work - before)
        return True

    def _holds_by_chance(self, candidate: FormSearch, measured: Callable[[Parts], float]) -> bool:
        """Whether it has forms that leave some of the tolerance, and none of these holds by all that is measured."""
        well = [form for form in candidate.forms if form.error <= _WELL * self.tol]
        return bool(well) and all(measured(candidate.embedded(form)) > LIMIT * self.tol for form in well)

    def _fits(self, hidden: int, some: bool) -> list[Fit]:
        """Networks of one width from several first weights. `some`: of a smaller width fit already."""
        fits: list[Fit] = []
        for seed in range(_SEEDS):
            fits.append(self._fitted(hidden, seed))
            self._did(fits[-1].work)
            nearest = min(fit.ratio for fit in fits)
            enough = self.work * (_FIRST_PART if some or nearest <= 1 else patience(self.origin))
            cheap = sum(fit.work for fit in fits) < _CHEAP * self.work
            far = nearest > _NEAR or (nearest > 1 and seed)
            if self.done > enough or fits[-1].hopeless or (far and not cheap):
                break
        return fits

    def _fitted(self, hidden: int, seed: int) -> Fit:
        """A network of some width and first weights."""
        network = fresh(self.origin, self.data, self.scale, hidden, seed)
        goal, enough = (_FIT_GOAL * self.fit_tol) ** 2, _FIT_ENOUGH * self.fit_tol
        coarse = network.weights() > _FEW and self.tol >= _COARSE
        options: dict[str, Any] = {"goal": goal, "gain": _FIT_GAIN, "coarse": coarse}
        steps = round(_FIT_STEPS * max(_FIT_MORE ** math.log10(_FIT_TOL / self.tol), 1.0))
        rows = max(_FIT_ROWS, _ROWS_PER_WEIGHT * network.weights())
        rows = self._enough(network, _FIT_ROWS) if self.many else rows
        dearest = _DEAREST * self.work * (1 if self.data.stencil is None else _WITH_DERIVATIVES)
        if multiplications(steps, self.data.first(rows), network.weights(), network.each) > dearest:
            return Fit(network, math.inf, 0.0, hopeless=True)
        error, work = self._fit(network, rows, steps, damping=1.0, **options)
        if enough < error <= _ALMOST * enough:
            error, more = self._fit(network, rows, steps, **options)
            work += more
        wary = error <= enough < network.error(self.data) ** 0.5
        if wary:
            error, more = self._fit(network, len(self.data), steps, **options)
            work += more
        held = self.error(network) / self.tol
        hopeless = error <= enough and held > _FAILED
        return Fit(network, max(error / enough, held), work, wary, hopeless)

    def _fit(
        self, network: SmallNetwork, rows: int, steps: int, price: Price | None = None, **options: Any
    ) -> tuple[float, float]:
        """Relative error after at most so many steps on the first rows, and the work."""
        data = self.data.first(rows)
        error, taken = minimise(network, data, steps, price, **options)
        return error**0.5, multiplications(taken, data, network.weights(), network.each)

    def _rows(self, fit: Fit, network: SmallNetwork) -> int:
        """Samples that it learns from under a price: some for each of its weights, or all where that was too few."""
        work = multiplications(_ROUND_STEPS, self.data, network.weights(), network.each)
        serves = not network.each or work <= self.work  # where samples run the module, all may take far too long
        return len(self.data) if fit.wary and serves else self._enough(network, _ROUND_ROWS)

    def _enough(self, network: SmallNetwork, least: int, each: int = _ROWS_PER_WEIGHT) -> int:
        """Rows: fewer where each says several things, its derivatives or several outputs among them."""
        fewer, outputs = 2 * self.data.blocks, self.data.outputs.shape[1]  # samples around which the function is known
        if self.data.blocks == 1:  # outputs may have weights of their own, but where each sample runs the module
            fewer = max(outputs // 2, 1) if self.data.beyond is None and not self.many else outputs
        floor = _FORM_ROWS // (_SEVERAL if self.many else 1)
        return max(least // fewer, min(least, floor), each * network.weights() // fewer)

    def _candidates(self, fitting: Sequence[Fit]) -> list[FormSearch]:
        """The networks under a price and without what is not worth it, where that leaves the tolerance."""
        found = [self._candidate(fit) for fit in fitting]
        self.done += sum(work for _, work in found)
        return [c for c, _ in found if c.network.weights() and self.error(c.network) < self.tol]

    def _candidate(self, fit: Fit) -> tuple[FormSearch, float]:
        network, level, work = fit.network, 0.0, 0.0
        holding = (network, level)
        for steps, share in _ROUNDS:
            network.unwind()
            level = _SHARE * self.fit_tol**2 / max(network.weights(), 1)
            rows = self._rows(fit, network)
            error, more = self._fit(network, rows, steps, Price.of(network.layers, level))
            work += more
            if error < self.fit_tol:
                holding = (network.clone(), level)
            if share:
                network.prune(share)
        if self.error(network) >= self.tol:  # without what was pruned last it no longer holds
            network, level = holding
        if self.slim:
            network, more = self._slimmer(fit, network, level)
            work += more
        network.compact()
        return self._forms(fit, network, level), work

    def _forms(self, fit: Fit, network: SmallNetwork, level: float) -> FormSearch:
        """On samples as above, unless a form on all of them takes all of the work."""
        least = _FORM_ROWS // _LIGHTER if network.each > _HEAVY else _FORM_ROWS
        data = self.data if fit.wary else self.data.first(self._enough(network, least, _FORM_ROWS_PER_WEIGHT))
        if dear := network.each > 0 and form_work(network, data) > self.work:
            data = self.data.first(self._enough(network, least, _FORM_ROWS_PER_WEIGHT))
        return self.search_over(network, level, data, dear)

    def search_over(self, network: SmallNetwork, level: float, data: Data, dear: bool = False) -> FormSearch:
        """The search over forms of a network that learned the outputs, or their modes."""
        own, error = self.problem.network, self.error
        options = (own, network, level, data, error, self.tol, self.fit_tol, self.slim, dear, self.patience)
        return FormsOfMany(*options, many=self.many) if self.many else FormSearch(*options)

    def _slimmer(self, fit: Fit, network: SmallNetwork, level: float) -> tuple[SmallNetwork, float]:
        """Without the neurons that the others can make up for; and the work."""
        rows, work = self._rows(fit, network), 0.0
        while work < self.work:
            other = network.clone()
            if not other.drop_weakest(self.data.first(rows)):
                break
            error, more = self._fit(other, rows, _DROP_STEPS, Price.of(other.layers, level))
            work += more
            if error > _FIT_ENOUGH * self.fit_tol:
                break
            network = other
        return network, work

    def error(self, network: SmallNetwork) -> float:
        """As the tolerance defines it, on held-out points."""
        if self.many:
            return float(network.residual(self._held).norm() / self.scale[0]) / self.many.held.size
        kind = self.problem.settings.tolerance
        each = self._held.outputs.shape[1] // self._held.blocks
        blocks = (y.split(each, 1) for y in (self._held.outputs, network.outputs(self._held)))
        return max(block_errors(kind, *map(list, blocks)))
