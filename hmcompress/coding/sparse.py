"""Where the integers of a run that are not zero stand: how far each is from the one before, or a bit for every place.

Bits are coded as independent ones, or by a dictionary coder where blocks were pruned.

What stands on diagonals, in bands or in blocks leaves distances that repeat, and a general coder sees a few thousand
of them where it would see millions of zeros. Weights that were pruned have more zeros than any smooth distribution.
"""

import numpy as np

from hmcompress.coding.ans import AnsCoder, Bernoulli, coded_bytes, decoder_of
from hmcompress.coding.buffer import Reader, Writer
from hmcompress.coding.lossless import zstd_compress, zstd_decompress
from hmcompress.coding.streams import decode_ints, encode_ints
from hmcompress.errors import FormatError

SPARSE = 32  # entries for each that is not zero, at least
_SAMPLE = 1 << 12
_GAPS, _BITS, _MASK = range(3)
_HIGHEST, _QUICK, _MANY = 19, 9, 1 << 18  # levels of zstd; bytes from which the highest takes long
_UNIT = 1 << 16  # of the chance that a place is not zero


def is_sparse(q: np.ndarray) -> bool:
    """Whether few of the integers (n,) are not zero; of a dense run only some are looked at."""
    some = q[:: max(1, q.size // _SAMPLE)]
    if q.size == 0 or SPARSE * np.count_nonzero(some) > 2 * some.size:
        return False
    return bool(SPARSE * np.count_nonzero(q) <= q.size)


def encode_places(places: np.ndarray, count: int) -> bytes:
    """Encode ascending positions below `count`."""
    out = Writer().uint(len(places))
    if SPARSE * len(places) > count:
        found = bytes([_BITS]) + _encode_bits(places, count), bytes([_MASK]) + _encode_mask(places, count)
        return out.raw(min(found, key=len)).getvalue()
    return out.raw(bytes([_GAPS])).raw(encode_ints(np.diff(places, prepend=-1), "max")).getvalue()


def decode_places(data: bytes | memoryview, count: int) -> np.ndarray:
    """Inverse of encode_places. Raises FormatError."""
    stream = Reader(data)
    some, kind = stream.uint(count), stream.raw(1)[0]
    if kind == _BITS:
        places = _decode_bits(stream.rest(), some, count)
    elif kind == _MASK:
        places = _decode_mask(stream.rest(), some, count)
    elif kind == _GAPS:
        gaps = decode_ints(stream.rest(), some, np.int64)
        if gaps.min(initial=1) < 1 or gaps.max(initial=1) > count or float(gaps.sum(dtype=np.float64)) > count:
            raise FormatError("the places of a sparse stream lie outside of it: the file is damaged")
        places = np.cumsum(gaps) - 1
    else:
        raise FormatError("the places of a sparse stream are of an unknown kind: the file is damaged")
    return places


def _chance(some: int, count: int) -> float:
    return min(max(some * _UNIT // max(count, 1), 1), _UNIT - 1) / _UNIT


def _encode_bits(places: np.ndarray, count: int) -> bytes:
    bits = np.zeros(count, np.int32)
    bits[places] = 1
    coder = AnsCoder()
    coder.encode_reverse(bits, Bernoulli(_chance(len(places), count), perfect=False))
    return coded_bytes(coder)


def _decode_bits(words: bytes, some: int, count: int) -> np.ndarray:
    coder = decoder_of(words)
    places = np.flatnonzero(coder.decode(Bernoulli(_chance(some, count), perfect=False), count))
    if len(places) != some or not coder.is_empty():
        raise FormatError("a range-coded stream holds other places than it says: the file is damaged")
    return places


def _encode_mask(places: np.ndarray, count: int) -> bytes:
    bits = np.zeros(count, bool)
    bits[places] = True
    mask = np.packbits(bits)
    return zstd_compress(mask, _HIGHEST if len(mask) < _MANY else _QUICK)


def _decode_mask(frame: bytes, some: int, count: int) -> np.ndarray:
    mask = np.frombuffer(zstd_decompress(frame, -(-count // 8)), np.uint8)
    places = np.flatnonzero(np.unpackbits(mask, count=count))
    if len(places) != some:
        raise FormatError("a mask holds other places than it says: the file is damaged")
    return places
