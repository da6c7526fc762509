"""Has a network derivatives, and are they right? Of some operations torch gives none or wrong ones without a word."""

import torch
from torch import Tensor

from hmcompress.errors import NetworkError
from hmcompress.network.model.failures import KNOWS_NO
from hmcompress.network.model.inputs import Points
from hmcompress.network.model.network import Inputs, Network
from hmcompress.network.model.tangents import along, directions

_ROWS = 64
_STEP = {torch.float64: 1e-5}  # of a coordinate's range; the roots of what outputs are rounded to
_COARSE = 3e-4  # in lower precision
_ROUNDED = 1e-3  # relative change of the outputs that is none
_WRONG = 0.05  # rounding and kinks stay below it


@torch.no_grad()
def check_derivatives(network: Network, points: Points, order: int) -> None:
    """Raise NetworkError where a network that runs has no derivatives of this order, or where torch has wrong ones."""
    points = points.take(slice(0, _ROWS))
    for which, direction in directions(points):
        slope = _slope(network, points, which, direction, order)
        if not slope.any() and _moves(network, points, which, direction):
            raise _none(order)
        if order == 2 and _misfit(network, points, which, direction) > _WRONG:
            raise NetworkError(
                "calibration: derivatives: 2: torch computes wrong second derivatives of this network (of layer "
                "normalisation in an archive, instance normalisation, linalg.solve): write the operation as a formula "
                "in a factory, or use derivatives: 1"
            )


def _slope(network: Network, points: Points, which: int, direction: Tensor, order: int) -> Tensor:
    """First derivative along a direction, found on the way to those of this order."""
    try:
        return along(points, which, direction, order, network.call)[1]
    except NetworkError as error:
        if KNOWS_NO in str(error):  # and says what to do instead
            raise
        raise _none(order) from error


def _none(order: int) -> NetworkError:
    return NetworkError(
        f"calibration: derivatives: {order}: torch finds no derivatives of this network by its inputs (it takes "
        "gradients in its own forward, detaches its inputs, leaves torch or has nothing but jumps): use "
        "derivatives: 0, or write the gradients in it with torch.func.grad"
    )


def _moves(network: Network, points: Points, which: int, direction: Tensor) -> bool:
    """Whether outputs depend on a coordinate by more than rounding."""
    t = points.tensors[which]
    moved = t + 0.1 * _extent(t, direction) * direction
    before = network.run(points.tensors)
    after = network.run((*points.tensors[:which], moved, *points.tensors[which + 1 :]))
    return float((after - before).norm()) > _ROUNDED * float(before.norm())


def _extent(t: Tensor, direction: Tensor) -> float:
    """Range of a coordinate; 1 where it is constant."""
    along_it = (t * direction).sum(-1)
    return float(along_it.max() - along_it.min()) or 1.0


@torch.no_grad()
def _misfit(network: Network, points: Points, which: int, direction: Tensor) -> float:
    """Median distance of second derivatives from differences of first ones, relative to both and to the slope."""
    t = points.tensors[which]
    extent = _extent(t, direction)
    step = _STEP.get(t.dtype, _COARSE) * extent

    def slope(moved: Tensor) -> Tensor:
        tensors: Inputs = (*points.tensors[:which], moved, *points.tensors[which + 1 :])
        return along(Points(tensors, points.joint), which, direction, 1, network.call)[1].double()

    difference = (slope(t + step * direction) - slope(t - step * direction)) / (2 * step)
    _, first, second = (block.double() for block in along(points, which, direction, 2, network.call))
    size = difference.abs() + second.abs() + first.abs() / extent
    shares = ((second - difference).abs() / size)[second != 0]  # zero between the kinks of piecewise linear ones
    return float(shares.nanmedian()) if shares.numel() else 0.0
