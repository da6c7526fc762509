"""Codecs `raw` and `lossless`: the matrix bit for bit."""

import numpy as np
import torch
from torch import Tensor

from hmcompress.coding import lossless
from hmcompress.hmatrix.bodies import DenseBody

# The integer type that carries a dtype numpy lacks.
_CARRIERS = {torch.bfloat16: torch.uint16}
_NUMPY = {
    torch.float64: np.float64,
    torch.float32: np.float32,
    torch.float16: np.float16,
    torch.uint16: np.uint16,
}


def encode(w: Tensor, effort: str = "default") -> bytes:
    """The smallest lossless form of a (m, n) matrix; its first byte says which."""
    return lossless.encode_array(_words(w), effort)


def glance(w: Tensor) -> int:
    """Bytes of w after a quick dictionary coder: few where entries or rows repeat."""
    return len(lossless.zstd_compress(_words(w).tobytes(), 1))


def _words(w: Tensor) -> np.ndarray:
    return w.contiguous().view(_CARRIERS.get(w.dtype, w.dtype)).numpy()


def decode(data: bytes, shape: tuple[int, int], dtype: torch.dtype) -> DenseBody:
    """Inverse of encode. Raises FormatError."""
    carrier = _CARRIERS.get(dtype, dtype)
    values = lossless.decode_array(data, _NUMPY[carrier], shape[0] * shape[1])
    method = "raw" if data[0] == lossless.RAW else "lossless"
    return DenseBody(torch.from_numpy(values).view(dtype).reshape(shape), method)
