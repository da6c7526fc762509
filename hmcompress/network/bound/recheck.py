"""Does a compressed network keep its bounds: recomputed on the stored seed's held-out points, and on fresh ones."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from hmcompress.errors import NetworkError
from hmcompress.network.bound.growth import growth_of_layers
from hmcompress.network.bound.kernel_bound import TangentBound
from hmcompress.network.bound.problem import Problem, pose
from hmcompress.network.model.inputs import file_of
from hmcompress.network.model.products import canonical, with_products
from hmcompress.report.records import NetworkRecord
from hmcompress.report.verdicts import VerifyNetwork
from hmcompress.settings.config import Settings


def recheck(
    settings: Settings,
    original: Mapping[str, Tensor],
    decoded: Mapping[str, Tensor],
    source: Path | None = None,
    structured: Callable[[str, Tensor], bool] = lambda name, w: False,
) -> VerifyNetwork:
    """Recompute the bounds of a network from its original and decoded tensors. Raises NetworkError.

    structured: whether a weight that a module multiplies by is none of the layers whose kernel is bounded.
    """
    file = file_of(settings.calibration)
    if file is not None and not Path(file).is_file():
        raise NetworkError(f"{file}: the file that the held-out points come from is not here: give it as --inputs FILE")
    problem = pose(settings, original, source)
    error = max(problem.errors(problem.held_out, decoded))
    growth = growth_of_layers(problem, decoded)
    bound, layers = settings.ntk_bound, decoded
    kernel = None
    if bound is not None:
        network = with_products(problem.network, problem.calibration.points, structured, None)
        kernel, layers = TangentBound.of(replace(problem, network=network), bound), canonical(network, decoded)
    return VerifyNetwork(
        tol=settings.tol,
        error=error,
        fresh_error=_on_fresh_points(problem, decoded),
        largest_growth=max(growth, key=lambda layer: layer.growth).name if growth else None,
        ntk_tol=None if kernel is None else kernel.tol,
        ntk_error=None if kernel is None else kernel.error(layers),
        held_out=len(problem.held_out.points),
    )


def _on_fresh_points(problem: Problem, decoded: Mapping[str, Tensor]) -> float | None:
    """None where the original has no outputs on them: nothing is bounded there."""
    try:
        return problem.fresh_error(decoded)
    except NetworkError:
        return None


def as_stored(record: NetworkRecord, tol: float | None = None) -> VerifyNetwork:
    """What the file itself says about its network; `tol` replaces the stored bound."""
    growth = record.layers
    return VerifyNetwork(
        tol=record.tol if tol is None else tol,
        error=record.error,
        largest_growth=max(growth, key=lambda layer: layer.growth).name if growth else None,
        ntk_tol=None if record.ntk is None else record.ntk.tol,
        ntk_error=None if record.ntk is None else record.ntk.error,
    )
