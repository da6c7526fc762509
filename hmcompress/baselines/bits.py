"""Fixed-width integers and Rice-coded gaps as packed bits."""

import math

import numpy as np

_CHUNK = 1 << 18  # a multiple of 8, so that chunks end on whole bytes


def pack(values: np.ndarray, width: int) -> bytes:
    """Pack non-negative integers below 2**width (width <= 32), most significant bit first."""
    if width == 0:
        return b""
    flat = values.reshape(-1)
    return b"".join(_pack_chunk(flat[start : start + _CHUNK], width) for start in range(0, flat.size, _CHUNK))


def _pack_chunk(values: np.ndarray, width: int) -> bytes:
    columns = np.empty((values.size, width), np.uint8)
    flat = values.astype(np.uint32)
    for i in range(width):
        columns[:, i] = (flat >> np.uint32(width - 1 - i)) & np.uint32(1)
    return np.packbits(columns.reshape(-1)).tobytes()


def unpack(data: bytes, width: int, count: int) -> np.ndarray:
    """Inverse of pack: (count,) uint32."""
    values = np.zeros(count, np.uint32)
    buffer = np.frombuffer(data, np.uint8)
    for start in range(0, count if width else 0, _CHUNK):
        values[start : start + _CHUNK] = _unpack_chunk(buffer[start * width // 8 :], width, min(_CHUNK, count - start))
    return values


def _unpack_chunk(buffer: np.ndarray, width: int, count: int) -> np.ndarray:
    values = np.zeros(count, np.uint32)
    columns = np.unpackbits(buffer[: packed_bytes(count, width)], count=count * width).reshape(count, width)
    for i in range(width):
        values = (values << np.uint32(1)) | columns[:, i]
    return values


def packed_bytes(count: int, width: int) -> int:
    """Bytes that `count` values of `width` bits take."""
    return (count * width + 7) // 8


def rice_width(gaps: np.ndarray) -> int:
    """The Rice parameter that makes non-negative gaps shortest."""
    mean = float(gaps.mean()) if gaps.size else 0.0
    near = max(int(math.log2(mean + 1)), 0)
    return min(range(max(near - 1, 0), near + 2), key=lambda k: int((gaps >> k).sum()) + gaps.size * (k + 1))


def rice_encode(gaps: np.ndarray, width: int) -> bytes:
    """Quotients in unary (zeros closed by a one), then remainders; the split keeps decoding vectorised."""
    ends = np.cumsum((gaps >> width) + 1)
    unary = np.zeros(int(ends[-1]) if gaps.size else 0, np.uint8)
    unary[ends - 1] = 1
    return np.packbits(unary).tobytes() + pack(gaps & ((1 << width) - 1), width)


def rice_decode(data: bytes, width: int, count: int) -> np.ndarray:
    """Inverse of rice_encode: (count,) int64."""
    tail = packed_bytes(count, width)
    unary = np.unpackbits(np.frombuffer(data[: len(data) - tail], np.uint8))
    ends = np.flatnonzero(unary)[:count]
    quotients = np.diff(ends, prepend=-1) - 1
    return (quotients << width) + unpack(data[len(data) - tail :], width, count).astype(np.int64)
