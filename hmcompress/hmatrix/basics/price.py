"""What integers will cost, estimated before anything is coded.

Prices are Lagrangian: J = bits + lambda * squared error, in units of the step, with the slope lambda = 6 / ln 2 that
the high-rate law D = step^2 / 12, R = -0.5 log2 D gives. One step for the whole matrix then means one slope everywhere.
"""

from functools import cache

import numpy as np
from scipy.special import ndtr

SLOPE = 6 / np.log(2)  # bits per unit of squared error, error in steps
_LOG_MIN, _LOG_MAX, _PER_OCTAVE = -10, 10, 16
_TINY = 1e-30
_SMALLEST, _LARGEST, _PLACE_BITS = -40, 80, 3.5  # half octaves of squares; bits of a sign and of what digits vary by
_LAST = (_LOG_MAX - _LOG_MIN) * _PER_OCTAVE


@cache
def _tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Entropy, squared error and price of rounding a Gaussian, for standard deviations on a logarithmic grid."""
    grid = np.exp2(np.arange(_LOG_MIN * _PER_OCTAVE, _LOG_MAX * _PER_OCTAVE + 1) / _PER_OCTAVE)
    bits, errors = zip(*(_rounded_gaussian(s) for s in grid), strict=True)
    return np.array(bits), np.array(errors), np.array(bits) + SLOPE * np.array(errors)


def _rounded_gaussian(s: float) -> tuple[float, float]:
    k = np.arange(-int(8 * s) - 2, int(8 * s) + 3)
    low, high = (k - 0.5) / s, (k + 0.5) / s
    p = np.maximum(ndtr(high) - ndtr(low), 1e-300)
    pdf_low, pdf_high = (np.exp(-t * t / 2) / np.sqrt(2 * np.pi) for t in (low, high))
    mean, square = pdf_low - pdf_high, p + low * pdf_low - high * pdf_high
    error = np.sum(s * s * square - 2 * k * s * mean + k * k * p)
    return float(-np.sum(p * np.log2(p))), float(max(error, 0))


def bits(s: np.ndarray) -> np.ndarray:
    """Bits per entry of Gaussian entries of standard deviation s, in steps."""
    i = _index(s)
    return _tables()[0][np.minimum(i, _LAST)] + np.maximum(i - _LAST, 0) / _PER_OCTAVE


def cost(s: np.ndarray) -> np.ndarray:
    """bits + lambda * squared error per entry; never more than leaving the entry out."""
    i = _index(s)
    return np.minimum(_tables()[2][np.minimum(i, _LAST)] + np.maximum(i - _LAST, 0) / _PER_OCTAVE, SLOPE * np.square(s))


def product_cost(rows: np.ndarray, columns: np.ndarray) -> float:
    """The sum of `cost` over all entries of deviation rows[i] * columns[j], (m,) and (n,), to a sixteenth octave.

    Only the logarithms of the two add up, so the counts of their sums follow by convolution, not entry by entry.
    """
    lowest, counts = 0, np.ones(1)
    for s in (rows, columns):
        i = np.rint(np.log2(np.maximum(s, _TINY)) * _PER_OCTAVE).astype(np.int64)
        counts = np.convolve(counts, np.bincount(i - i.min()))
        lowest += int(i.min())
    return float(counts @ cost(np.exp2((lowest + np.arange(len(counts))) / _PER_OCTAVE)))


def places(x: np.ndarray) -> float:
    """Bits of entries x (m, n), in steps, of which few matter, at the error of plain rounding.

    Nearly all round to zero and make most of the error, so the step is as much larger as leaves it that. Each of the
    rest costs its place among all, its sign and its digits.
    """
    square = np.maximum(np.square(x, dtype=np.float32).ravel(), np.float32(_TINY))
    octave = np.log2(square)
    k = np.clip(np.floor(2 * octave), _SMALLEST, _LARGEST).astype(np.int64) - _SMALLEST
    bins, size = _LARGEST - _SMALLEST + 1, x.size
    count, squares, digits = (np.bincount(k, weights, bins) for weights in (None, square, octave / 2))
    bound = _SMALLEST + np.arange(bins)  # the step is twice the root of 2^(bound / 2): it rounds less to zero
    coded = count[::-1].cumsum()[::-1]
    error = squares.cumsum() - squares + coded * np.exp2(bound / 2) / 3
    last = int(np.flatnonzero(error <= size / 12).max(initial=0))
    some = int(coded[last])
    if some == 0:
        return 0.0
    return some * (np.log2(size / some) + _PLACE_BITS - 1 - bound[last] / 4) + float(digits[last:].sum())


def _index(s: np.ndarray) -> np.ndarray:
    """The nearest grid point of each standard deviation; above the grid, prices go on as the logarithm."""
    x = np.log2(np.maximum(s, 2.0**_LOG_MIN), dtype=np.float32)
    return np.rint(x * _PER_OCTAVE).astype(np.int32) - _LOG_MIN * _PER_OCTAVE
