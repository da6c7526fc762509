"""Many integers the fast way: their high parts under Huffman codes, those of zstd, their low bits as they are.

Low bits stand together by runs of integers. A high part that needs more than a byte is an escape.
"""

from typing import Any

import numpy as np

from hmcompress.coding.buffer import Reader, Writer
from hmcompress.coding.lossless import zstd_compress, zstd_decompress
from hmcompress.coding.sample import some_of
from hmcompress.errors import FormatError

Array = np.ndarray
_SPREAD = 4.5  # standard deviation of high parts at which Huffman codes and what low bits ignore lose least
_MOST_LOW = 24
_ESCAPE = -128
_SAMPLE = 1 << 14
_LEVEL = 1
_RUN = 1 << 15  # integers whose low bits stand together: they and their parts stay in the cache


def encode_split(q: Array) -> tuple[bytes, Array]:
    """Integers q (n,), n > 0, and those that escape, in order, which the decoder must be given."""
    some = q[some_of(len(q), _SAMPLE)].astype(np.float64)
    spread = float(np.sqrt(np.mean(np.square(some)))) / _SPREAD
    low = min(round(float(np.log2(max(spread, 1.0)))), _MOST_LOW)
    high, escapes, packed = np.empty(len(q), np.int8), [q[:0]], []
    for start in range(0, len(q), _RUN):
        x = q[start : start + _RUN]
        h = x >> low
        if max(int(h.max()), -int(h.min())) >= -_ESCAPE:
            escapes.append(x[np.abs(h) >= -_ESCAPE])
            h = np.where(np.abs(h) >= -_ESCAPE, _ESCAPE, h)
        high[start : start + _RUN] = h
        packed += _pack(x, low)
    out = Writer().uint(low).section(zstd_compress(high.tobytes(), _LEVEL)).raw(b"".join(packed))
    return out.getvalue(), np.concatenate(escapes)


def decode_split(data: bytes | memoryview, count: int, dtype: Any) -> tuple[Array, Array]:
    """Integers (count,) of `dtype`, and where those must be put that escaped. Raises FormatError."""
    stream = Reader(data)
    low, size = stream.uint(_MOST_LOW), stream.uint()
    frame, packed = stream.view()[:size], np.frombuffer(stream.view()[size:], np.uint8)
    high = np.frombuffer(zstd_decompress(frame, count), np.int8)
    if len(packed) != -(-count // 8) * low:
        raise FormatError("low bits and integers differ in number: the file is damaged")
    q = np.empty(count, dtype)
    for start in range(0, count, _RUN):
        x = q[start : start + _RUN]
        np.left_shift(high[start : start + _RUN], low, out=x, dtype=dtype, casting="unsafe")
        if low:
            x |= _unpacked(packed[start // 8 * low : (start + _RUN) // 8 * low], low, dtype)[: len(x)]
    return q, np.flatnonzero(high == _ESCAPE)


def _pack(x: Array, bits: int) -> list[bytes]:
    """The low bits of each of x (n,): lowest bytes of all, next bytes of all; then what is left, of eight side by side.

    What is left of the second half stands above that of the first, then of the second quarter above the first, then of
    the second eighth above the first; lowest bytes of all, next bytes of all.
    """
    whole, rest = divmod(bits, 8)
    x = np.pad(x, (0, -len(x) % 8)) if len(x) % 8 else x
    parts = [(x >> 8 * i).astype(np.uint8).tobytes() for i in range(whole)]
    if rest:
        y: Any = (x >> 8 * whole).astype(np.uint8) & np.uint8((1 << rest) - 1)
        for width, wide in ((rest, np.uint16), (2 * rest, np.uint32), (4 * rest, np.uint64)):
            y = y[: len(y) // 2] | y[len(y) // 2 :].astype(wide) << wide(width)
        parts += [(y >> np.uint64(8 * i)).astype(np.uint8).tobytes() for i in range(rest)]
    return parts


def _unpacked(packed: Array, bits: int, dtype: Any) -> Array:
    """The inverse of _pack."""
    (whole, rest), eighth = divmod(bits, 8), len(packed) // bits
    x = np.zeros(8 * eighth, dtype)
    for i in range(whole):
        x |= packed[8 * eighth * i : 8 * eighth * (i + 1)].astype(dtype) << 8 * i
    if rest:
        planes = packed[8 * eighth * whole :].reshape(rest, eighth)
        y: Any = planes[0].astype(np.uint64)
        for i, plane in enumerate(planes[1:], 1):
            y |= plane.astype(np.uint64) << np.uint64(8 * i)
        for width, narrow in ((4 * rest, np.uint32), (2 * rest, np.uint16), (rest, np.uint8)):
            both = np.empty(2 * len(y), narrow)
            np.bitwise_and(y, y.dtype.type((1 << width) - 1), out=both[: len(y)], casting="unsafe")
            np.right_shift(y, y.dtype.type(width), out=both[len(y) :], casting="unsafe")
            y = both
        x |= y.astype(dtype) << 8 * whole
    return x
