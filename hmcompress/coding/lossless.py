"""Arrays without loss: the smallest of raw bytes, pcodec and zstd, behind one byte that says which.

zstd sees the bytes as they lie, or as planes: all first bytes of the elements, then all second bytes, and so on. The
exponents of weights then stand together, apart from the noise of their mantissas. pcodec takes numbers of one byte as
such of two.
"""

import math
from collections.abc import Iterator

import numpy as np
import zstandard
from pcodec import ChunkConfig, DeltaSpec, ModeSpec, standalone

from hmcompress.errors import FormatError

RAW, PCODEC, ZSTD, PLANES, WIDE = range(5)
_PCODEC_TYPES = {"f2", "f4", "f8", "i2", "i4", "i8", "u2", "u4", "u8"}
_WIDER = {"i1": np.dtype(np.int16), "u1": np.dtype(np.uint16)}  # what carries numbers that pcodec does not take
_HIGHEST, _FEW = 19, 1 << 20  # a level for up to so many bytes, where repetitions were found
_CLEAR, _MANY = 4, 1 << 23  # a ratio, from which this level is quick and serves more bytes
_HOPELESS = 4.0  # times what is known, beside which it gains too little
_LEVELS = {"fast": (4, 1), "default": (8, 3), "max": (12, 19)}


def encode_array(a: np.ndarray, effort: str = "default", known: float = math.inf) -> bytes:
    """Encode an array of any shape and plain dtype; its shape and dtype are the caller's to keep.

    known: bytes of another form, beside which what is hopelessly larger need not be the smallest.
    """
    flat = np.ascontiguousarray(a).reshape(-1)
    best, shortest = RAW, None
    for code, data in _candidates(flat, *_LEVELS[effort], known):
        if len(data) < (flat.nbytes if shortest is None else len(shortest)):
            best, shortest = code, data
    return bytes([best]) + (flat.tobytes() if shortest is None else shortest)


def _candidates(flat: np.ndarray, pcodec_level: int, zstd_level: int, known: float) -> Iterator[tuple[int, bytes]]:
    if flat.size == 0:
        return
    if _kind(flat.dtype) in _PCODEC_TYPES:
        yield PCODEC, pcodec_encode(flat, pcodec_level)
    if _kind(flat.dtype) in _WIDER:
        yield WIDE, pcodec_encode(flat.astype(_WIDER[_kind(flat.dtype)]), pcodec_level)
    data = flat.view(np.uint8)
    yield ZSTD, _dictionary(data, zstd_level, known)
    if flat.itemsize > 1:
        yield PLANES, _dictionary(_transposed(data, flat.itemsize), zstd_level, known)


def _kind(dtype: np.dtype) -> str:
    return f"{dtype.kind}{dtype.itemsize}"


def _dictionary(data: np.ndarray, level: int, known: float) -> bytes:
    quick = zstd_compress(data, level)
    most = _MANY if _CLEAR * len(quick) < len(data) else _FEW
    repeats = level > 1 and 2 * len(quick) < len(data) <= most and len(quick) < _HOPELESS * known
    return min(quick, zstd_compress(data, _HIGHEST), key=len) if repeats else quick


def _transposed(data: np.ndarray, width: int) -> np.ndarray:
    """Rows of `width` bytes to columns."""
    return np.ascontiguousarray(data.reshape(-1, width).T).reshape(-1)


def decode_array(data: bytes | memoryview, dtype: np.dtype | type | str, count: int) -> np.ndarray:
    """Decode `count` elements of `dtype`.

    Raises FormatError where the bytes hold anything else; no more memory than the result needs is taken.
    """
    dtype = np.dtype(dtype)
    if len(data) < 1:
        raise FormatError("an empty stream where an array is expected: the file is damaged")
    code, body = data[0], bytes(data[1:])
    if code == PCODEC:
        return pcodec_decode(body, dtype, count)
    if code == WIDE and _kind(dtype) in _WIDER:
        return _narrowed(pcodec_decode(body, _WIDER[_kind(dtype)], count), dtype)
    if code in (ZSTD, PLANES):
        body = zstd_decompress(body, count * dtype.itemsize)
        body = _transposed(np.frombuffer(body, np.uint8), count).tobytes() if code == PLANES and count else body
    elif code != RAW:
        raise FormatError(f"array coding {code} is unknown: the file is damaged or newer than this release")
    if len(body) != count * dtype.itemsize:
        raise FormatError(f"{len(body)} bytes where {count * dtype.itemsize} are expected: the file is damaged")
    return np.frombuffer(body, dtype, count).copy()


def _narrowed(wide: np.ndarray, dtype: np.dtype) -> np.ndarray:
    narrow = wide.astype(dtype)
    if not np.array_equal(narrow, wide):
        raise FormatError("a number stream holds numbers beyond its type: the file is damaged")
    return narrow


def pcodec_encode(flat: np.ndarray, level: int, *, noise: bool = False) -> bytes:
    """Encode a flat numeric array by pcodec. noise: neighbours are known not to help, so pcodec need not look."""
    config = ChunkConfig(compression_level=level)
    if noise:
        config.mode_spec, config.delta_spec = ModeSpec.classic(), DeltaSpec.no_op()
    return standalone.simple_compress(np.ascontiguousarray(flat), config)


def pcodec_decode(body: bytes, dtype: np.dtype, count: int) -> np.ndarray:
    """Decode exactly `count` numbers that pcodec encoded; raises FormatError otherwise."""
    out = np.empty(count, dtype)
    try:
        progress = standalone.simple_decompress_into(body, out)
    except (RuntimeError, TypeError, ValueError) as error:
        raise FormatError(f"a number stream does not decode: the file is damaged ({_first_words(error)})") from None
    if progress.n_processed != count or not progress.finished:
        raise FormatError(f"a number stream does not hold the {count} values expected: the file is damaged")
    return out


def zstd_compress(data: bytes | np.ndarray, level: int) -> bytes:
    """One zstd frame that states its content size and nothing else."""
    return zstandard.ZstdCompressor(level=level, write_checksum=False).compress(
        data if isinstance(data, bytes) else data.data
    )


def zstd_decompress(frame: bytes | memoryview, size: int) -> bytes:
    """Decode a frame that must hold exactly `size` bytes, checked before memory is taken for them."""
    try:
        if zstandard.frame_content_size(frame) != size:
            raise FormatError(f"a zstd frame does not state the {size} bytes expected: the file is damaged")
        return zstandard.ZstdDecompressor().decompress(frame, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise FormatError(f"a zstd frame does not decode: the file is damaged ({_first_words(error)})") from None


def _first_words(error: Exception) -> str:
    return str(error).splitlines()[0][:80] if str(error) else type(error).__name__
