"""The outputs metric from end to end: a checkpoint and settings in, coded layers and the network's record out."""

import time
from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from functools import cache, partial

from threadpoolctl import threadpool_limits
from torch import Tensor

from hmcompress.checkpoint import Checkpoint
from hmcompress.errors import BoundError
from hmcompress.network.alone import Layers, MeasureOf, WeightsMetric, decoded_layers, smaller_alone
from hmcompress.network.bound.kernel_bound import TangentBound
from hmcompress.network.bound.outcome import (
    about_the_points,
    few_carry_the_error,
    fresh_points,
    lucky_points,
    outputs_that_jump,
    read_as,
    slim_sizes,
    too_few_samples,
    with_changed_inputs,
)
from hmcompress.network.bound.problem import Problem, pose
from hmcompress.network.bound.quantities import hidden
from hmcompress.network.layerwise.brief import glance
from hmcompress.network.layerwise.coded import lossless
from hmcompress.network.layerwise.fallback import nearest_weights, smaller_without_loss
from hmcompress.network.layerwise.propagate import run_pass, tensors_of
from hmcompress.network.layerwise.search import DEARER
from hmcompress.network.layerwise.structure import stays_with_engine
from hmcompress.network.layerwise.subject import Subject
from hmcompress.network.layerwise.telling import with_telling_columns
from hmcompress.network.layerwise.trial import Trial
from hmcompress.network.layerwise.ways import trials_by_passes
from hmcompress.network.model.failures import told_of_recomputation
from hmcompress.network.model.links import with_stacks
from hmcompress.network.model.network import Network
from hmcompress.network.model.products import canonical, with_products
from hmcompress.network.owned import kept, load_tensors, owned
from hmcompress.network.result import NetworkResult, as_saved, encoded_layer, encoded_tensor, in_checkpoint_order
from hmcompress.network.ruled import within
from hmcompress.network.stages import SmallNetworks
from hmcompress.settings.config import Settings
from hmcompress.work.parallel import keep_freed_memory
from hmcompress.work.progress import Progress, silent

_GLANCE = 5  # passes
_SEARCHES = 3  # at most, each aiming lower
_LOWER, _LOWEST = 0.99, 0.5  # than what would do; of what was aimed at before
_SURE = 2.0  # times the joint stage's bytes: what a few passes need where a whole search would not be smaller


@told_of_recomputation()
def compress_network(
    checkpoint: Checkpoint,
    settings: Settings,
    progress: Progress = silent,
    metric: WeightsMetric | None = None,
    ruled: Layers = (),
) -> NetworkResult:
    """Compress a network's layers so that its error on held-out points is at most settings.tol.

    metric: what codes weights by themselves; where it is given, the smaller result stays. ruled: layers that are coded
    already, to tolerances of their own, for which the others leave room.

    Raises NetworkError where the network cannot be built or run, BoundError where the bound cannot be met.
    """
    keep_freed_memory()
    saved = load_tensors(checkpoint)
    original = pose(settings, saved, checkpoint.path)
    work = _Work(checkpoint, saved, original, settings, progress, metric, ruled, decoded_layers(ruled))
    apart = kept(checkpoint, settings) | work.fixed.keys() if settings.ntk_bound is None else None
    network = with_products(original.network, original.calibration.points, stays_with_engine, apart)
    posed = replace(original, network=network)
    result = _compressed(work, posed)
    if not posed.network.products:
        return result
    own = replace(original, network=owned(original.network, checkpoint))  # with its ties, and its own sums of 16 bits
    errors = own.errors(own.held_out, decoded_layers(result.layers))
    if not max(errors) <= settings.tol:
        return _compressed(work, original)
    return replace(result, record=result.record.with_errors(errors))


@dataclass(frozen=True)
class _Work:
    """What is to be compressed, and how. original: the network as its module is; fixed: what ruled layers decode to;
    the rest as in compress_network."""

    checkpoint: Checkpoint
    saved: Mapping[str, Tensor]
    original: Problem
    settings: Settings
    progress: Progress
    metric: WeightsMetric | None
    ruled: Layers
    fixed: Mapping[str, Tensor]


def _compressed(work: _Work, posed: Problem) -> NetworkResult:
    """The same of a posed network, which may have layers for products."""
    settings, ruled, keep = work.settings, work.ruled, kept(work.checkpoint, work.settings)
    tensors, fixed = (canonical(posed.network, t) for t in (work.saved, work.fixed))
    if not posed.order:
        network = with_telling_columns(posed.network, posed.calibration.points, settings.tol)
        posed = replace(posed, network=network)
    problem, left_out = _owning(posed, work.checkpoint, keep), keep | fixed.keys() | work.fixed.keys()
    rest = _owning(posed, work.checkpoint, left_out) if fixed else problem
    coded = partial(_coded, work, rest, tensors, fixed, left_out)
    as_they_are = {x.bias: tensors[x.bias] for x in problem.network.layers if x.weight in fixed and x.bias is not None}
    layers, stored, record = within(problem, settings, {**as_they_are, **fixed}, coded)
    record, blank = with_changed_inputs(problem, record, stored)
    sizes = [slim_sizes(problem.network, record)] if settings.slim == "prefer" else []
    about = too_few_samples(record), lucky_points(record), *about_the_points(problem, settings)
    notes = _told(*about, *sizes, *blank)
    few = few_carry_the_error(problem, stored) or outputs_that_jump(problem, record, stored)
    parts = few, *hidden(problem, settings.tol, stored)
    said = _told(read_as(problem.network, settings), fresh_points(problem, record, stored), *parts)
    return NetworkResult((*layers, *ruled), record, notes, said)


