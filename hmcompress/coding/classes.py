"""Classes: how large integers are likely to be, in quarter octaves of their standard deviation."""

import numpy as np

from hmcompress.coding.shape import octaves
from hmcompress.errors import FormatError

CLASSES_PER_OCTAVE = 4
ZERO_CLASS = -20  # and below: all zero, not coded
MAX_CLASS = 160
Group = tuple[int, np.ndarray | None, int]  # class, positions or None for all, size; in ascending order of class


def class_of(rms: np.ndarray | float) -> np.ndarray:
    """The class of integers with the given root mean square, in steps."""
    with np.errstate(divide="ignore"):
        e = np.rint(CLASSES_PER_OCTAVE * np.log2(rms))
    return np.clip(np.nan_to_num(e, neginf=ZERO_CLASS), ZERO_CLASS, MAX_CLASS).astype(np.int16)


def groups_of(e: np.ndarray, count: int) -> list[Group]:
    """The `count` integers of classes e (count,) or a single class, by class. Raises FormatError."""
    if e.size and e.max(initial=ZERO_CLASS) > MAX_CLASS:
        raise FormatError("a scale is out of range: the file is damaged")
    if count == 0:
        return []
    if e.size == 1 or (e == e[0]).all():
        return [(int(e[0]), None, count)] if e[0] > ZERO_CLASS else []
    if e.size != count:
        raise FormatError("scales and integers differ in number: the file is damaged")
    small = np.clip(e, ZERO_CLASS, None) - ZERO_CLASS
    order = np.argsort(small.astype(np.uint8), kind="stable")
    sizes = np.bincount(small)
    ends = np.cumsum(sizes)
    return [
        (c + ZERO_CLASS, order[ends[c] - sizes[c] : ends[c]], int(sizes[c])) for c in range(1, len(sizes)) if sizes[c]
    ]


def gather(q: np.ndarray, groups: list[Group]) -> np.ndarray:
    """The integers of all groups, one group after the other."""
    return np.concatenate([q if where is None else q[where] for _, where, _ in groups])


def scatter(values: np.ndarray, groups: list[Group], count: int) -> np.ndarray:
    """Inverse of gather: (count,), zero where no group has a place."""
    if len(groups) == 1 and groups[0][1] is None:
        return values
    q = np.zeros(count, values.dtype)
    start = 0
    for _, where, size in groups:
        q[where] = values[start : start + size]
        start += size
    return q


def scales_of(groups: list[Group]) -> np.ndarray:
    """The standard deviation of each group's integers."""
    return octaves(np.array([e for e, _, _ in groups]), CLASSES_PER_OCTAVE)
