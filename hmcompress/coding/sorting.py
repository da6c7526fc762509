"""Numbers sorted by class: where those of each class stand, and which are coded at all."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hmcompress.errors import FormatError

Array = np.ndarray
SILENT_CLASS = -4  # and below: all zero, not coded; half a bit of such numbers would not pay
TOP_CLASS = 104
CHUNK = 1 << 20  # numbers that are moved, or make one set of paths, at a time


@dataclass(frozen=True)
class Sorting:
    """Where the numbers of each class stand once sorted. order: positions that are coded, or None for all."""

    classes: Array
    starts: Array
    order: Array | None
    count: int

    @property
    def coded(self) -> int:
        return int(self.starts[-1])

    def segments(self) -> Iterator[tuple[int, int, int]]:
        """(class, start, stop) in the order of coding."""
        for i, e in enumerate(self.classes):
            yield int(e), int(self.starts[i]), int(self.starts[i + 1])

    def gather(self, x: Array) -> Array:
        if self.order is None:
            return x
        out = np.empty(self.coded, x.dtype)
        for start, stop in chunks(self.coded):
            np.take(x, self.order[start:stop], out=out[start:stop], mode="clip")
        return out

    def scatter(self, v: Array) -> Array:
        if self.order is None:
            return v
        out = np.zeros(self.count, v.dtype)
        for start, stop in chunks(self.coded):
            out[self.order[start:stop]] = v[start:stop]
        return out


def sort_by_class(e: Array, count: int) -> Sorting:
    """Sort `count` numbers of classes e (count,) or (1,). Raises FormatError where a class is out of range."""
    e = np.asarray(e, np.int16).reshape(-1)
    if e.max(initial=SILENT_CLASS) > TOP_CLASS:
        raise FormatError("a scale is out of range: the file is damaged")
    small = (np.maximum(e, SILENT_CLASS) - SILENT_CLASS).astype(np.uint8)
    sizes = np.bincount(small, minlength=1) * (count if e.size == 1 else 1)
    used = np.flatnonzero(sizes[1:]) + 1
    starts = np.concatenate([[0], np.cumsum(sizes[used])])
    order = None if len(used) == 1 and not sizes[0] else _order(small, used, starts)
    return Sorting(used + SILENT_CLASS, starts, order, count)


def _order(small: Array, used: Array, starts: Array) -> Array:
    """Positions class by class. A stable sort would say the same and take twice the memory."""
    order = np.empty(starts[-1], np.int32 if len(small) < 2**31 else np.int64)
    for c, start, stop in zip(used, starts[:-1], starts[1:], strict=True):
        order[start:stop] = np.flatnonzero(small == c)
    return order


def chunks(count: int) -> Iterator[tuple[int, int]]:
    for start in range(0, count, CHUNK):
        yield start, min(start + CHUNK, count)
