"""Matrices without loss: row after row or column after column, whichever is shorter."""

import math

import numpy as np

from hmcompress.coding.lossless import decode_array, encode_array, zstd_compress
from hmcompress.errors import FormatError

_BY_COLUMNS = 8  # added to the byte that says how the numbers are coded
_LOOK, _PARTS = 1 << 15, 4  # entries, in so many bands
_CLEARLY, _NEARLY = 0.995, 1.05  # of the bits: chance does less; more
_REPEATING = 4  # bits for each byte of a number


def encode_table(a: np.ndarray, effort: str = "default", known: float = math.inf) -> bytes:
    """The smaller form of a (m, n), which need not be contiguous; its first byte says which. Type and shape are the
    caller's to keep. known: as of encode_array. At effort max both are coded: a look at large ones misses some."""
    by_rows = encode_array(a, effort, known)
    if min(a.shape) < 2 or (effort != "max" and a.size > 2 * _LOOK and not _columns_may_serve(a)):
        return by_rows
    by_columns = encode_array(a.T, effort, known)
    return min(by_rows, bytes([by_columns[0] | _BY_COLUMNS]) + by_columns[1:], key=len)


def decode_table(data: bytes | memoryview, dtype: np.dtype | type | str, shape: tuple[int, int]) -> np.ndarray:
    """Inverse of encode_table: (m, n), contiguous. Raises FormatError."""
    if len(data) < 1:
        raise FormatError("an empty stream where an array is expected: the file is damaged")
    code = data[0] & ~_BY_COLUMNS
    a = decode_array(bytes([code]) + data[1:] if code != data[0] else data, dtype, shape[0] * shape[1])
    return a.reshape(shape) if code == data[0] else np.ascontiguousarray(a.reshape(shape[::-1]).T)


def _columns_may_serve(a: np.ndarray) -> bool:
    """Whether columns come out shorter than rows, judged by some; where much repeats, a look is not to be trusted."""
    rows = _bits(_bands(a))
    return _bits(_bands(a.T)) < (_NEARLY if rows < _REPEATING * a.itemsize else _CLEARLY) * rows


def glance(a: np.ndarray) -> float:
    """Bytes of a (m, n), guessed from some rows and, of 16-bit numbers, columns: few where much repeats."""
    if a.itemsize > 2:
        some = _bands(a)
        return len(zstd_compress(some.tobytes(), 1)) / some.size * a.size
    return min(_bits(_bands(a)), _bits(_bands(a.T))) * a.size / 8


def _bands(a: np.ndarray) -> np.ndarray:
    """Some rows of a, in bands that are spread over it: parts may differ."""
    height = max(1, _LOOK // max(a.shape[1], 1) // _PARTS)
    if a.shape[0] <= _PARTS * height:
        return a
    starts = range(0, a.shape[0] - height + 1, a.shape[0] // _PARTS)
    return np.concatenate([a[start : start + height] for start in starts])


def _bits(part: np.ndarray) -> float:
    """Bits an entry of a part, coded quickly."""
    return 8 * len(encode_array(part, "fast")) / max(part.size, 1)
