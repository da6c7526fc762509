"""Weights that rules have given a tolerance of their own, beside those that the outputs' tolerance is for."""

from collections.abc import Callable, Mapping

from torch import Tensor

from hmcompress.errors import BoundError
from hmcompress.network.alone import Layers
from hmcompress.network.bound.outcome import measure
from hmcompress.network.bound.problem import Problem
from hmcompress.report.records import NetworkRecord
from hmcompress.settings.config import Settings

Tensors = Mapping[str, Tensor]

_TRIES = 3  # of which each aims lower
_LOWER = 0.97  # than what would do


def within(
    problem: Problem, settings: Settings, fixed: Tensors, coded: Callable[[Settings], tuple[Layers, Tensors]]
) -> tuple[Layers, Tensors, NetworkRecord]:
    """What `coded` finds at a tolerance with which the outputs hold theirs although `fixed` tensors are off as well.

    Returns its layers, all decoded tensors, and what was measured with these. Raises BoundError where the bound cannot
    be met, or the fixed ones leave no room.
    """
    if fixed:
        _check_room(problem, settings, fixed)
    aim = settings
    for _ in range(_TRIES if fixed else 1):
        layers, found = coded(aim)
        stored = {**found, **fixed}
        record = measure(problem, settings, stored)
        over = _over(record, settings)
        if over <= 1 or not layers:
            break
        aim = _scaled(aim, _LOWER / over)
    if fixed and over > 1:
        raise BoundError(_told(over))
    if not record.error <= settings.tol:
        raise BoundError(f"the decoded network's error is {record.error:.3g}, above tol {settings.tol:g}")
    return layers, stored, record


def _check_room(problem: Problem, settings: Settings, fixed: Tensors) -> None:
    """Raise BoundError where fixed tensors by themselves take more than the tolerance."""
    share = max(problem.errors(problem.held_out, fixed)) / settings.tol
    if not share <= 1:
        raise BoundError(_told(share))


def _told(share: float) -> str:
    return (
        f"layers: with the tolerances that rules give them, the network's error is {share:.3g} of what it may be: "
        "give them smaller ones"
    )


def _over(record: NetworkRecord, settings: Settings) -> float:
    """The largest of the errors that are bounded, over its bound."""
    kernel, bound = record.ntk, settings.ntk_bound
    return max(record.error / settings.tol, 0.0 if kernel is None or bound is None else kernel.error / bound.tol)


def _scaled(settings: Settings, factor: float) -> Settings:
    kernel = settings.ntk_bound
    bound = settings.ntk if kernel is None else kernel.model_copy(update={"tol": factor * kernel.tol})
    return settings.model_copy(update={"tol": factor * settings.tol, "ntk": bound})
