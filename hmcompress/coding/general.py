"""Integers of a matrix by general coders, which find what no model of single integers sees: lines that repeat.

Their highest levels are slow, and of noise they gain nothing: quick tests say where they are worth a try.
"""

import numpy as np

from hmcompress.coding.lossless import zstd_compress
from hmcompress.coding.streams import encode_below, encode_ints

FEW = 1 << 14  # integers up to which the bytes of a shape matter, and general coders are tried
FEWEST = 1 << 11  # integers up to which they are tried at their highest levels
_SPARSE = 128  # integers a byte: a general coder may then find where the few stand that are not zero
_SAMPLE = 1 << 16
_GLANCE, _NOTHING = -50, 0.99  # a zstd level; a share of the bytes


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
    return encode_ints(rows, "max") if _repeats(rows, size) else None


def _repeats(rows: np.ndarray, size: int) -> bool:
    """Whether a quick dictionary coder stays below `size` bytes for all rows, judged by the first of them."""
    part = rows[: max(1, _SAMPLE // rows.shape[1])]
    data = part.astype(np.int16 if max(part.max(), -part.min()) < 1 << 15 else part.dtype).tobytes()
    if len(zstd_compress(data, _GLANCE)) > _NOTHING * len(data):  # a look at a few places found nothing that repeats
        return False
    return len(zstd_compress(data, 1)) * rows.size < size * part.size