def _owning(problem: Problem, checkpoint: Checkpoint, keep: Set[str]) -> Problem:
    """With those weights to be coded that are not to be kept."""
    network = owned(problem.network, checkpoint, keep)
    return replace(problem, network=with_stacks(network, problem.calibration.points))


def _coded(
    work: _Work,
    problem: Problem,
    tensors: Mapping[str, Tensor],
    fixed: Mapping[str, Tensor],
    left_out: Set[str],
    settings: Settings,
) -> tuple[Layers, Mapping[str, Tensor]]:
    """The smallest layers with which, beside fixed tensors, the outputs keep the tolerance, and what they decode to."""
    if not problem.network.layers and not problem.network.others:
        return (), {}
    start = time.perf_counter()
    with threadpool_limits(1, "blas"):  # whose threads wait in a loop, on the processors that torch's need
        subject = Subject.of(problem, tensors, settings.tol, settings.effort, work.progress, fixed)
        trial = _guarded(subject, settings)
        layers, stored = _encode(problem, trial, tensors, tuple(work.saved), time.perf_counter() - start)
        if work.metric is None or settings.slim == "prefer":
            return layers, stored
        if any(p.matrix.count > 1 or p.beside for p in problem.network.products):  # coded as they are saved
            if settings.ntk_bound is not None:  # of the layers, which are none of the saved parameters
                return layers, stored
            whole = _owning(work.original, work.checkpoint, left_out)
            subject = Subject.of(whole, work.saved, settings.tol, settings.effort, work.progress, work.fixed)
        return _smaller(subject, settings, work.metric, layers, stored, problem.network)


def _told(*lines: str | None) -> tuple[str, ...]:
    return tuple(line for line in lines if line is not None)


def _guarded(subject: Subject, settings: Settings) -> Trial:
    """What the search finds, where it holds on points that nothing was chosen by; else what one finds that aims lower,
    by as much as it was above the tolerance there."""
    small, aim = SmallNetworks(subject), settings
    found: list[tuple[float, Trial]] = []
    for _ in range(_SEARCHES):
        try:
            trials = _search(subject, aim, small)
        except BoundError:
            if not found:
                raise
            break
        smallest = min(trials, key=lambda trial: trial.cost)
        pairs = [(subject.guard.error_of_all(trial.parts), trial) for trial in trials]
        found += pairs
        holding = [trial for error, trial in pairs if error <= settings.tol]
        if any(trial.cost <= DEARER * smallest.cost for trial in holding):
            break
        excess = next(error for error, trial in pairs if trial is smallest) / settings.tol
        aim = aim.model_copy(update={"tol": aim.tol * max(_LOWER / excess, _LOWEST)})
    return min(found, key=lambda pair: (max(pair[0], settings.tol), pair[1].cost))[1]


def _search(subject: Subject, settings: Settings, small: SmallNetworks) -> list[Trial]:
    """What the joint stage finds, and the search over passes, which is left out where it cannot win."""
    problem, data, tol = subject.problem, subject.data, settings.tol
    kernel = _kernel(subject, settings)
    measured = subject.measure(tol, kernel)
    run = partial(run_pass, problem.network, data)
    glanced = cache(partial(glance, run, measured, tol, _GLANCE))
    joint = small.smallest(settings, measured, glanced)
    found = [] if joint is None else [joint]
    if joint is None or glanced() < _SURE * joint.nbytes:
        found += trials_by_passes(subject, settings, measured, kernel)
    if not found:
        exact = nearest_weights(problem.network, subject.tensors, data.engine, measured, tol)
        found = [] if exact is None else [exact]
    if not found:
        problem.errors(problem.held_out, subject.tensors)  # raises where no tensor can be replaced at all
        raise BoundError(f"no step keeps the network's error below {tol:g}: raise tol or give more samples")
    exact = smaller_without_loss(problem.network, subject.tensors, min(trial.nbytes for trial in found))
    return found if exact is None else [*found, exact]


def _kernel(subject: Subject, settings: Settings) -> TangentBound | None:
    return None if settings.ntk_bound is None else TangentBound.of(subject.problem, settings.ntk_bound)


def _encode(
    problem: Problem, trial: Trial, tensors: Mapping[str, Tensor], names: tuple[str, ...], seconds: float
) -> tuple[Layers, Mapping[str, Tensor]]:
    """The coded layers, in the order of names, and the decoded tensors that the file will give back."""
    layers, matrices, network = {}, {}, problem.network.as_coded(trial.parts)
    share = seconds / max(len(trial.parts), 1)
    for layer in network.layers:
        payload = trial.parts[layer.weight].payload(thorough=True)
        layers[layer.weight], matrices[layer.weight] = encoded_layer(layer, payload, tensors, share)
    for name in network.others:
        payload, w = trial.parts[name].payload(thorough=True), tensors[name]
        if w.ndim == 1:
            payload = min(payload, lossless(w).data, key=len)
        layers[name], matrices[name] = encoded_tensor(name, payload, w, share)
    saved = as_saved(layers, network.products, tensors)
    return in_checkpoint_order(saved, names), tensors_of(network, matrices)


def _smaller(
    subject: Subject,
    settings: Settings,
    metric: WeightsMetric,
    layers: Layers,
    stored: Mapping[str, Tensor],
    network: Network,
) -> tuple[Layers, Mapping[str, Tensor]]:
    """These layers, or the weights by themselves where that is smaller; and what they decode to."""

    def bounds() -> MeasureOf:
        return subject.measure_of_tensors(settings.tol, _kernel(subject, settings))

    alone = smaller_alone(subject, metric, bounds, sum(len(layer.payload) for layer in layers))
    if alone is None:
        return layers, stored
    return alone.layers, alone.tensors if subject.problem.network is network else canonical(network, alone.tensors)
