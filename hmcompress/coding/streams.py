"""Short runs of integers (exponents, ranks, permutations): the smallest of several general coders."""

import math

import numpy as np

from hmcompress.coding.buffer import Reader, Writer
from hmcompress.coding.lossless import pcodec_decode, pcodec_encode, zstd_compress, zstd_decompress
from hmcompress.coding.split import decode_split, encode_split
from hmcompress.errors import FormatError

CONSTANT, PCODEC, ZSTD, PLAIN, SPLIT = range(5)
_WIDTHS: tuple[type[np.signedinteger], ...] = (np.int8, np.int16, np.int32, np.int64)
_CODED_AS: tuple[type[np.signedinteger], ...] = (np.int16, *_WIDTHS[1:])  # pcodec has no 8-bit integers
_NOISE_LEVEL = 10
_LONG, _LOOK, _SPLIT_MAY_COST = 1 << 14, 1 << 15, 1.02  # integers from which speed counts; how many tell; a factor
_LEVELS = {"fast": (4, 3), "default": (8, 19), "max": (12, 19)}
# Up to so many times the size to beat, the highest level is tried: few inputs gain more by it.
_PCODEC_GAINS, _ZSTD_GAINS, _MOST_GAIN = 1.005, 1.06, 1.5  # the last one where most are zero
_MANY, _QUICK, _FAR = 1 << 20, 9, 64  # bytes; a zstd level; a ratio
_LESS = 1.3  # times what the highest level makes, at most, are the bytes of that level
_REPEATING = 0.97  # of the bytes' order-zero entropy: zstd has found repetitions


def encode_noise(q: np.ndarray) -> bytes:
    """As encode_ints for a long run of integers that are independent of each other."""
    width = _narrowest(q)
    narrow = q.astype(_CODED_AS[width], copy=False)
    return bytes([PCODEC * 4 + width]) + pcodec_encode(narrow, _NOISE_LEVEL, noise=True)


def encode_ints(q: np.ndarray, effort: str = "default", size: float = math.inf) -> bytes:
    """Encode a flat array of integers; the decoder must know how many there are.

    size: bytes that they take otherwise; what is far from that is not coded as thoroughly.
    """
    q = np.ascontiguousarray(q).reshape(-1)
    width = _narrowest(q)
    narrow = q.astype(_WIDTHS[width])
    if q.size == 0 or (q == q[0]).all():
        return bytes([CONSTANT * 4 + width]) + narrow[:1].tobytes()
    pcodec_level, zstd_level = _LEVELS[effort]
    candidates = [
        (PLAIN, narrow.tobytes()),
        (PCODEC, pcodec_encode(q.astype(_CODED_AS[width], copy=False), pcodec_level)),
    ]
    if effort == "max" and q.size <= 1 << 14:  # of few integers a higher level may make more bytes
        candidates.append((PCODEC, pcodec_encode(narrow.astype(_CODED_AS[width]), _LEVELS["default"][0])))
    if q.size <= 1 << 16 or effort == "max":
        candidates.append((ZSTD, _dictionary(narrow.tobytes(), zstd_level, size)))
    code, body = min(candidates, key=lambda c: len(c[1]))
    return bytes([code * 4 + width]) + body


def encode_quickly(q: np.ndarray) -> bytes:
    """As encode_ints in a fraction of its time, and half a per cent more bytes, where many integers have no pattern."""
    q = np.ascontiguousarray(q).reshape(-1)
    if q.size < _LONG or (q == q[0]).all() or not _suits_split(q):
        return encode_ints(q)
    width = _narrowest(q)
    body, escapes = encode_split(q.astype(_CODED_AS[width], copy=False))
    return Writer().raw(bytes([SPLIT * 4 + width])).section(encode_ints(escapes)).raw(body).getvalue()


def _suits_split(q: np.ndarray) -> bool:
    """Whether Huffman codes are about as short as pcodec for some of the integers, which stand beside each other."""
    middle = max(0, q.size - _LOOK) // 2
    some = q[middle : middle + _LOOK]
    split, escapes = encode_split(some)
    pcodec = pcodec_encode(some.astype(_CODED_AS[_narrowest(some)], copy=False), _LEVELS["default"][0])
    return len(split) + 4 * len(escapes) <= _SPLIT_MAY_COST * len(pcodec)


