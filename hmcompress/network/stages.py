"""What comes before the passes: a small network that learns the large one's function, in three sizes."""

import math
from collections.abc import Callable, Set
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hmcompress.errors import NetworkError
from hmcompress.network.allotment import weights_of
from hmcompress.network.bound.problem import Problem
from hmcompress.network.joint.chains import Chains
from hmcompress.network.joint.distil import Origin
from hmcompress.network.joint.ends import MOST_MODES
from hmcompress.network.joint.learned import smallest_learned
from hmcompress.network.joint.many import with_modes
from hmcompress.network.joint.middle import Middle, compressed, middle_network
from hmcompress.network.joint.origin import origins_of
from hmcompress.network.joint.smallest import smallest_joint
from hmcompress.network.joint.vectors import coded
from hmcompress.network.joint.web import Web
from hmcompress.network.joint.web_tracing import changed, evened
from hmcompress.network.joint.whole_quantise import smallest_whole
from hmcompress.network.layerwise.budget import budget_of, cost_of
from hmcompress.network.layerwise.original import Original, prepare
from hmcompress.network.layerwise.propagate import Knobs, Parts, coded_others, decoded
from hmcompress.network.layerwise.search import search
from hmcompress.network.layerwise.structure import structured_layers
from hmcompress.network.layerwise.subject import Subject
from hmcompress.network.layerwise.trial import Measure, Trial
from hmcompress.network.layerwise.way import START, Way
from hmcompress.settings.config import Settings
from hmcompress.work.progress import Progress

_RELATIVE = 0.2  # root mean square of an error of rounding to nearest, over the distance from one to the next number
_FINER_THAN = 0.01  # of the tolerance: such a distance below which nothing is lost
_LEARNED = 300  # numbers of a small network, about, beside which others take their share by how many they are
_LEAST, _MOST = 0.3, 0.8  # of the tolerance
_NEAR = 0.8  # of what is aimed at
_TRIES = 6


@dataclass
class SmallNetworks:
    """Joint stages and the middle way for one network; what found nothing is left out at lower tolerances."""

    subject: Subject
    in_vain: bool = False
    too_few: bool = False  # for its chains: the neurons of a joint stage
    middle: Middle | None = None  # that a search before this one has found

    def smallest(self, settings: Settings, measured: Measure, passes: Callable[[], float]) -> Trial | None:
        """Of those that hold by `measured`, where the settings and the network allow any; passes: about how many bytes
        these take."""
        if settings.effort == "fast" or settings.ntk_bound is not None or self.in_vain:
            return None
        if self.subject.problem.network.telling:  # all inputs are too many for it
            return None
        if lost_in_rounding(self.subject, settings.tol):
            return None
        found = self._smallest(settings, measured, passes)
        self.in_vain = found is None
        return found

    def _smallest(self, settings: Settings, measured: Measure, passes: Callable[[], float]) -> Trial | None:
        problem, data, guard = self.subject.problem, self.subject.data, self.subject.guard
        tick, slim = _fitting(self.subject.progress), settings.slim == "prefer"
        origin, found = None, None
        for origin in origins_of(problem):
            found = self._of_origin(origin, settings, guard.of_those_that_hold(measured))
            if found is not None:
                break
        if found is None and (origin is None or not problem.network.built_in):
            tol, effort = settings.tol, settings.effort
            found = smallest_whole(problem, data, tol, effort, measured, guard.holds, tick, passes, slim)
        if found is None and isinstance(origin, Chains) and origin.too_many:
            origin = with_modes(problem, origin, settings.tol, MOST_MODES)
        if found is None and isinstance(origin, Chains) and not (problem.order or origin.bent):
            found = self._middle(origin, settings, measured)
        return found

    def _of_origin(self, origin: Origin, settings: Settings, measured: Measure) -> Trial | None:
        problem = self.subject.problem
        try:
            origin, beside = self._settled(origin, settings)
        except NetworkError:  # it does not run with what the other weights have become
            return None

        def with_others(parts: Parts) -> float:
            return measured(parts | beside)

        if beside:  # which may have other values now, with which a middle network was learned
            self.middle = None
        found = None if self.too_few else self._joint(origin, settings, with_others)
        self.too_few = found is None and isinstance(origin, Chains)
        if found is None and isinstance(origin, Web) and not (problem.order or problem.network.repeated):
            wide = with_modes(problem, origin, settings.tol, MOST_MODES) if origin.too_many else origin
            found = None if wide is None else self._middle(wide, settings, with_others)
        if found is None:
            return None
        nbytes = found.nbytes + sum(len(part.payload(thorough=False)) for part in beside.values())
        return replace(found, parts=found.parts | beside, nbytes=nbytes)

    def _settled(self, origin: Origin, settings: Settings) -> tuple[Origin, Parts]:
        """With other weights as they will be, and these in coded form. Raises NetworkError where it does not run so."""
        if not isinstance(origin, Web):
            beside = self._beside(origin, settings)
            return origin.beside(self.subject.decoded(beside)), beside
        points = self.subject.problem.calibration.points
        even = evened(origin, self.subject.tensors, points)
        beside = self._beside(origin, settings, {name: coded(t) for name, t in even.items()})
        return changed(origin, self.subject.decoded(beside), points), beside

    def _beside(self, origin: Origin, settings: Settings, given: Parts | None = None) -> Parts:
        """The weights that are no layers of it, which are coded first; some are already."""
        problem, data = self.subject.problem, self.subject.data
        given = given or {}
        left = {*origin.network.others} - given.keys()
        data = replace(data, others={name: w for name, w in data.others.items() if name in left})
        if not data.others:
            return given
        structured = structured_layers(problem, self.subject.tensors, data.engine)
        return given | coded_beside(problem, data, settings.tol, structured)

    def _joint(self, origin: Origin, settings: Settings, measured: Measure) -> Trial | None:
        """The joint stage of dense chains, or of a module as a whole, beside other weights that are coded already."""
        problem, tick, slim = self.subject.problem, _fitting(self.subject.progress), settings.slim == "prefer"
        if origin.too_many:
            modes = with_modes(problem, origin, settings.tol)
            if modes is None:
                return None
            origin = modes
        if isinstance(origin, Web) and problem.network.repeated:
            problem = replace(problem, network=problem.network.with_repeated())
        return smallest_joint(problem, origin, settings.tol, settings.effort, measured, tick, slim)

    def _middle(self, origin: Origin, settings: Settings, measured: Measure) -> Trial | None:
        """Passes over a narrower network that learned the outputs, where one of some tens of neurons can."""
        problem, progress, tick = self.subject.problem, self.subject.progress, _fitting(self.subject.progress)
        middle = self.middle
        if middle is None or not middle.holds(problem, settings.tol):
            middle = self.middle = middle_network(problem, origin, settings.tol, settings.effort, tick)
        tick(1.0)
        if middle is None:
            return None
        others = () if isinstance(origin, Web) else problem.network.others  # those of a web are coded already
        learned = None if others else smallest_learned(problem, origin, settings, middle, measured)
        if learned is not None:
            return learned
        own = replace(problem, network=middle.network)
        data = prepare(own, self.subject.tensors, settings.effort)
        budget = budget_of(own, cost_of(own, data), settings.effort)

        def run(knobs: Knobs) -> Parts:
            return compressed(problem.network, middle, data, knobs)

        def told(done: int) -> None:
            progress("search", min(done, budget), budget)

        return search(run, measured, settings.tol, budget, told, Way(slim=settings.slim == "prefer"))


