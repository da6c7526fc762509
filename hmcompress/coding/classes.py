"""Classes: how large integers are likely to be, in quarter octaves of their standard deviation."""

import math
from collections.abc import Iterator

import numpy as np

from hmcompress.coding.sample import FromTable
from hmcompress.coding.shape import RESOLUTION, octaves
from hmcompress.errors import FormatError

CLASSES_PER_OCTAVE = 4
ZERO_CLASS = -20  # and below: all zero, not coded
MAX_CLASS = 160
_CLASSES = MAX_CLASS - ZERO_CLASS + 1
_CHUNK = 1 << 17  # integers that are sorted at once
_SCALES = octaves(np.arange(ZERO_CLASS, MAX_CLASS + 1) * (RESOLUTION // CLASSES_PER_OCTAVE))
Group = tuple[int, int]  # a class and how many integers are of it; in ascending order of class


def class_of(rms: np.ndarray | float) -> np.ndarray:
    """The class of integers with the given root mean square, in steps."""
    with np.errstate(divide="ignore"):
        e = np.rint(CLASSES_PER_OCTAVE * np.log2(rms))
    return np.fmin(np.fmax(e, ZERO_CLASS), MAX_CLASS).astype(np.int16)


def groups_of(e: np.ndarray, count: int) -> list[Group]:
    """How many of `count` integers of classes e (count,) or a single class are of each. Raises FormatError."""
    if e.size and e.max(initial=ZERO_CLASS) > MAX_CLASS:
        raise FormatError("a scale is out of range: the file is damaged")
    if count == 0:
        return []
    if e.size == 1:
        return [(int(e[0]), count)] if e[0] > ZERO_CLASS else []
    if e.size != count:
        raise FormatError("scales and integers differ in number: the file is damaged")
    sizes = sum((np.bincount(_small(part), minlength=_CLASSES) for _, part in _chunks(e)), np.zeros(_CLASSES, np.int64))
    return [(c + ZERO_CLASS, size) for c, size in enumerate(sizes.tolist()) if c and size]


def _placed(e: np.ndarray, groups: list[Group], count: int) -> Iterator[tuple[slice, np.ndarray | slice, slice]]:
    """Integers of one class in one part of all: the part, where in it they stand, and their ranks.

    Ranks count the integers of all groups, one group after the other. Only a part is sorted at a time: that takes
    little memory beside the integers, and stays in the cache.
    """
    if len(groups) == 1 and groups[0][1] == count:
        for start in range(0, count, _CHUNK):
            yield slice(start, start + _CHUNK), slice(None), slice(start, start + _CHUNK)
        return
    ends = np.zeros(_CLASSES, np.int64)  # of what is placed already of each class
    ends[[c - ZERO_CLASS for c, _ in groups]] = np.cumsum([0, *(size for _, size in groups[:-1])])
    for start, part in _chunks(e):
        small = _small(part)
        order = np.argsort(small, kind="stable")
        counts = np.bincount(small, minlength=_CLASSES)
        last = np.cumsum(counts)
        for c in np.flatnonzero(counts[1:]) + 1:
            ranks = slice(int(ends[c]), int(ends[c] + counts[c]))
            yield slice(start, start + len(part)), order[last[c] - counts[c] : last[c]], ranks
            ends[c] = ranks.stop


def _small(e: np.ndarray) -> np.ndarray:
    return (np.maximum(e, ZERO_CLASS) - ZERO_CLASS).astype(np.uint8)  # sorted in linear time


def _chunks(e: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    return ((start, e[start : start + _CHUNK]) for start in range(0, e.size, _CHUNK))


def gather(q: np.ndarray, e: np.ndarray, groups: list[Group]) -> np.ndarray:
    """The integers q (n,) of classes e, one group after the other; q itself where all are of one class."""
    if len(groups) == 1 and groups[0][1] == len(q):
        return q
    values = np.empty(sum(size for _, size in groups), q.dtype)
    for part, places, ranks in _placed(e, groups, len(q)):
        values[ranks] = q[part][places]
    return values


def scatter(values: np.ndarray, e: np.ndarray, groups: list[Group], count: int) -> np.ndarray:
    """Inverse of gather (count,); zero where none has a place."""
    if len(groups) == 1 and len(values) == count:
        return values
    q = np.zeros(count, values.dtype)
    for part, places, ranks in _placed(e, groups, count):
        q[part][places] = values[ranks]
    return q


def largest_of(x: np.ndarray | FromTable, e: np.ndarray, groups: list[Group]) -> np.ndarray:
    """The largest magnitude of each group among numbers x (n,) of classes e, rounded up."""
    starts = np.cumsum([0, *(size for _, size in groups[:-1])])
    largest = np.zeros(len(groups))
    for part, places, ranks in _placed(e, groups, x.size):
        values = x[part][places]
        own = np.searchsorted(starts, ranks.start, "right") - 1
        largest[own] = max(largest[own], math.ceil(values.max()), -math.floor(values.min()))
    return largest


def scales_of(classes: np.ndarray | int) -> np.ndarray:
    """The standard deviations of integers of these classes (n,)."""
    return _SCALES[classes - ZERO_CLASS]