def _decode_split(data: bytes | memoryview, count: int, dtype: np.dtype) -> np.ndarray:
    stream = Reader(data)
    escapes = stream.section()
    q, places = decode_split(stream.view(), count, dtype)
    if escapes[:1] >= bytes([SPLIT * 4]):
        raise FormatError("escapes are split once more: the file is damaged")
    q[places] = decode_ints(escapes, len(places), np.int64)
    return q


def _dictionary(data: bytes, level: int, size: float) -> bytes:
    """By zstd at this level; many bytes that a quick level does not shrink far take the highest ones too long, and so
    do zeros of which it makes much more than `size`."""
    are_many = len(data) > _MANY
    if not are_many and size == math.inf:
        return zstd_compress(data, level)
    quick = zstd_compress(data, min(level, _QUICK))
    is_far = len(quick) * _FAR >= len(data) if are_many else len(quick) > _LESS * size
    return quick if level <= _QUICK or is_far else zstd_compress(data, level)


def encode_below(q: np.ndarray, size: int) -> bytes | None:
    """As encode_ints at its highest levels where lower ones come near `size` bytes; None where nothing comes near."""
    q = np.ascontiguousarray(q).reshape(-1)
    width = _narrowest(q)
    numbers, data = q.astype(_CODED_AS[width]), q.astype(_WIDTHS[width]).tobytes()
    found = []
    if len(pcodec_encode(numbers, _LEVELS["default"][0])) <= _PCODEC_GAINS * size:
        found.append(bytes([PCODEC * 4 + width]) + pcodec_encode(numbers, _LEVELS["max"][0]))
    if _promises(data, size):
        found.append(bytes([ZSTD * 4 + width]) + zstd_compress(data, _LEVELS["max"][1]))
    return min(found, key=len, default=None)


def _promises(data: bytes, size: int) -> bool:
    """Whether zstd's highest level may take less than `size` bytes, judged by lower ones."""
    quick = len(zstd_compress(data, 1))
    if quick <= size:
        return True
    if quick > _MOST_GAIN * size:
        return False
    entropy = _order_zero(data)
    if quick > _ZSTD_GAINS * size and 8 * entropy < len(data):  # mostly zeros, of which the lowest level makes little
        quick = len(zstd_compress(data, _QUICK))
    return quick <= _ZSTD_GAINS * size and quick <= _REPEATING * entropy


def _order_zero(data: bytes) -> float:
    """What the bytes cost by their frequencies alone, in bytes."""
    counts = np.bincount(np.frombuffer(data, np.uint8))
    counts = counts[counts > 0]
    return float(np.sum(counts * np.log2(len(data) / counts))) / 8


def decode_ints(
    data: bytes | memoryview, count: int, dtype: type | None = np.int32, narrow: bool = False
) -> np.ndarray:
    """Decode `count` integers; raises FormatError where the bytes hold anything else.

    dtype None stands for int32 where the values fit by their stored width, int16 too where `narrow`, else int64.
    """
    if len(data) < 1:
        raise FormatError("an empty stream where integers are expected: the file is damaged")
    code, width = divmod(data[0], 4)
    stored = np.dtype(_WIDTHS[width])
    body = b"" if code == SPLIT else bytes(data[1:])
    if code == PCODEC:
        q = pcodec_decode(body, np.dtype(_CODED_AS[width]), count)
    elif code == SPLIT:
        q = _decode_split(memoryview(data)[1:], count, np.dtype(_CODED_AS[width]))
    elif code == CONSTANT and len(body) == (stored.itemsize if count else 0):
        q = np.repeat(np.frombuffer(body, stored), count)
    elif code in (PLAIN, ZSTD):
        body = zstd_decompress(body, count * stored.itemsize) if code == ZSTD else body
        if len(body) != count * stored.itemsize:
            raise FormatError(f"{len(body)} bytes where {count} integers are expected: the file is damaged")
        q = np.frombuffer(body, stored)
    else:
        raise FormatError("an integer stream is of an unknown or impossible kind: the file is damaged")
    if dtype is None:
        dtype = _WIDTHS[max(width, 1 if narrow else 2)]
    return q.astype(dtype, copy=not q.flags.writeable)


def _narrowest(q: np.ndarray) -> int:
    low, high = (int(q.min()), int(q.max())) if q.size else (0, 0)
    return next(i for i, t in enumerate(_WIDTHS) if np.iinfo(t).min <= low and high <= np.iinfo(t).max)
