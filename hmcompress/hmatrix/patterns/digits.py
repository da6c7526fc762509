"""Codec `digits`: a few entries as the digits of one number, without any table; zeros take nothing at all.

Of a dozen numbers, what says how they are coded costs other codecs more than the numbers.
"""

import math

import numpy as np
import torch

from hmcompress.coding.buffer import Reader, Writer
from hmcompress.errors import FormatError
from hmcompress.hmatrix.basics.bodies import QuantizedBody

Array = np.ndarray
MOST = 512  # entries: for more, arithmetic on one number takes long and a table costs little
_LARGEST = 1 << 30  # of an integer
_SHORT = 1 << 16  # float32 steps whose last bits are zero are stored without these


def encode(q: Array, step: float) -> bytes:
    """Integers q (m, n), of which there are at most MOST, times a step, which is a float32."""
    flat = q.reshape(-1).astype(np.int64)
    if not flat.any():
        return b""
    (head, lowest), levels = _range(int(flat.min()), int(flat.max()), flat.size)
    bits = int(np.float32(step).view(np.uint32))
    wide = bits % _SHORT > 0
    out = Writer().uint(2 * head + wide).raw(bits.to_bytes(4, "little")[0 if wide else 2 :])
    out = out if lowest is None else out.sint(lowest)
    first = -(levels // 2) if lowest is None else lowest
    return out.raw(_number(flat - first, levels).to_bytes(_width(levels, flat.size), "little")).getvalue()


def nbytes(lowest: int, highest: int, count: int) -> int:
    """Bytes of so many integers between two under a short step."""
    (head, first), levels = _range(lowest, highest, count)
    return _length(head, first) + 2 + _width(levels, count)


def _range(lowest: int, highest: int, count: int) -> tuple[tuple[int, int | None], int]:
    """What says which integers there are, and how many: from the lowest on, or as many on either side of 0."""
    levels, side = highest - lowest + 1, max(-lowest, highest)
    forms = ((2 * levels, lowest), levels), ((2 * side + 1, None), 2 * side + 1)
    return min(forms, key=lambda form: _length(*form[0]) + _width(form[1], count))


def _length(head: int, lowest: int | None) -> int:
    out = Writer().uint(2 * head)
    return len((out if lowest is None else out.sint(lowest)).getvalue())


def decode(data: bytes | memoryview, shape: tuple[int, int], dtype: torch.dtype) -> QuantizedBody:
    """Inverse of encode. Raises FormatError."""
    values_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    stream, count = Reader(data), math.prod(shape)
    if count > MOST:
        raise FormatError(f"digits for {count} entries, at most {MOST} are possible: the file is damaged")
    if not len(data):
        return QuantizedBody(torch.zeros(shape, dtype=values_dtype))
    head, wide = divmod(stream.uint(4 * _LARGEST), 2)
    bits = int.from_bytes(bytes(0 if wide else 2) + stream.raw(4 if wide else 2), "little")
    levels, lowest = (head, -(head // 2)) if head % 2 else (head // 2, stream.sint())
    digits, value = stream.raw(stream.left), float(np.array(bits, np.uint32).view(np.float32))
    if not levels or not 0 < value < math.inf or abs(lowest) > _LARGEST or len(digits) != _width(levels, count):
        raise FormatError("digits, their number or their step are impossible: the file is damaged")
    q = _digits(int.from_bytes(digits, "little"), levels, count) + lowest
    return QuantizedBody(torch.from_numpy(q.reshape(shape) * value).to(values_dtype))


def _width(levels: int, count: int) -> int:
    """Bytes of the largest number of so many digits."""
    return ((levels**count - 1).bit_length() + 7) // 8


def _number(digits: Array, base: int) -> int:
    value = 0
    for digit in digits[::-1].tolist():
        value = value * base + digit
    return value


def _digits(value: int, base: int, count: int) -> Array:
    digits = np.zeros(count, np.int64)
    for k in range(count):
        value, digits[k] = divmod(value, base)
    if value:
        raise FormatError("digits hold a larger number than there can be: the file is damaged")
    return digits