def _fitting(progress: Progress) -> Callable[[float], None]:
    return lambda share: progress("fit", round(100 * share), 100)


def lost_in_rounding(subject: Subject, tol: float) -> bool:
    """Whether noise as large as rounding errors on all weights makes an error of more than the tolerance: of 16 bits,
    where it is fine, too much is lost for weights that are learned anew."""
    weights = {name: w for name, w in weights_of(subject).items() if w.is_floating_point()}
    if not any(torch.finfo(w.dtype).eps > _FINER_THAN * tol for w in weights.values()):
        return False
    generator = torch.Generator().manual_seed(0)
    return subject.measure_of_tensors(tol, None)({name: _rounded(w, generator) for name, w in weights.items()}) > tol


def _rounded(w: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(w.shape, generator=generator, dtype=torch.float64)
    return w.double() * (1 + _RELATIVE * torch.finfo(w.dtype).eps * noise)


def coded_beside(problem: Problem, data: Original, tol: float, structured: Set[str]) -> Parts:
    """The other weights, so coarse that they use a part of the tolerance; without loss where nothing else holds.

    structured: those that the engine of the weights metric codes.
    """
    numbers = sum(w.numel() for w in data.others.values())
    aim = tol * min(max(math.sqrt(numbers / (numbers + _LEARNED)), _LEAST), _MOST)
    best: Parts = coded_others(data, Knobs(0.0), exact=True)
    delta, holds, fails = START * aim, 0.0, math.inf
    for _ in range(_TRIES if numbers else 0):
        parts = coded_others(data, Knobs(delta, structured=frozenset(structured)))
        error = _error_beside(problem, data, parts)
        if error <= aim:
            best, holds = parts, delta
            if error >= _NEAR * aim or error == 0:
                break
        else:
            fails = delta
        delta *= min(max(aim * (1 + _NEAR) / 2 / max(error, 1e-300), 1e-2), 1e2)
        if not holds < delta < fails:  # errors that jump lead back to where it has been
            delta = math.sqrt(holds * fails)
    return best


def _error_beside(problem: Problem, data: Original, parts: Parts) -> float:
    """Of the network with its own layers and these weights."""
    try:
        return max(problem.errors(problem.calibration, decoded(problem.network, data, parts)))
    except NetworkError:
        return math.inf
