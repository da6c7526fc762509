"""Codec `trellis`: a whole matrix quantised along a trellis, with row and column scales."""

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from hmcompress.coding.buffer import Reader, Writer
from hmcompress.coding.dependent import (
    DISTORTION,
    SILENT_CLASS,
    TOP_CLASS,
    Model,
    decode_dependent,
    encode_dependent,
    own_shape,
    quantize,
)
from hmcompress.coding.viterbi import Trellis
from hmcompress.hmatrix.basics.bodies import QuantizedBody
from hmcompress.hmatrix.basics.scales import Scales, fit_scales, read_scales, write_scales

Array = np.ndarray
FINER = math.sqrt(DISTORTION * 12)  # what a scalar quantiser's step is divided by for the same error
_SAME_SCALES = 1 / 16  # octaves that the step may move before scales are fitted anew


@dataclass
class TrellisQuantizer:
    """Quantises one matrix, values (m, n) of the given dtype, at one step after another."""

    values: Array
    dtype: torch.dtype
    trellis: Trellis = field(default_factory=Trellis)
    _fitted: tuple[float, Scales] | None = None
    _last: tuple[float, Scales, Model, Array] | None = None

    def decoded(self, step: float) -> Tensor | None:
        """The matrix that a decoder would return, or None where the numbers do not suit the codec."""
        found = self._quantized(step)
        return None if found is None else _restore(found[3].reshape(self.values.shape), step, self.dtype)

    def encode(self, step: float) -> bytes | None:
        """The payload's body; `step` must be a float32 value."""
        found = self._quantized(step)
        if found is None:
            return None
        _, scales, model, v = found
        out = Writer().step(step)
        write_scales(out, scales)
        return out.raw(encode_dependent(v, scales.classes(self.values.shape), model, self.trellis)).getvalue()

    def _quantized(self, step: float) -> tuple[float, Scales, Model, Array] | None:
        if self._last is None or self._last[0] != step:
            x = self.values / self.values.dtype.type(step)
            scales = self._scales(x, step)
            e, x = scales.classes(x.shape), x.reshape(-1)
            self._last = None
            if not SILENT_CLASS < e.max(initial=SILENT_CLASS) <= TOP_CLASS:
                return None
            model = Model(own_shape(x, e))
            v = quantize(x, e, model, self.trellis)
            self._last = None if v is None else (step, scales, model, v)
        return self._last

    def _scales(self, x: Array, step: float) -> Scales:
        if self._fitted is None or abs(math.log2(step / self._fitted[0])) > _SAME_SCALES:
            self._fitted = step, fit_scales(x)
        return self._fitted[1]


def decode(data: bytes, shape: tuple[int, int], dtype: torch.dtype) -> QuantizedBody:
    """Inverse of TrellisQuantizer.encode. Raises FormatError."""
    stream = Reader(data)
    step = stream.step()
    scales = read_scales(stream, shape)
    v = decode_dependent(stream.rest(), scales.classes(shape), shape[0] * shape[1])
    return QuantizedBody(_restore(v.reshape(shape), step, dtype))


def _restore(v: Array, step: float, dtype: torch.dtype) -> Tensor:
    out = np.empty(v.shape, np.float64 if dtype == torch.float64 else np.float32)
    np.multiply(v, step, out=out, dtype=np.float64, casting="same_kind")  # one rounding, from float64
    return torch.from_numpy(out).to(dtype)
