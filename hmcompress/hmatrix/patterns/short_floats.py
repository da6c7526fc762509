"""Codec `short floats`: weights of 16 bits whose tolerance is near their own resolution.

Small entries are rounded to a step. Larger ones are as far apart as that already, and are kept as they are: they take
the bits of the values that there are, not of the steps between them.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from hmcompress.coding.buffer import Reader, Writer
from hmcompress.coding.classes import ZERO_CLASS, gather, groups_of, scatter
from hmcompress.coding.ladder import Ladder
from hmcompress.coding.pool import LONG
from hmcompress.coding.pool_shapes import own_shape
from hmcompress.coding.ranged import decode_ranged, encode_ranged
from hmcompress.coding.sample import FromTable
from hmcompress.coding.sparse import decode_places, encode_places
from hmcompress.coding.streams import decode_ints, encode_ints, encode_noise
from hmcompress.errors import FormatError
from hmcompress.hmatrix.basics.bodies import QuantizedBody
from hmcompress.hmatrix.basics.scales import Scales, fit_scales, read_scales, write_scales
from hmcompress.hmatrix.basics.words import SHORT, WORDS, floats_of, look_up, words_of

Array = np.ndarray
_BITS = {torch.bfloat16: 8, torch.float16: 11}  # significant ones
_PROBE_ROWS = 4
_FEW = 0.95  # of the numbers: where fewer are not zero, their places are stored
_MAGNITUDE = 0x7FFF
_RANGED, _ALIKE = range(2)  # under scales, or none
_QUICK_MAY_COST = 1.005  # of the bytes


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
        return self.ladder.first - self._word(self.top)

    def _word(self, value: float) -> int:
        return int(torch.tensor(value, dtype=self.dtype).view(torch.int16))

    @cached_property
    def _numbers(self) -> Array:
        """The rung of every word, int16 where all fit; 0 for those that are no finite number."""
        words = np.arange(WORDS, dtype=np.uint16)
        finite = (words & _MAGNITUDE) <= self._word(torch.finfo(self.dtype).max)
        return self.numbers_of(np.where(finite, words, 0)).astype(np.int16 if self._last < 1 << 15 else np.int32)

    @cached_property
    def _words(self) -> Array:
        """The word of every rung from 0 up, then from the lowest up to -1: negative numbers count from the end."""
        rungs = np.arange(self._last + 1)
        words = np.maximum(rungs - self._offset, 0).astype(np.int16)
        steps = torch.from_numpy((rungs * np.float64(self.step)).astype(np.float32)).to(self.dtype).view(torch.int16)
        positive = np.where(rungs < self.ladder.first, steps.numpy(), words)
        return np.concatenate([positive, positive[:0:-1] | np.int16(-1 << 15)])

    @cached_property
    def heights(self) -> Array:
        """What every word stands for in steps, float32; 0 for those that are no finite number."""
        x = np.nan_to_num(floats_of(np.arange(WORDS, dtype=np.uint16), self.dtype), posinf=0, neginf=0)
        with np.errstate(over="ignore"):  # far beyond what stands in the matrix
            return x / np.float32(self.step)

    @property
    def _last(self) -> int:
        """The rung of the largest finite value."""
        return self._offset + self._word(torch.finfo(self.dtype).max)

    def numbers(self, w: Tensor) -> Array:
        """The rungs (n,) of values w (n,) of the dtype, int16 or int32."""
        return look_up(self._numbers, words_of(w))

    def numbers_of(self, words: Array) -> Array:
        """The rungs (n,) of the words (n,) of finite values, int32, without a table."""
        x, magnitudes = floats_of(words, self.dtype), words & _MAGNITUDE
        size = np.abs(x)
        steps = np.rint(np.minimum(size, self.top) / self.step).astype(np.int32)
        rungs = np.where(size < self.top, steps, magnitudes.astype(np.int32) + self._offset)
        return np.where(x < 0, -rungs, rungs)

    def words(self, rungs: Array) -> Array:
        """The words (n,), int16, of rungs (n,). Raises FormatError where a number is too large for its dtype."""
        if max(int(rungs.max(initial=0)), -int(rungs.min(initial=0))) > self._last:
            raise FormatError("a number is too large for its layer: the file is damaged")
        return look_up(self._words, rungs)

    def values(self, rungs: Array) -> Tensor:
        """Inverse of numbers, but for rounding. Raises FormatError as words does."""
        return torch.from_numpy(self.words(rungs)).view(self.dtype)


def encode(w: Tensor, rungs: Rungs) -> bytes:
    """The body of w (m, n), all of whose values the 16-bit dtype of `rungs` holds; the step must be a float32."""
    flat = w.to(rungs.dtype).reshape(-1)
    scales = fit_scales(look_up(rungs.heights, words_of(flat)).reshape(w.shape))
    may_cost = _QUICK_MAY_COST if flat.numel() >= LONG else 1.0
    alike = _alike(flat, rungs)
    if may_cost > 1 and scales.rows is None and scales.columns is None:
        return alike
    ranged = _scaled(flat, rungs, scales.classes((w.shape[0], w.shape[1])), scales)
    return alike if len(alike) <= may_cost * len(ranged) else ranged


def _alike(flat: Tensor, rungs: Rungs) -> bytes:
    """All numbers as one run that pcodec finds a histogram for: decoded twenty times as fast."""
    out, numbers, _ = _begun(_ALIKE, rungs, rungs.numbers(flat))
    return out.raw(encode_noise(numbers) if numbers.size else encode_ints(numbers)).getvalue()


def _scaled(flat: Tensor, rungs: Rungs, e: Array, scales: Scales) -> bytes:
    """The numbers range-coded under scales, whose classes are e."""
    out, numbers, places = _begun(_RANGED, rungs, rungs.numbers(flat) * (e > ZERO_CLASS), scales)
    words = words_of(flat)
    if places is not None:
        words, e = words[places], e[places] if e.size > 1 else e
    groups = groups_of(e, numbers.size)
    if groups:
        x = FromTable(rungs.heights, words)
        shape = own_shape(x, e, x, groups)
        numbers = gather(numbers, e, groups)
        del e  # as large as the numbers
        out.raw(encode_ranged(numbers, groups, shape, rungs.ladder))
    return out.getvalue()


def _begun(kind: int, rungs: Rungs, numbers: Array, scales: Scales | None = None) -> tuple[Writer, Array, Array | None]:
    """A body up to its numbers, the numbers that it needs, and their places if those are not all."""
    pruned = bool(np.count_nonzero(numbers) < _FEW * numbers.size)
    out = Writer().uint(kind * 2 * len(SHORT) + SHORT.index(rungs.dtype) * 2 + pruned).step(rungs.step)
    if scales is not None:
        write_scales(out, scales)
    if not pruned:
        return out, numbers, None
    places = np.flatnonzero(numbers)
    return out.section(encode_places(places, numbers.size)), numbers[places], places


def decode(data: bytes, shape: tuple[int, int], dtype: torch.dtype) -> QuantizedBody:
    """Inverse of encode. Raises FormatError."""
    stream, count = Reader(data), shape[0] * shape[1]
    kind, code = divmod(stream.uint((_ALIKE + 1) * 2 * len(SHORT) - 1), 2 * len(SHORT))
    short, pruned = divmod(code, 2)
    rungs = Rungs.at(stream.step(), SHORT[short])
    if rungs is None:
        raise FormatError("a step is impossible: the file is damaged")
    e = read_scales(stream, shape).classes(shape) if kind == _RANGED else None
    places = decode_places(stream.section(), count) if pruned else None
    if places is not None and e is not None and e.size > 1:
        e = e[places]
    words = _read(stream, e, count if places is None else len(places), rungs)
    if places is not None:
        some, words = words, np.zeros(count, np.int16)
        words[places] = some
    return QuantizedBody(torch.from_numpy(words).view(rungs.dtype).reshape(shape).to(dtype))


def _read(stream: Reader, e: Array | None, count: int, rungs: Rungs) -> Array:
    """The words (count,) of numbers of classes e, or alike; in their place they take less memory than numbers would."""
    if e is None:
        return rungs.words(decode_ints(stream.view(), count, None, narrow=True))
    groups = groups_of(e, count)
    if not groups:
        return np.zeros(count, np.int16)
    return scatter(rungs.words(decode_ranged(stream.view(), groups, rungs.ladder, narrow=True)), e, groups, count)
