"""Are a network's second derivatives right? Of some operations torch gives wrong ones without a word."""

import torch
from torch import Tensor

from hmcompress.errors import NetworkError
from hmcompress.network.inputs import Points
from hmcompress.network.model import Inputs, Network
from hmcompress.network.tangents import along, directions

_ROWS = 64
_STEP = {torch.float64: 1e-5}  # of a coordinate's range; the roots of what outputs are rounded to
_COARSE = 3e-4  # in lower precision
_WRONG = 0.05  # rounding and kinks stay below it


def check_second_derivatives(network: Network, points: Points) -> None:
    """Raise NetworkError where second derivatives differ from the differences of first ones."""
    points = points.take(slice(0, _ROWS))
    for which, direction in directions(points):
        if _misfit(network, points, which, direction) > _WRONG:
            raise NetworkError(
                "calibration: derivatives: 2: torch computes wrong second derivatives of this network (of layer "
                "normalisation in an archive, instance normalisation, linalg.solve): write the operation as a formula "
                "in a factory, or use derivatives: 1"
            )


@torch.no_grad()
def _misfit(network: Network, points: Points, which: int, direction: Tensor) -> float:
    """Median distance of second derivatives from differences of first ones, relative to both and to the slope."""
    t = points.tensors[which]
    extent = float((t * direction).sum(-1).max() - (t * direction).sum(-1).min())
    step = _STEP.get(t.dtype, _COARSE) * (extent or 1.0)

    def slope(moved: Tensor) -> Tensor:
        tensors: Inputs = (*points.tensors[:which], moved, *points.tensors[which + 1 :])
        return along(Points(tensors, points.joint), which, direction, 1, network.call)[1].double()

    difference = (slope(t + step * direction) - slope(t - step * direction)) / (2 * step)
    _, first, second = (block.double() for block in along(points, which, direction, 2, network.call))
    size = difference.abs() + second.abs() + first.abs() / (extent or 1.0)
    shares = ((second - difference).abs() / size)[second != 0]  # zero between the kinks of piecewise linear ones
    return float(shares.nanmedian()) if shares.numel() else 0.0
