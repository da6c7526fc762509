"""What integers will cost, estimated before anything is coded.

Prices are Lagrangian: J = bits + lambda * squared error, in units of the step, with the slope lambda = 6 / ln 2 that
the high-rate law D = step^2 / 12, R = -0.5 log2 D gives. One step for the whole matrix then means one slope everywhere.
"""

from functools import cache

import numpy as np
from scipy.special import ndtr

SLOPE = 6 / np.log(2)  # bits per unit of squared error, error in steps
_LOG_MIN, _LOG_MAX, _PER_OCTAVE = -10, 10, 16


@cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """Entropy and squared error of rounding a Gaussian, for standard deviations on a logarithmic grid."""
    grid = np.exp2(np.arange(_LOG_MIN * _PER_OCTAVE, _LOG_MAX * _PER_OCTAVE + 1) / _PER_OCTAVE)
    bits, errors = zip(*(_rounded_gaussian(s) for s in grid), strict=True)
    return np.array(bits), np.array(errors)


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
    x = np.log2(np.maximum(s, 2.0 ** (_LOG_MIN - 4)))
    value = _interpolate(_tables()[0], x)
    return np.where(x > _LOG_MAX, x + 0.5 * np.log2(2 * np.pi * np.e), value)


def cost(s: np.ndarray) -> np.ndarray:
    """bits + lambda * squared error per entry; never more than leaving the entry out."""
    s = np.asarray(s, float)
    x = np.log2(np.maximum(s, 2.0 ** (_LOG_MIN - 4)))
    error = np.where(x > _LOG_MAX, 1 / 12, _interpolate(_tables()[1], x))
    return np.minimum(bits(s) + SLOPE * error, SLOPE * s * s)


def _interpolate(table: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.interp(x, np.arange(_LOG_MIN * _PER_OCTAVE, _LOG_MAX * _PER_OCTAVE + 1) / _PER_OCTAVE, table)
