"""The search over passes, in each of the ways that may find the smallest file."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from hmcompress.network.bound.kernel_bound import TangentBound
from hmcompress.network.bound.problem import Problem
from hmcompress.network.layerwise.brief import brief_search
from hmcompress.network.layerwise.budget import budget_of, cost_of, forward_cost_of, is_brief
from hmcompress.network.layerwise.propagate import Parts, run_pass
from hmcompress.network.layerwise.search import search
from hmcompress.network.layerwise.structure import located_layers, structured_layers, wide_layers
from hmcompress.network.layerwise.subject import Subject
from hmcompress.network.layerwise.trial import Measure, Trial
from hmcompress.network.layerwise.way import START, Way
from hmcompress.settings.config import Settings

_CHEAP = 1e9  # multiplications of a pass up to which several ways are gone
_KERNEL = 2  # times as many where the kernel is bounded too, which no other way serves
_FEW_ROWS = 4  # calibration samples for each input of the widest layer, below which the metric needs a floor
_MANY, _ABOVE = 3e5, 2.0  # numbers; times the level at which no rounding would help another
_WORTH = 1.2  # times the bytes of one way to search, up to which the first passes of another are worth the others


def trials_by_passes(
    subject: Subject, settings: Settings, measured: Measure, kernel: TangentBound | None
) -> list[Trial]:
    """The smallest trial of each way that finds one. kernel: the bound on it, if there is one."""
    problem, data, progress = subject.problem, subject.data, subject.progress
    work = cost_of(problem, data)
    times, forward = 1 if kernel is None else _KERNEL, forward_cost_of(problem, data)
    budget = budget_of(problem, work, settings.effort, times, forward)
    ways = _ways(subject, settings, kernel is not None, work)
    look: Callable[..., Trial | None] = search

    def beyond(parts: Parts) -> float:
        return subject.guard.error(parts) / subject.guard.tol

    if kernel is None and is_brief(problem, budget, settings.effort) and not ways[0].structured:
        ways, look = [_briefly(subject, ways[0])], partial(brief_search, guard=beyond)
    found: list[Trial] = []

    def prefer(parts: Parts) -> bool:
        return subject.guard.holds(parts) and (kernel is None or kernel.trains_alike(subject.decoded(parts)))

    def tick(way: int, done: int) -> None:
        progress("search", min(done, budget) + way * budget, len(ways) * budget)

    for k, way in enumerate(ways):
        run, worth = partial(run_pass, problem.network, data), _WORTH * min((t.cost for t in found), default=math.inf)
        trial = look(run, measured, settings.tol, budget, partial(tick, k), way, worth=worth, prefer=prefer)
        tick(k, budget)
        found += [] if trial is None else [trial]
    return found


def _ways(subject: Subject, settings: Settings, kernel: bool, work: int) -> list[Way]:
    """With regularisers that keep the kernel where it is bounded, and otherwise both without and with them, as long as
    passes cost little: what holds the kernel too may be the smaller way. With few samples also near the original
    weights, which comes before the firm ones: where it is much smaller, these end after their first passes."""
    problem = subject.problem
    structured = structured_layers(problem, subject.tensors, subject.data.engine)
    factored = wide_layers(problem, subject.tensors) if problem.network.kind == "linear" else structured
    few, dense = _too_few_rows(problem), bool(problem.network.layers)
    plain = Way(
        _first_level(subject),
        few=few,
        dense=dense,
        slim=settings.slim == "prefer",
        structured=structured,
        factored=factored,
        located=located_layers(factored & subject.data.targets.keys(), subject.data),
        fields=bool(subject.data.fields) and problem.network.kind != "linear",
    )
    if kernel:
        return [replace(plain, firm=True)]
    if problem.order or factored or work > _CHEAP or not dense:
        return [replace(plain, near=None if few else False)]
    return [plain, *([replace(plain, near=True)] if few else []), replace(plain, firm=True)]


def _first_level(subject: Subject) -> float:
    """Water level over tolerance with which many other weights, of which none makes up for another, come near it."""
    return _level_of(sum(subject.tensors[name].numel() for name in subject.data.other_metrics))


def _briefly(subject: Subject, way: Way) -> Way:
    """The same way where passes are dear, from the first level for all weights."""
    layers = sum(math.prod(subject.problem.network.shape(layer)) for layer in subject.problem.network.layers)
    count = layers + sum(subject.tensors[name].numel() for name in subject.data.other_metrics)
    return replace(way, level=_level_of(count), rows=any(z.ndim > 2 for z, *_ in subject.data.targets.values()))


def _level_of(count: int) -> float:
    return START if count < _MANY else min(START, _ABOVE * math.sqrt(12 / count))


def _too_few_rows(problem: Problem) -> bool:
    widest = max((problem.network.read(layer) for layer in problem.network.layers), default=1)
    return min(len(t) for t in problem.calibration.points.tensors) < _FEW_ROWS * widest
