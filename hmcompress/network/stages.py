"""What comes before the passes: a small network that learns the large one's function, in three sizes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from hmcompress.config import Settings
from hmcompress.network.bound.problem import Problem
from hmcompress.network.joint.beside import coded_beside
from hmcompress.network.joint.chains import Chains
from hmcompress.network.joint.distil import chains_of
from hmcompress.network.joint.middle import compressed, middle_network
from hmcompress.network.joint.smallest import smallest_joint
from hmcompress.network.joint.whole_quantise import smallest_whole
from hmcompress.network.layerwise.budget import budget_of, cost_of
from hmcompress.network.layerwise.guard import Guard
from hmcompress.network.layerwise.original import Original, prepare
from hmcompress.network.layerwise.propagate import Parts, decoded
from hmcompress.network.layerwise.search import Measure, Trial, search
from hmcompress.network.layerwise.structure import structured_layers
from hmcompress.progress import Progress


@dataclass
class SmallNetworks:
    """Joint stages and the middle way for one network; what found nothing is left out at lower tolerances."""

    problem: Problem
    tensors: Mapping[str, Tensor]
    data: Original
    guard: Guard
    progress: Progress
    in_vain: bool = False

    def smallest(self, settings: Settings, measured: Measure) -> Trial | None:
        """Of those that hold by `measured`, where the settings and the network allow any."""
        if settings.effort == "fast" or settings.ntk_bound is not None or self.in_vain:
            return None
        found = self._smallest(settings, measured)
        self.in_vain = found is None
        return found

    def _smallest(self, settings: Settings, measured: Measure) -> Trial | None:
        problem, data, guard = self.problem, self.data, self.guard
        tick, slim = _fitting(self.progress), settings.slim == "prefer"
        chains, found = chains_of(problem), None
        if chains is not None:
            beside: Parts = {}
            if data.others:
                beside = coded_beside(problem, data, settings.tol, structured_layers(problem, self.tensors))
                chains = chains.beside(decoded(problem.network, data, beside))
            found = _joint(problem, chains, settings, beside, guard.of_those_that_hold(measured), tick)
        if found is None and (chains is None or not problem.network.built_in):
            found = smallest_whole(problem, data, settings.tol, settings.effort, measured, guard.holds, tick, slim)
        if found is None and chains is not None and not problem.order:
            found = _middle(problem, chains, settings, self.tensors, measured, self.progress)
        return found


def _joint(
    problem: Problem,
    chains: Chains,
    settings: Settings,
    beside: Parts,
    measured: Measure,
    tick: Callable[[float], None],
) -> Trial | None:
    """The joint stage of dense chains, beside other weights that are coded already."""
    slim = settings.slim == "prefer"
    found = smallest_joint(
        problem, chains, settings.tol, settings.effort, lambda parts: measured(parts | beside), tick, slim
    )
    if found is None:
        return None
    nbytes = found.nbytes + sum(len(part.payload(thorough=False)) for part in beside.values())
    return replace(found, parts=found.parts | beside, nbytes=nbytes)


def _middle(
    problem: Problem,
    chains: Chains,
    settings: Settings,
    tensors: Mapping[str, Tensor],
    measured: Measure,
    progress: Progress,
) -> Trial | None:
    """Passes over a narrower network that learned the outputs, where one of some tens of neurons can."""
    tick = _fitting(progress)
    middle = middle_network(problem, chains, settings.tol, settings.effort, tick)
    tick(1.0)
    if middle is None:
        return None
    own = replace(problem, network=middle)
    data = prepare(own, tensors, settings.effort)
    budget = budget_of(own, cost_of(own, data), settings.effort)
    return search(
        lambda knobs: compressed(problem.network, middle, data, knobs),
        measured,
        settings.tol,
        budget,
        lambda done: progress("search", min(done, budget), budget),
        slim=settings.slim == "prefer",
    )


def _fitting(progress: Progress) -> Callable[[float], None]:
    return lambda share: progress("fit", round(100 * share), 100)
