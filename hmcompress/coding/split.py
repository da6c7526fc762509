"""Many integers the fast way: their high parts under Huffman codes, those of zstd, their low bits as they are.

Eight integers give as many bytes of low bits as each has. A high part that needs more than a byte is an escape.
"""

from typing import Any

import numpy as np

from hmcompress.coding.buffer import Reader, Writer
from hmcompress.coding.lossless import zstd_compress, zstd_decompress
from hmcompress.coding.sample import jittered
from hmcompress.errors import FormatError

Array = np.ndarray
_SPREAD = 4.5  # standard deviation of high parts at which Huffman codes and what low bits ignore lose least
_MOST_LOW = 24
_ESCAPE = -128
_SAMPLE = 1 << 14
_LEVEL = 1
_CHUNK = 1 << 15  # integers, a multiple of 8: they and their parts stay in the cache


def encode_split(q: Array) -> tuple[bytes, Array]:
    """Integers q (n,), n > 0, and those that escape, in order, which the decoder must be given."""
    some = q[jittered(len(q), max(1, len(q) // _SAMPLE))].astype(np.float64)
    spread = float(np.sqrt(np.mean(np.square(some)))) / _SPREAD
    low = min(round(float(np.log2(max(spread, 1.0)))), _MOST_LOW)
    high, packed, escapes = np.empty(len(q), np.int8), np.empty((-(-len(q) // 8), low), np.uint8), []
    for start in range(0, len(q), _CHUNK):
        x = q[start : start + _CHUNK]
        h = x >> low
        if max(int(h.max()), -int(h.min())) >= -_ESCAPE:
            escapes.append(x[np.abs(h) >= -_ESCAPE])
            h = np.where(np.abs(h) >= -_ESCAPE, _ESCAPE, h)
        high[start : start + _CHUNK] = h
        _pack(x, low, packed[start // 8 : (start + _CHUNK) // 8])
    out = Writer().uint(low).section(zstd_compress(high.tobytes(), _LEVEL)).raw(packed.tobytes())
    return out.getvalue(), np.concatenate([*escapes, q[:0]])


def decode_split(data: bytes, count: int, dtype: Any) -> tuple[Array, Array]:
    """Integers (count,) of `dtype`, and where those must be put that escaped. Raises FormatError."""
    stream = Reader(data)
    low = stream.uint(_MOST_LOW)
    high = np.frombuffer(zstd_decompress(stream.section(), count), np.int8)
    packed = np.frombuffer(stream.raw(-(-count // 8) * low), np.uint8).reshape(-(-count // 8), low)
    if stream.left:
        raise FormatError("low bits and integers differ in number: the file is damaged")
    q = np.empty(count, dtype)
    for start in range(0, count, _CHUNK):
        x = q[start : start + _CHUNK]
        np.left_shift(high[start : start + _CHUNK], low, out=x, dtype=dtype, casting="unsafe")
        _unpack(packed[start // 8 : (start + _CHUNK) // 8], low, x)
    return q, np.flatnonzero(high == _ESCAPE)


def _pack(x: Array, bits: int, out: Array) -> None:
    """The low bits of each of x (n,) into bytes (n / 8, bits): whole bytes of all eight first, then what is left."""
    whole, rest = divmod(bits, 8)
    x = np.pad(x, (0, -len(x) % 8)) if len(x) % 8 else x
    for i in range(whole):
        out[:, 8 * i : 8 * i + 8] = (x >> 8 * i).astype(np.uint8).reshape(-1, 8)
    if rest:
        eights: Any = (x >> 8 * whole).astype(np.uint8) & np.uint8((1 << rest) - 1)
        for width, wide in ((rest, np.uint16), (2 * rest, np.uint32), (4 * rest, np.uint64)):
            eights = eights[::2] | eights[1::2].astype(wide) << wide(width)
        out[:, 8 * whole :] = eights.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :rest]


def _unpack(packed: Array, bits: int, out: Array) -> None:
    """Put the low bits that _pack wrote under the high parts `out` (n,)."""
    whole, rest = divmod(bits, 8)
    for i in range(whole):
        out |= packed[:, 8 * i : 8 * i + 8].reshape(-1)[: len(out)].astype(out.dtype) << 8 * i
    if rest:
        eights = np.zeros((len(packed), 8), np.uint8)
        eights[:, :rest] = packed[:, 8 * whole :]
        x: Array = eights.view("<u8").reshape(-1)
        for width, narrow in ((4 * rest, np.uint32), (2 * rest, np.uint16), (rest, np.uint8)):
            both = np.empty((len(x), 2), narrow)
            both[:, 0], both[:, 1] = x & x.dtype.type((1 << width) - 1), x >> x.dtype.type(width)
            x = both.reshape(-1)
        out |= x[: len(out)].astype(out.dtype) << 8 * whole
