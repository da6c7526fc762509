"""Integers of a matrix by general coders, which find what no model of single integers sees: lines that repeat.

Their highest levels are slow, and of noise they gain nothing: quick tests say where they are worth a try.
"""

from functools import lru_cache

import numpy as np

from hmcompress.coding.lossless import zstd_compress
from hmcompress.coding.sample import golden, some_of
from hmcompress.coding.streams import encode_below, encode_ints

FEW = 1 << 14  # integers up to which the bytes of a shape matter, and general coders are tried
FEWEST = 1 << 11  # integers up to which they are tried at their highest levels
_SPARSE = 128  # integers a byte: a general coder may then find where the few stand that are not zero
_SAMPLE, _SHORT = 1 << 16, 1 << 13
_GLANCE, _LONG_MATCHES, _SHORT_MATCHES = -10, 0.95, 0.97  # a zstd level; shares of the bytes in another order
_MIDDLE, _SHRINKS = 6, 1.1  # a zstd level; how much less the highest one makes
_LOOK, _LEADING = 1 << 12, 2  # integers; leading bits below the first that coarse bins fix
_GAIN = 0.99  # of a size to beat: what promises more is not worth the slower decoding


def orders(q: np.ndarray, width: int | None) -> list[np.ndarray]:
    """The integers by rows and by columns, where they are a matrix of rows of `width`; a single row once."""
    if width is None:
        return []
    return [q.reshape(-1, width), q.reshape(-1, width).T] if q.size > width else [q.reshape(1, width)]


def general_promises(q: np.ndarray, size: int) -> bool:
    """Whether a general coder may store the integers of a matrix (m, n), few ones, in less than `size` bytes."""
    return any(smallest_general(rows, size, False) is not None for rows in orders(q, q.shape[1]))


def smallest_general(rows: np.ndarray, size: int, thorough: bool) -> bytes | None:
    """Rows one after the other by general coders; None where these are unlikely to stay below `size` bytes."""
    if rows.size <= (FEW if thorough else FEWEST) or size * _SPARSE < rows.size:
        return encode_ints(rows, "max")
    if rows.size <= FEW:
        return encode_below(rows, size)
    return encode_ints(rows, "max", size) if _repeats(rows, size) else None


def repeats(q: np.ndarray, size: float) -> bool:
    """Whether a general coder may store the integers of a matrix (m, n), many ones, in less than `size` bytes."""
    return any(_repeats(rows, size) for rows in orders(q, q.shape[1]))


def histogram_promises(q: np.ndarray, size: float) -> bool:
    """Whether integers (n,) may take less than `size` bytes under their own histogram, of single values or coarse bins:
    few of them tell. A smooth shape fits neither what took few values before nor a mixture of small and large ones."""
    some = np.sort(q[some_of(q.size, _LOOK)])
    low = np.maximum(np.frexp(np.abs(some).astype(np.float64))[1] - 1 - _LEADING, 0).astype(q.dtype)  # bits left open
    bins = np.sign(some) * (np.abs(some) >> low << low)
    limit = 8 * _GAIN * size / q.size
    return _entropy(some) < limit or _entropy(np.sort(bins)) + float(low.mean()) < limit


def _entropy(ordered: np.ndarray) -> float:
    """Bits a number of an ordered sample (n,), corrected by Miller and Madow's term; inf where most are different."""
    n = ordered.size
    ends = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]) + 1, n)
    if len(ends) > n / 4 and n >= _LOOK / 2:
        return np.inf
    counts = np.diff(ends, prepend=0)
    return float(counts @ np.log2(n / counts)) / n + (len(ends) - 1) / (2 * np.log(2) * n)


def _repeats(rows: np.ndarray, size: float) -> bool:
    """Whether a dictionary coder may get below `size` bytes for all rows, judged by the first of them."""
    part = rows[: max(1, _SAMPLE // rows.shape[1])].reshape(-1)
    largest = max(part.max(), -part.min())
    part = part.astype(np.int8 if largest < 1 << 7 else np.int16 if largest < 1 << 15 else part.dtype)
    if not (_has_matches(part[:_SAMPLE], _GLANCE, _LONG_MATCHES) or _has_matches(part[:_SHORT], 1, _SHORT_MATCHES)):
        return False
    return len(zstd_compress(part, _MIDDLE)) * rows.size < _SHRINKS * size * part.size


def _has_matches(part: np.ndarray, level: int, share: float) -> bool:
    """Whether the integers take less than a share, at this level of zstd, of what they take in another order."""
    found = len(zstd_compress(part, level))
    if found > part.nbytes:  # not even less than as they are
        return False
    return found < share * len(zstd_compress(part[_another_order(len(part))], level))


@lru_cache(8)  # an order of up to 512 kB each
def _another_order(n: int) -> np.ndarray:
    return np.argsort(golden(n))
