"""The shape that the integers of a pool share, from some of them; and what a pool takes without encoding it."""

import numpy as np

from hmcompress.coding.classes import ZERO_CLASS, Group, gather, groups_of, largest_of, scales_of
from hmcompress.coding.general import FEW, FEWEST
from hmcompress.coding.ranged import class_tables
from hmcompress.coding.sample import FromTable, Joined, golden, some_of
from hmcompress.coding.shape import Shape, built_in_shapes, fit_shape

_SAMPLE = 1 << 16
_SHAPE_BITS = 512.0  # four times what a shape takes to store: divergences are judged coarsely
_HIGH_RATE = 4  # the class from which integers spread over so many values that their shape shows
Values = np.ndarray | Joined | FromTable | None  # (n,)


def candidate_shapes(q: np.ndarray, e: np.ndarray, x: Values, groups: list[Group]) -> list[Shape]:
    """The shape of the values themselves and, where their bytes may matter, built-in ones."""
    own = _own_shape(q, e, x)
    shapes = [own, *_near_shapes(own, groups, q.size)] if q.size <= FEW else [own]
    support = _support(q, e, groups)
    return [_with_support(shape, support) for shape in shapes]


def _near_shapes(own: Shape, groups: list[Group], count: int) -> list[Shape]:
    """All built-in shapes; of many integers of a high rate, whose bits divergences tell, the nearest if it is near."""
    found = built_in_shapes(own)
    if sum(size for e, size in groups if e >= _HIGH_RATE) < max(FEWEST, 0.9 * count):
        return found
    nearest = min(found, key=own.divergence)
    return [nearest] if count * own.divergence(nearest) < _SHAPE_BITS else []


def own_shape(q: np.ndarray | FromTable, e: np.ndarray, x: Values, groups: list[Group]) -> Shape:
    """The shape of integers q (n,), with a support that covers them all; x (n,): the values before rounding.

    The values themselves may stand for the integers.
    """
    return _with_support(_own_shape(q, e, x), _support(q, e, groups))


def _own_shape(q: np.ndarray | FromTable, e: np.ndarray, x: Values) -> Shape:
    some = some_of(q.size, _SAMPLE)
    sample_e = e[some] if e.size > 1 else np.broadcast_to(e, len(some))
    coded = sample_e > ZERO_CLASS
    if x is None:
        spread = golden(int(coded.sum())) - 0.5  # integers fill their bins
        magnitude = np.abs(np.abs(q[some][coded]) + spread)
    else:
        magnitude = np.abs(x[some][coded])
    return fit_shape(magnitude / scales_of(sample_e[coded]))


def price_pool(x: np.ndarray, e: np.ndarray) -> float:
    """Bits that the rounded values x (n,), in steps, of classes e (n,) or (1,) take, without encoding them."""
    q = np.rint(x).astype(np.int64)
    groups = groups_of(e, q.size)
    if not groups:
        return 0.0
    own, q, sizes = _own_shape(q, e, x), gather(q, e, groups), np.array([size for _, size in groups])
    largest = np.maximum.reduceat(np.abs(q), np.cumsum(sizes) - sizes)
    tables = class_tables(groups, _with_support(own, _reach(largest, groups)))
    low, bounds, starts = (np.repeat(a, sizes) for a in (tables.low, tables.largest, tables.starts))
    counts = np.bincount(np.clip(q >> low, -bounds, bounds) + bounds + starts, minlength=len(tables.p))
    return float(np.dot(tables.low, sizes) - np.dot(counts, np.log2(tables.p)))


def _support(q: np.ndarray | FromTable, e: np.ndarray, groups: list[Group]) -> float:
    return _reach(largest_of(q, e, groups), groups)


def _reach(largest: np.ndarray, groups: list[Group]) -> float:
    """The largest magnitude of any group, given that of each (g,), plus one, over the scale of its class."""
    return max(1.0, float(((largest + 1.0) / scales_of(np.array([e for e, _ in groups]))).max()))


def _with_support(shape: Shape, support: float) -> Shape:
    last = max(int(np.ceil(32 * np.log2(support))), shape.knots[-2] + 1)
    return Shape((*shape.knots[:-1], min(last, shape.knots[-2] + 1024)))
