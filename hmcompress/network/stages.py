"""What comes before the passes: a small network that learns the large one's function, in three sizes."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from hmcompress.network.joint.beside import coded_beside
from hmcompress.network.joint.chains import Chains
from hmcompress.network.joint.middle import compressed, middle_network
from hmcompress.network.joint.origin import Origin, origin_of
from hmcompress.network.joint.smallest import smallest_joint
from hmcompress.network.joint.whole_quantise import smallest_whole
from hmcompress.network.layerwise.budget import budget_of, cost_of
from hmcompress.network.layerwise.original import prepare
from hmcompress.network.layerwise.propagate import Knobs, Parts
from hmcompress.network.layerwise.search import Way, search
from hmcompress.network.layerwise.structure import structured_layers
from hmcompress.network.layerwise.subject import Subject
from hmcompress.network.layerwise.trial import Measure, Trial
from hmcompress.settings.config import Settings
from hmcompress.work.progress import Progress


@dataclass
class SmallNetworks:
    """Joint stages and the middle way for one network; what found nothing is left out at lower tolerances."""

    subject: Subject
    in_vain: bool = False

    def smallest(self, settings: Settings, measured: Measure) -> Trial | None:
        """Of those that hold by `measured`, where the settings and the network allow any."""
        if settings.effort == "fast" or settings.ntk_bound is not None or self.in_vain:
            return None
        found = self._smallest(settings, measured)
        self.in_vain = found is None
        return found

    def _smallest(self, settings: Settings, measured: Measure) -> Trial | None:
        problem, data, guard = self.subject.problem, self.subject.data, self.subject.guard
        tick, slim = _fitting(self.subject.progress), settings.slim == "prefer"
        origin, found = origin_of(problem), None
        if origin is not None:
            beside = self._beside(settings)
            origin = origin.beside(self.subject.decoded(beside)) if beside else origin
            found = self._joint(origin, settings, beside, guard.of_those_that_hold(measured))
        if found is None and (origin is None or not problem.network.built_in):
            found = smallest_whole(problem, data, settings.tol, settings.effort, measured, guard.holds, tick, slim)
        if found is None and isinstance(origin, Chains) and not (problem.order or origin.bent):
            found = self._middle(origin, settings, measured)
        return found

    def _beside(self, settings: Settings) -> Parts:
        """The weights that are no layers of it, which are coded first."""
        problem, data = self.subject.problem, self.subject.data
        if not data.others:
            return {}
        return coded_beside(problem, data, settings.tol, structured_layers(problem, self.subject.tensors, data.engine))

    def _joint(self, origin: Origin, settings: Settings, beside: Parts, measured: Measure) -> Trial | None:
        """The joint stage of dense chains, or of a module as a whole, beside other weights that are coded already."""
        problem, tick, slim = self.subject.problem, _fitting(self.subject.progress), settings.slim == "prefer"

        def with_others(parts: Parts) -> float:
            return measured(parts | beside)

        found = smallest_joint(problem, origin, settings.tol, settings.effort, with_others, tick, slim)
        if found is None:
            return None
        nbytes = found.nbytes + sum(len(part.payload(thorough=False)) for part in beside.values())
        return replace(found, parts=found.parts | beside, nbytes=nbytes)

    def _middle(self, chains: Chains, settings: Settings, measured: Measure) -> Trial | None:
        """Passes over a narrower network that learned the outputs, where one of some tens of neurons can."""
        problem, progress, tick = self.subject.problem, self.subject.progress, _fitting(self.subject.progress)
        middle = middle_network(problem, chains, settings.tol, settings.effort, tick)
        tick(1.0)
        if middle is None:
            return None
        own = replace(problem, network=middle)
        data = prepare(own, self.subject.tensors, settings.effort)
        budget = budget_of(own, cost_of(own, data), settings.effort)

        def run(knobs: Knobs) -> Parts:
            return compressed(problem.network, middle, data, knobs)

        def told(done: int) -> None:
            progress("search", min(done, budget), budget)

        return search(run, measured, settings.tol, budget, told, Way(slim=settings.slim == "prefer"))


def _fitting(progress: Progress) -> Callable[[float], None]:
    return lambda share: progress("fit", round(100 * share), 100)
