"""Integers of which few are not zero: how far each of these is from the one before, and their values.

What stands on diagonals, in bands or in blocks leaves distances that repeat, and a general coder sees a few thousand
of them where it would see millions of zeros.
"""

import numpy as np

from hmcompress.coding.buffer import Reader, Writer
from hmcompress.coding.streams import decode_ints, encode_ints
from hmcompress.errors import FormatError

SPARSE = 32  # entries for each that is not zero, at least
_SAMPLE = 1 << 12


def is_sparse(q: np.ndarray) -> bool:
    """Whether few of the integers (n,) are not zero; of a dense run only some are looked at."""
    some = q[:: max(1, q.size // _SAMPLE)]
    if q.size == 0 or SPARSE * np.count_nonzero(some) > 2 * some.size:
        return False
    return bool(SPARSE * np.count_nonzero(q) <= q.size)


def encode_sparse(q: np.ndarray) -> bytes:
    """Encode a flat array of integers; the decoder must know how many there are."""
    places = np.flatnonzero(q)
    out = Writer().uint(len(places))
    out.section(encode_ints(np.diff(places, prepend=-1), "max"))
    return out.raw(encode_ints(q[places], "max")).getvalue()


def decode_sparse(data: bytes | memoryview, count: int) -> np.ndarray:
    """Decode `count` integers, int32 or int64. Raises FormatError."""
    places, values = decode_places(data, count)
    q = np.zeros(count, values.dtype)
    q[places] = values
    return q


def decode_places(data: bytes | memoryview, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The places (k,), ascending, and the values (k,) of those of `count` integers that are not zero, as stored."""
    stream = Reader(data)
    some = stream.uint(count)
    gaps = decode_ints(stream.section(), some, np.int64)
    values = decode_ints(stream.rest(), some, None)
    if gaps.min(initial=1) < 1 or gaps.max(initial=1) > count or float(gaps.sum(dtype=np.float64)) > count:
        raise FormatError("the places of a sparse stream lie outside of it: the file is damaged")
    return np.cumsum(gaps) - 1, values
