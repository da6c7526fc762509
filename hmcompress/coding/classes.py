"""Classes: how large integers are likely to be, in quarter octaves of their standard deviation."""

from collections.abc import Iterator

import numpy as np

from hmcompress.coding.shape import octaves
from hmcompress.errors import FormatError

CLASSES_PER_OCTAVE = 4
ZERO_CLASS = -20  # and below: all zero, not coded
MAX_CLASS = 160
_CLASSES = MAX_CLASS - ZERO_CLASS + 1
_CHUNK = 1 << 17  # integers that are sorted at once
Group = tuple[int, np.ndarray | None, int]  # class, positions or None for all, size; in ascending order of class


def class_of(rms: np.ndarray | float) -> np.ndarray:
    """The class of integers with the given root mean square, in steps."""
    with np.errstate(divide="ignore"):
        e = np.rint(CLASSES_PER_OCTAVE * np.log2(rms))
    return np.clip(np.nan_to_num(e, neginf=ZERO_CLASS), ZERO_CLASS, MAX_CLASS).astype(np.int16)


def sizes_of(e: np.ndarray, count: int) -> list[Group]:
    """How many of `count` integers of classes e (count,) or a single class are of each. Raises FormatError."""
    if e.size and e.max(initial=ZERO_CLASS) > MAX_CLASS:
        raise FormatError("a scale is out of range: the file is damaged")
    if count == 0:
        return []
    if e.size == 1:
        return [(int(e[0]), None, count)] if e[0] > ZERO_CLASS else []
    if e.size != count:
        raise FormatError("scales and integers differ in number: the file is damaged")
    sizes = sum((np.bincount(_small(part), minlength=_CLASSES) for _, part in _chunks(e)), np.zeros(_CLASSES, np.int64))
    return [(c + ZERO_CLASS, None, size) for c, size in enumerate(sizes.tolist()) if c and size]


def groups_of(e: np.ndarray, count: int) -> list[Group]:
    """The same, and where they stand."""
    sizes = sizes_of(e, count)
    if not sizes or sizes[0][2] == count:
        return sizes
    order = np.empty(sum(size for _, _, size in sizes), np.int32 if count < 1 << 31 else np.int64)
    for start, places, first in _placed(e, sizes):
        order[first : first + len(places)] = start + places
    split = np.split(order, np.cumsum([size for _, _, size in sizes])[:-1])
    return [(c, where, size) for (c, _, size), where in zip(sizes, split, strict=True)]


def _placed(e: np.ndarray, sizes: list[Group]) -> Iterator[tuple[int, np.ndarray, int]]:
    """Integers of one class in one part of all: where the part starts, where in it they stand, the first one's rank.

    Ranks count the integers of all groups, one group after the other. Only a part is sorted at a time: that takes
    little memory beside the integers, and stays in the cache.
    """
    ends = np.zeros(_CLASSES, np.int64)  # of what is placed already of each class
    ends[[c - ZERO_CLASS for c, _, _ in sizes]] = np.cumsum([0, *(size for _, _, size in sizes[:-1])])
    for start, part in _chunks(e):
        small = _small(part)
        order = np.argsort(small, kind="stable")
        counts = np.bincount(small, minlength=_CLASSES)
        last = np.cumsum(counts)
        for c in np.flatnonzero(counts[1:]) + 1:
            yield start, order[last[c] - counts[c] : last[c]], int(ends[c])
            ends[c] += counts[c]


def _small(e: np.ndarray) -> np.ndarray:
    return (np.maximum(e, ZERO_CLASS) - ZERO_CLASS).astype(np.uint8)  # sorted in linear time


def _chunks(e: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    return ((start, e[start : start + _CHUNK]) for start in range(0, e.size, _CHUNK))


def gather(q: np.ndarray, groups: list[Group]) -> np.ndarray:
    """The integers of all groups, one group after the other."""
    return np.concatenate([q if where is None else q[where] for _, where, _ in groups])


def scatter(values: np.ndarray, e: np.ndarray, sizes: list[Group], count: int) -> np.ndarray:
    """Inverse of gather (count,), given classes e and their sizes; zero where none has a place."""
    if len(sizes) == 1 and len(values) == count:
        return values
    q = np.zeros(count, values.dtype)
    for start, places, first in _placed(e, sizes):
        q[start : start + _CHUNK][places] = values[first : first + len(places)]
    return q


def scales_of(groups: list[Group]) -> np.ndarray:
    """The standard deviation of each group's integers."""
    return octaves(np.array([e for e, _, _ in groups]), CLASSES_PER_OCTAVE)
