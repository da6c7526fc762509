"""Codec `short floats`: weights of 16 bits whose tolerance is near their own resolution.

Small entries are rounded to a step. Larger ones are as far apart as that already, and are kept as they are: they take
the bits of the values that there are, not of the steps between them.
"""

import math
import struct
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hmcompress.coding.buffer import Reader, Writer
from hmcompress.coding.classes import ZERO_CLASS, groups_of, scatter, sizes_of
from hmcompress.coding.ladder import Ladder
from hmcompress.coding.pool import own_shape
from hmcompress.coding.ranged import decode_ranged, encode_ranged
from hmcompress.coding.sparse import decode_places, encode_places
from hmcompress.errors import FormatError
from hmcompress.hmatrix.bodies import QuantizedBody
from hmcompress.hmatrix.rank_one import fit_scales
from hmcompress.hmatrix.trellis import read_scales, write_scales

Array = np.ndarray
SHORT = (torch.bfloat16, torch.float16)
_BITS = {torch.bfloat16: 8, torch.float16: 11}  # significant ones
_PROBE_ROWS = 4
_CHUNK = 1 << 16  # numbers that are converted at once
_FEW = 0.95  # of the numbers: where fewer are not zero, their places are stored
_MAGNITUDE = 0x7FFF


def short_dtype(w: Tensor) -> torch.dtype | None:
    """The 16-bit dtype that holds every value of w (m, n), or None."""
    if w.dtype in SHORT:
        return w.dtype
    return next((dtype for dtype in SHORT if _holds(dtype, w[:_PROBE_ROWS]) and _holds(dtype, w)), None)


def _holds(dtype: torch.dtype, w: Tensor) -> bool:
    return torch.equal(w.to(dtype).to(w.dtype), w)


@dataclass(frozen=True)
class Rungs:
    """The values that a 16-bit dtype keeps at a step: multiples of it up to `top`, a power of two, then all."""

    dtype: torch.dtype
    step: float
    top: float

    @staticmethod
    def at(step: float, dtype: torch.dtype) -> "Rungs | None":
        """None where the step is finer than all, or coarser than most, of the dtype's values."""
        top = 2.0 ** (math.ceil(math.log2(step)) + _BITS[dtype] - 1)
        info = torch.finfo(dtype)
        return Rungs(dtype, step, top) if info.tiny <= top <= info.max / 2 else None

    @property
    def ladder(self) -> Ladder:
        return Ladder(self.top / self.step, 1 << (_BITS[self.dtype] - 1))

    @property
    def _offset(self) -> int:
        """Of the number of a rung from the word of its value."""
        return self.ladder.first - int(torch.tensor(self.top, dtype=self.dtype).view(torch.int16))

    def numbers(self, w: Tensor) -> Array:
        """The rungs (n,) of values w (n,) of the dtype, int32."""
        found = np.empty(w.numel(), np.int32)
        for start in range(0, found.size, _CHUNK):
            found[start : start + _CHUNK] = self._numbers(w[start : start + _CHUNK])
        return found

    def _numbers(self, w: Tensor) -> Array:
        x, words = w.float().numpy(), w.view(torch.int16).numpy().astype(np.int32) & _MAGNITUDE
        size = np.abs(x)
        steps = np.rint(np.minimum(size, self.top) / self.step).astype(np.int32)
        rungs = np.where(size < self.top, steps, words + self._offset)
        return np.where(x < 0, -rungs, rungs)

    def values(self, rungs: Array) -> Tensor:
        """Inverse of numbers, but for rounding. Raises FormatError where a number is too large for its dtype."""
        found = torch.empty(rungs.size, dtype=self.dtype)
        for start in range(0, rungs.size, _CHUNK):
            found[start : start + _CHUNK] = self._values(rungs[start : start + _CHUNK])
        return found

    def _values(self, rungs: Array) -> Tensor:
        size = np.abs(rungs).astype(np.int64)
        words = np.maximum(size - self._offset, 0)
        largest = int(torch.tensor(torch.finfo(self.dtype).max, dtype=self.dtype).view(torch.int16))
        if (words[size >= self.ladder.first] > largest).any():
            raise FormatError("a number is too large for its layer: the file is damaged")
        floats = torch.from_numpy(np.minimum(words, largest).astype(np.int16)).view(self.dtype).float().numpy()
        x = np.where(size < self.ladder.first, (size * np.float64(self.step)).astype(np.float32), floats)
        return torch.from_numpy(np.where(rungs < 0, -x, x)).to(self.dtype)


def encode(w: Tensor, rungs: Rungs) -> bytes:
    """The body of w (m, n), all of whose values the 16-bit dtype of `rungs` holds; the step must be a float32."""
    flat = w.to(rungs.dtype).reshape(-1)
    x = flat.float().numpy() / np.float32(rungs.step)
    scales = fit_scales(x.reshape(w.shape))
    e = scales.classes((w.shape[0], w.shape[1]))
    numbers = rungs.numbers(flat)
    numbers *= e > ZERO_CLASS
    pruned = bool(np.count_nonzero(numbers) < _FEW * numbers.size)
    out = Writer().uint(SHORT.index(rungs.dtype) * 2 + pruned).raw(struct.pack("<f", rungs.step))
    write_scales(out, scales)
    if pruned:
        places = np.flatnonzero(numbers)
        out.section(encode_places(places, numbers.size))
        numbers, x, e = numbers[places], x[places], e[places] if e.size > 1 else e
    groups = groups_of(e, numbers.size)
    if groups:
        shape = own_shape(x, e, x, groups)
        del x, e  # as large as the numbers
        out.raw(encode_ranged(numbers, groups, shape, rungs.ladder))
    return out.getvalue()


def decode(data: bytes, shape: tuple[int, int], dtype: torch.dtype) -> QuantizedBody:
    """Inverse of encode. Raises FormatError."""
    stream, count = Reader(data), shape[0] * shape[1]
    short, pruned = divmod(stream.uint(2 * len(SHORT) - 1), 2)
    (step,) = struct.unpack("<f", stream.raw(4))
    rungs = Rungs.at(step, SHORT[short]) if 0 < step < math.inf else None
    if rungs is None:
        raise FormatError("a step is impossible: the file is damaged")
    e = read_scales(stream, shape).classes(shape)
    if not pruned:
        return _body(rungs, _read(stream, e, count, rungs), shape, dtype)
    places, numbers = decode_places(stream.section(), count), np.zeros(count, np.int64)
    numbers[places] = _read(stream, e[places] if e.size > 1 else e, len(places), rungs)
    return _body(rungs, numbers, shape, dtype)


def _read(stream: Reader, e: Array, count: int, rungs: Rungs) -> Array:
    """The numbers (count,) of rungs, of classes e."""
    groups = sizes_of(e, count)
    if not groups:
        return np.zeros(count, np.int32)
    return scatter(decode_ranged(stream.view(), groups, rungs.ladder), e, groups, count)


def _body(rungs: Rungs, numbers: Array, shape: tuple[int, int], dtype: torch.dtype) -> QuantizedBody:
    return QuantizedBody(rungs.values(numbers).reshape(shape).to(dtype))
