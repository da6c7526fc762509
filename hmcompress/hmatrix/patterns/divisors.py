"""The scale of a small group of weights, as the number of which all of them, or all gaps between them, are multiples.

The largest entry of a group of GGUF's 6-bit codes or of NVFP4 has this code or that one: each is tried.
"""

import numpy as np

from hmcompress.coding.sample import some_of
from hmcompress.hmatrix.patterns.scaled_codes import INTEGERS, Codes, Precision, checked, fit_offsets

Array = np.ndarray
_MOST, _SURE = 128, 0.3  # codes of the largest; by how much rounding may move one that still tells something
_ROUNDINGS, _OF_GAPS = 2.1, 4.2  # that separate codes from whole numbers
_TOPS = np.arange(1.0, _MOST + 1)
_GROUP, _FIRST, _FEW = 16, 64, 16  # entries of the smallest groups; entries and groups that are looked at first


def by_divisor(x: Array, precision: Precision) -> Codes | None:
    """Codes of groups x (groups, entries): whole multiples of the largest number of which all are."""
    tops = _tops(x, _ROUNDINGS * precision.half * np.abs(x))
    if tops is None:
        return None
    largest = np.abs(x).max(axis=1)
    scales = np.where(largest > 0, largest / tops, 1.0)
    return checked(x, precision, INTEGERS, np.rint(x / scales[:, None]), scales)


def by_divisor_above(x: Array, precision: Precision) -> Codes | None:
    """The same of what entries lie above the smallest one of their group, which is the offset."""
    above = x - x.min(axis=1, keepdims=True)
    miss = np.broadcast_to(_OF_GAPS * precision.half * np.abs(x).max(axis=1, keepdims=True), x.shape)
    tops = _tops(above, miss)
    if tops is None:
        return None
    codes = np.rint(above * _factors(above, tops))
    return Codes(INTEGERS, codes, *(part.astype(np.float32) for part in fit_offsets(x, codes)))


def may_divide(line: Array, half: float) -> bool:
    """Whether the middle one of the smallest groups of a line (n,) has a divisor. half: of a unit in the last place."""
    x = line[len(line) // _GROUP // 2 * _GROUP :][:_GROUP].astype(np.float64)
    largest = np.abs(x).max(initial=0)
    if not largest:
        return False
    tops = _TOPS[: int(_SURE / (_ROUNDINGS * half))]
    codes = tops * (x[0] / largest)  # few pass this look
    tops = tops[np.abs(codes - np.rint(codes)) <= _ROUNDINGS * half * np.abs(codes)]
    return len(tops) > 0 and bool(_are_whole(x[None], _ROUNDINGS * half * np.abs(x), tops[:, None]).any())


def _tops(x: Array, miss: Array) -> Array | None:
    """The smallest code (groups,) of the largest entry under which all entries have whole codes; None if one has none.

    miss: by how much rounding may have moved entries x (groups, entries).
    """
    for some in (slice(1), some_of(len(x), _FEW)):  # the first group, and few of all
        part = x[some, :_FIRST]
        if part.size < x.size and _tops(part, miss[some, :_FIRST]) is None:
            return None
    tops, left = np.ones(len(x)), np.arange(len(x))
    for top in _TOPS:
        whole = _are_whole(x[left], miss[left], np.full(len(left), top))
        tops[left[whole]] = top
        left = left[~whole]
        if not len(left):
            return tops
    return None


def _are_whole(x: Array, miss: Array, tops: Array) -> Array:
    """Whether codes of x (groups, entries) are whole, the largest that of tops (..., groups): (..., groups)."""
    factor = _factors(x, tops)
    codes, allowed = x * factor, miss * factor
    return ((np.abs(codes - np.rint(codes)) <= allowed) & (allowed < _SURE)).all(-1)


def _factors(x: Array, tops: Array) -> Array:
    largest = np.abs(x).max(axis=1)
    return (tops / np.where(largest > 0, largest, 1.0))[..., None]
