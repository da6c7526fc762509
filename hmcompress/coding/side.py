"""Side information: runs of small integers of one spread, too short for a general coder to learn anything."""

import numpy as np

from hmcompress.coding.buffer import Reader, Writer
from hmcompress.coding.classes import MAX_CLASS, ZERO_CLASS, class_of
from hmcompress.coding.pool import decode_pool, encode_pool
from hmcompress.coding.streams import decode_ints, encode_ints
from hmcompress.errors import FormatError

_POOLED = 255


def encode_side(q: np.ndarray, effort: str = "default") -> bytes:
    """Encode a flat array of integers as one parametric class around their median, or generally if that is smaller."""
    q = np.asarray(q, np.int64).reshape(-1)
    general = encode_ints(q, effort)
    if q.size < 2 or len(general) < 4:
        return general
    middle = int(np.median(q))
    spread = int(np.clip(class_of(np.sqrt(np.mean((q - middle) ** 2.0))), ZERO_CLASS + 1, MAX_CLASS))
    pool = encode_pool(q - middle, np.array([spread]))
    pooled = Writer().raw(bytes([_POOLED])).sint(middle).sint(spread).raw(pool).getvalue()
    return min(general, pooled, key=len)


def decode_side(data: bytes, count: int) -> np.ndarray:
    """Decode `count` integers, int64. Raises FormatError."""
    if not data or data[0] != _POOLED:
        return decode_ints(data, count, np.int64)
    stream = Reader(data[1:])
    middle, spread = stream.sint(), stream.sint()
    if not ZERO_CLASS < spread <= MAX_CLASS:
        raise FormatError("a spread is out of range: the file is damaged")
    return decode_pool(stream.rest(), np.array([spread]), count).astype(np.int64) + middle
