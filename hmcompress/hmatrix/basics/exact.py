"""Codecs `raw` and `lossless`: the matrix bit for bit."""

import math

import numpy as np
import torch
from torch import Tensor

from hmcompress.coding import tables
from hmcompress.coding.lossless import RAW
from hmcompress.hmatrix.basics.bodies import DenseBody

# The integer type that carries a dtype numpy lacks.
_CARRIERS = {torch.bfloat16: torch.uint16}
_BANDS = 2  # of rows, which tell about a large matrix


def encode(w: Tensor, effort: str = "default", known: float = math.inf) -> bytes:
    """The smallest lossless form of a (m, n) matrix; its first byte says which. known: bytes of another form, beside
    which what is hopelessly larger need not be the smallest."""
    return tables.encode_table(_words(w), effort, known)


def glance(w: Tensor) -> float:
    """Bytes of w (m, n), guessed from little of it: few where much repeats."""
    return tables.glance(_words(w))


def estimate(w: Tensor, entries: int) -> float:
    """Bytes that encode takes for w (m, n), from bands of its rows of so many entries; 0 where w is hardly larger."""
    height = entries // max(w.shape[1], 1)
    if not 0 < 8 * _BANDS * height <= w.shape[0]:
        return 0.0
    starts = ((i + 1) * (w.shape[0] - height) // (_BANDS + 1) for i in range(_BANDS))
    return float(np.mean([len(encode(w[i : i + height])) for i in starts])) * w.shape[0] / height


def _words(w: Tensor) -> np.ndarray:
    return w.contiguous().view(_CARRIERS.get(w.dtype, w.dtype)).numpy()


def decode(data: bytes, shape: tuple[int, int], dtype: torch.dtype) -> DenseBody:
    """Inverse of encode. Raises FormatError."""
    values = tables.decode_table(data, _words(torch.empty(0, dtype=dtype)).dtype, shape)
    return DenseBody(torch.from_numpy(values).view(dtype), "raw" if data[0] == RAW else "lossless")
