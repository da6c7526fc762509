"""The outputs metric from end to end: a checkpoint and settings in, coded layers and the network's record out."""

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from threadpoolctl import threadpool_limits
from torch import Tensor

from hmcompress.checkpoint import Checkpoint
from hmcompress.config import Settings
from hmcompress.container import EncodedLayer
from hmcompress.errors import BoundError, NetworkError
from hmcompress.network.bound.kernel_bound import TangentBound
from hmcompress.network.bound.outcome import (
    fresh_points,
    measure,
    read_as,
    slim_sizes,
    too_few_samples,
    with_changed_inputs,
)
from hmcompress.network.bound.problem import Problem, pose
from hmcompress.network.layerwise.budget import budget_of, cost_of
from hmcompress.network.layerwise.coded import lossless
from hmcompress.network.layerwise.fallback import nearest_weights
from hmcompress.network.layerwise.guard import Guard
from hmcompress.network.layerwise.original import Original, prepare
from hmcompress.network.layerwise.propagate import Parts, decoded, run_pass, tensors_of
from hmcompress.network.layerwise.search import Measure, Trial, glance, search
from hmcompress.network.layerwise.structure import structured_layers, wide_layers
from hmcompress.network.model.links import with_stacks
from hmcompress.network.owned import kept, load_tensors, owned
from hmcompress.network.result import NetworkResult, encoded_layer, encoded_tensor, in_checkpoint_order
from hmcompress.network.stages import SmallNetworks
from hmcompress.parallel import keep_freed_memory
from hmcompress.progress import Progress, silent

_CHEAP = 1e9  # multiplications of a pass up to which several ways are gone
_KERNEL = 2  # times as many where the kernel is bounded too, which no other way serves
_FEW_ROWS = 4  # calibration samples for each input of the widest layer, below which the metric needs a floor
_GLANCE = 5  # passes
_SEARCHES = 3  # at most, each aiming lower
_LOWER, _LOWEST = 0.99, 0.5  # than what would do; of what was aimed at before
_SURE = 2.0  # times the joint stage's bytes: what a few passes need where a whole search would not be smaller
_WORTH = 1.2  # times the bytes of one way to search, up to which the first passes of another are worth the others


def compress_network(checkpoint: Checkpoint, settings: Settings, progress: Progress = silent) -> NetworkResult:
    """Compress a network's layers so that its error on held-out points is at most settings.tol.

    Raises NetworkError where the network cannot be built or run, BoundError where the bound cannot be met.
    """
    start = time.perf_counter()
    keep_freed_memory()
    tensors = load_tensors(checkpoint)
    problem = pose(settings, tensors, checkpoint.path)
    network = owned(problem.network, checkpoint, kept(checkpoint, settings))
    problem = replace(problem, network=with_stacks(network, problem.calibration.points))
    with threadpool_limits(1, "blas"):  # whose threads wait in a loop, on the processors that torch's need
        trial = _guarded(problem, settings, tensors, progress)
    layers, stored = _encode(problem, trial, tensors, time.perf_counter() - start)
    record = measure(problem, settings, stored)
    if not record.error <= settings.tol:
        raise BoundError(f"the decoded network's error is {record.error:.3g}, above tol {settings.tol:g}")
    record, blank = with_changed_inputs(problem, record, stored)
    sizes = [slim_sizes(problem.network, record)] if settings.slim == "prefer" else []
    notes = [too_few_samples(record), *sizes, *blank]
    said = read_as(problem.network, settings), fresh_points(problem, record, stored)
    ordered = in_checkpoint_order(layers, checkpoint.names)
    return NetworkResult(ordered, record, *(tuple(n for n in some if n is not None) for some in (notes, said)))


def _guarded(problem: Problem, settings: Settings, tensors: Mapping[str, Tensor], progress: Progress) -> Trial:
    """What the search finds, where it holds on points that nothing was chosen by; else what one finds that aims lower,
    by as much as it was above the tolerance there."""
    data = prepare(problem, tensors, settings.effort)
    guard = Guard.of(problem, data, settings.tol)
    small = SmallNetworks(problem, tensors, data, guard, progress)
    found: list[tuple[float, Trial]] = []
    aim = settings
    while not found or (found[-1][0] > settings.tol and len(found) < _SEARCHES):
        try:
            trial = _search(problem, aim, tensors, data, guard, progress, small)
        except BoundError:
            if not found:
                raise
            break
        found.append((guard.error(trial.parts), trial))
        excess = max(found[-1][0] / settings.tol, 1.0)
        aim = aim.model_copy(update={"tol": aim.tol * max(_LOWER / excess, _LOWEST)})
    return min(found, key=lambda pair: (max(pair[0], settings.tol), pair[1].cost))[1]


