"""Quantities and samples of all sizes: the large ones hide what becomes of the small ones."""

import math
from collections.abc import Iterator, Mapping

from torch import Tensor

from hmcompress.errors import NetworkError
from hmcompress.network.bound.error import evaluate
from hmcompress.network.bound.problem import Problem

_CHANNELS = 16  # of a field, at most; a longer axis is one of its places
_MANY, _SHARE = 16, 0.01  # numbers of a vector, of which so many at least must be far off: some vectors are fields
_WIDEST = 4096  # numbers of a vector; a longer one is a field
_FAR = 10.0  # times the tolerance
_FEW = 2  # samples that tell shapes
_VECTORS = 2  # axes of outputs that are a vector for each sample

Named = tuple[str, Tensor, Tensor]  # a quantity, the original's values and what they are off


def hidden(problem: Problem, tol: float, decoded: Mapping[str, Tensor]) -> tuple[str | None, str | None]:
    """A line where a quantity among the outputs is far off by itself, though all together hold, and one where most
    samples are."""
    y = problem.held_out.blocks[0]
    off = evaluate(problem.network, problem.held_out.points, 0, decoded)[0] - y
    return _hidden_quantity(problem, tol, y, off), _hidden_samples(tol, y, off)


def _hidden_quantity(problem: Problem, tol: float, y: Tensor, off: Tensor) -> str | None:
    places = problem.network.kind == "linear" or not problem.held_out.points.joint  # of one field
    if problem.settings.tolerance == "each" or places:
        return None
    alone = [(float(d.norm() / v.norm()), name, v) for name, v, d in _quantities(problem, y, off) if v.any()]
    far = [one for one in alone if one[0] > _FAR * tol]
    if len(far) < (_SHARE * len(alone) if len(alone) > _MANY else 1):
        return None
    error, name, values = max(far, key=lambda one: one[0])
    more = f"; {len(far)} of {len(alone)} are far off" if len(far) > 1 else ""
    share = float(values.norm() / y.norm())
    return (
        f"{name} is off by {error:.2g} of its own size, which is {share:.2g} of that of all outputs together{more}: "
        "tolerance: each (under calibration) bounds every number by itself, or give a factory that scales them alike"
    )


def _hidden_samples(tol: float, y: Tensor, off: Tensor) -> str | None:
    alone = (off.norm(dim=1) / y.norm(dim=1))[y.any(1)].median()
    if float(alone) <= _FAR * tol:
        return None
    return (
        f"half of the held-out points are off by more than {float(alone):.2g} of their own outputs' size, as others' "
        "are far larger: give a factory that makes them alike (a logarithm), or a smaller tolerance"
    )


def _quantities(problem: Problem, y: Tensor, off: Tensor) -> Iterator[Named]:
    """Of outputs (N, k): tensors where there are several, else their numbers or channels where these are few."""
    try:
        shapes = [shape[1:] for shape in problem.network.shapes(problem.held_out.points.take(slice(0, _FEW)).tensors)]
    except NetworkError:  # of so few samples
        return
    sizes = [math.prod(shape) for shape in shapes]
    if sum(sizes) != y.shape[1]:
        return
    if len(shapes) > 1:
        for k, (values, wrong) in enumerate(zip(y.split(sizes, 1), off.split(sizes, 1), strict=True), 1):
            yield f"tensor {k} of the {len(shapes)} that the network returns", values, wrong
        return
    field = (len(y), *shapes[0])
    for axis in dict.fromkeys((1, len(field) - 1)):
        shown = "outputs[:, {}]" if axis == 1 else "outputs[..., {}]"
        most = _WIDEST if len(field) == _VECTORS else _CHANNELS
        for k in range(field[axis]) if 0 < axis < len(field) and 1 < field[axis] <= most else ():
            yield shown.format(k), y.reshape(field).select(axis, k), off.reshape(field).select(axis, k)
