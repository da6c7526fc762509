"""Codes of a few bits times scales, found in groups of weights: three ways, and what a fit has to keep to."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray
LARGEST = 1 << 15  # codes beyond are no lattice worth the name
_AT_ONCE = 1 << 18  # entries that are decoded
_APART, _NOISE = 4.0, 1e-4  # roundings, and a share of the largest entry, that are no gap
_ROUNDINGS = 2.1  # that separate an entry over the largest from the ratio of their codes
HALF = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}  # a unit in the last place, of 1
_NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334),
    *(-0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
_FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)


def _floats(dtype: torch.dtype) -> Array:
    values = torch.arange(256, dtype=torch.uint8).view(dtype).double().numpy()
    return np.unique(values[np.isfinite(values)])


# Codes that are whole numbers, or places in one of these lists: 8-bit floats and the quantiles of a Gaussian.
TABLES = (*map(_floats, _FLOAT8), np.array(_NF4))
INTEGERS = len(TABLES)
_TOPS, _SPANS = (127, 7, 128, 8, 1, 3, 4, 15, 31), (15, 3, 7, 255, 31, 63)


@dataclass(frozen=True)
class Precision:
    """half: of a unit in the last place of 1. least: the smallest normal number."""

    half: float
    least: float

    @staticmethod
    def of(dtype: torch.dtype) -> "Precision":
        return Precision(HALF[dtype], torch.finfo(dtype).tiny)

    def most(self, size: Array) -> Array:
        """By how much rounding moves numbers of these magnitudes, at most."""
        return self.half * np.maximum(size, self.least)


@dataclass(frozen=True)
class Codes:
    """Codes (groups, entries) as whole numbers, scales (groups,) and offsets; table: of TABLES, or INTEGERS."""

    table: int
    codes: Array
    scales: Array
    offsets: Array | None = None

    @property
    def span(self) -> int:
        """From the smallest code to the largest."""
        return int(self.codes.max()) - int(self.codes.min())

    def times(self, dtype: torch.dtype) -> Tensor:
        return times_scales(self.table, self.codes, self.scales, self.offsets, dtype)


def _by_gap(x: Array, precision: Precision) -> Codes | None:
    """Whole multiples of the smallest gap between magnitudes."""
    ordered = np.sort(np.abs(x), axis=1)
    gaps = np.diff(ordered, axis=1, prepend=0)
    real = gaps > np.maximum(_APART * precision.most(ordered[:, -1:]), _NOISE * ordered[:, -1:])
    smallest = np.where(real, gaps, np.inf).min(axis=1, initial=np.inf)
    scales = np.where(np.isfinite(smallest), smallest, 1.0)
    return _multiples(x, precision, scales)


def _by_largest(x: Array, precision: Precision) -> Codes | None:
    """Codes of which the largest stands for the largest magnitude."""
    largest = np.abs(x).max(axis=1, initial=0)
    largest = np.where(largest > 0, largest, 1.0)
    for table, points in enumerate(TABLES):
        scales = largest / points[-1]
        codes = np.searchsorted((points[1:] + points[:-1]) / 2, x / scales[:, None])
        found = checked(x, precision, table, codes, scales)
        if found is not None:
            return found
    for top in _TOPS:
        found = _multiples(x, precision, largest / top)
        if found is not None:
            return found
    return None


def _multiples(x: Array, precision: Precision, scales: Array) -> Codes | None:
    """Whole multiples of scales (groups,) that are known about."""
    codes = np.rint(x / scales[:, None])
    for _ in range(2):  # the least-squares scale for the multiples that the last one gives
        if np.abs(codes).max(initial=0) > LARGEST:
            return None
        power = np.square(codes).sum(1)
        scales = np.where(power > 0, (x * codes).sum(1) / np.maximum(power, 1), 1.0)
        codes = np.rint(x / scales[:, None])
    return checked(x, precision, INTEGERS, codes, scales)


def _by_ends(x: Array, precision: Precision) -> Codes | None:
    """Whole multiples above the smallest entry, of which the largest is a power of two less one."""
    low, high = x.min(axis=1, initial=np.inf), x.max(axis=1, initial=-np.inf)
    for span in _SPANS:
        scales = np.where(high > low, (high - low) / span, 1.0)
        codes = np.rint((x - low[:, None]) / scales[:, None])
        allowed = _ROUNDINGS * precision.most(np.abs(x).max(axis=1)) / scales
        off = np.abs((x - low[:, None]) / scales[:, None] - codes).max(axis=1)
        if (allowed < 0.25).all() and (off <= allowed).all():
            fitted = fit_offsets(x, codes)
            return Codes(INTEGERS, codes, *(part.astype(np.float32) for part in fitted))
    return None


Way = Callable[[Array, Precision], Codes | None]
WAYS: tuple[Way, ...] = (_by_gap, _by_largest, _by_ends)


def fit_offsets(x: Array, codes: Array) -> tuple[Array, Array]:
    """Scales and offsets (groups,) by least squares."""
    mean, middle = codes.mean(1, keepdims=True), x.mean(1, keepdims=True)
    power = np.square(codes - mean).sum(1)
    scales = ((codes - mean) * (x - middle)).sum(1) / np.maximum(power, 1e-30)
    return scales, (middle - scales[:, None] * mean)[:, 0]


def checked(x: Array, precision: Precision, table: int, codes: Array, scales: Array) -> Codes | None:
    """The codes, with the simplest scales that give back x, if they are x to within its rounding."""
    values = values_of(table, codes)
    size = np.abs(values)
    off = np.abs(x - values * scales[:, None])
    allowed = np.where(size > 0, _ROUNDINGS * precision.most(size * scales[:, None]), precision.most(np.zeros(1)))
    if (off > allowed).any():
        return None
    # What x was rounded from lies within half a unit in the last place, which bounds the scale from both sides.
    half = precision.most(np.exp2(np.floor(np.log2(np.maximum(np.abs(x), 1e-300)))))
    some, divisor = size > 0, np.maximum(size, 1e-300)
    low = np.where(some, (np.abs(x) - half) / divisor, 0).max(axis=1)
    high = np.where(some, (np.abs(x) + half) / divisor, np.inf).min(axis=1)
    middle = np.where((low <= high) & np.isfinite(high), (low + np.where(np.isfinite(high), high, 0)) / 2, scales)
    middle = np.where(some.any(axis=1), middle, 0)  # of zeros, any scale
    return Codes(table, codes, _simplest(middle, low, high))


def _simplest(middle: Array, low: Array, high: Array) -> Array:
    """float32 scales between low and high (groups,), those of fewer bits where they do."""
    best = middle.astype(np.float32)
    for dtype in (torch.float16, torch.bfloat16):
        short = torch.from_numpy(middle).to(dtype).double().numpy()
        best = np.where((low <= short) & (short <= high), short, best).astype(np.float32)
    return best


def values_of(table: int, codes: Array) -> Array:
    return codes if table == INTEGERS else TABLES[table][codes.astype(np.int64)]


def times_scales(table: int, codes: Array, scales: Array, offsets: Array | None, dtype: torch.dtype) -> Tensor:
    """Codes (groups, entries) by scales (groups,), in float32, then rounded to the dtype; a part at a time."""
    out = torch.empty(codes.shape, dtype=dtype)
    rows = max(1, _AT_ONCE // max(codes.shape[1], 1))
    for i in range(0, codes.shape[0], rows):
        for j in range(0, codes.shape[1], _AT_ONCE):
            some = slice(i, i + rows), slice(j, j + _AT_ONCE)
            x = values_of(table, codes[some]).astype(np.float32) * scales[some[0], None].astype(np.float32)
            x = x if offsets is None else x + offsets[some[0], None].astype(np.float32)
            out[some] = torch.from_numpy(x).to(dtype)
    return out