def _search(
    problem: Problem,
    settings: Settings,
    tensors: Mapping[str, Tensor],
    data: Original,
    guard: Guard,
    progress: Progress,
    small: SmallNetworks,
) -> Trial:
    """The smaller of the joint stage's result and the search's over passes, which is left out where it cannot win."""
    bound = settings.ntk_bound
    kernel = None if bound is None else TangentBound.of(problem, bound)
    measured = _measure(problem, data, settings.tol, kernel)
    joint = small.smallest(settings, measured)
    run = partial(run_pass, problem.network, data)
    found = [] if joint is None else [joint]
    if joint is None or glance(run, measured, settings.tol, _GLANCE) < _SURE * joint.nbytes:
        found += _passes(problem, settings, tensors, data, measured, guard, progress, kernel)
    if not found:
        exact = nearest_weights(problem.network, tensors, data.engine, measured, settings.tol)
        found = [] if exact is None else [exact]
    if not found:
        problem.errors(problem.held_out, tensors)  # raises where no tensor can be replaced at all
        raise BoundError(f"no step keeps the network's error below {settings.tol:g}: raise tol or give more samples")
    return min(found, key=lambda t: (not guard.holds(t.parts), t.cost))


def _passes(
    problem: Problem,
    settings: Settings,
    tensors: Mapping[str, Tensor],
    data: Original,
    measured: Measure,
    guard: Guard,
    progress: Progress,
    bound: TangentBound | None,
) -> list[Trial]:
    """What the search over passes finds: with regularisers that keep the kernel where it is bounded, and otherwise both
    without and with them, as long as passes cost little: what holds the kernel too may be the smaller way. With few
    samples also near the original weights."""
    kernel = bound is not None
    work, structured = cost_of(problem, data), structured_layers(problem, tensors)
    budget = budget_of(problem, work, settings.effort, _KERNEL if kernel else 1)
    factored = wide_layers(problem, tensors) if problem.network.kind == "linear" else structured
    cheap = not problem.order and not factored and work <= _CHEAP
    dense = bool(problem.network.layers)
    few = _too_few_rows(problem)
    ways: list[tuple[bool, bool | None]] = [(kernel, None if few and not kernel else False)]  # firm, near
    if cheap and dense and not kernel:
        ways = [(False, False), (True, False), *([(False, True)] if few else [])]
    found: list[Trial] = []

    def prefer(parts: Parts) -> bool:
        if not guard.holds(parts):
            return False
        return bound is None or bound.trains_alike(decoded(problem.network, data, parts))

    def tick(way: int, done: int) -> None:
        progress("search", min(done, budget) + way * budget, len(ways) * budget)

    for k, (firm, near) in enumerate(ways):
        trial = search(
            partial(run_pass, problem.network, data),
            measured,
            settings.tol,
            budget,
            partial(tick, k),
            firm=firm,
            worth=_WORTH * min((t.cost for t in found), default=math.inf),
            few=few,
            near=near,
            structured=structured,
            factored=factored,
            slim=settings.slim == "prefer",
            dense=dense,
            prefer=prefer,
        )
        tick(k, budget)
        found += [] if trial is None else [trial]
    return found


def _measure(problem: Problem, data: Original, tol: float, kernel: TangentBound | None) -> Measure:
    """The error in units of tol; where the kernel is bounded too, whichever is further from its bound."""

    def measured(parts: Parts) -> float:
        held = decoded(problem.network, data, parts)
        try:
            error = max(problem.errors(problem.held_out, held))
            return error if kernel is None else max(error, tol * kernel.error(held) / kernel.tol)
        except NetworkError:  # the original ran on these points
            return math.inf

    return measured


def _too_few_rows(problem: Problem) -> bool:
    widest = max((problem.network.shape(layer)[1] for layer in problem.network.layers), default=1)
    return min(len(t) for t in problem.calibration.points.tensors) < _FEW_ROWS * widest


def _encode(
    problem: Problem, trial: Trial, tensors: Mapping[str, Tensor], seconds: float
) -> tuple[dict[str, EncodedLayer], dict[str, Tensor]]:
    """Payloads by weight, and the decoded tensors that the file will give back."""
    layers, matrices = {}, {}
    share = seconds / max(len(trial.parts), 1)
    for layer in problem.network.layers:
        payload = trial.parts[layer.weight].payload(thorough=True)
        layers[layer.weight], matrices[layer.weight] = encoded_layer(layer, payload, tensors, share)
    for name in problem.network.others:
        payload, w = trial.parts[name].payload(thorough=True), tensors[name]
        if w.ndim == 1:
            payload = min(payload, lossless(w).data, key=len)
        layers[name], matrices[name] = encoded_tensor(name, payload, w, share)
    return layers, tensors_of(problem.network, matrices)
