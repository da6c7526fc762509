"""Lossless coding of the weights: the smallest of pcodec, zstd and zstd over byte planes, rows or columns first."""

import numpy as np
import torch

from hmcompress.baselines.matrix import Matrix
from hmcompress.baselines.peer import Peer
from hmcompress.coding.lossless import decode_array, encode_array

BY_COLUMN, PLANES = 1, 2


def _encode(matrix: Matrix, tol: float) -> bytes:
    """The form that the default levels find shortest, coded at the highest levels; `tol` plays no part."""
    stored = _stored(matrix.w)
    form = min(range(4), key=lambda form: len(encode_array(_arrange(stored, form), "default")))
    return bytes([form]) + encode_array(_arrange(stored, form), "max")


def _stored(w: torch.Tensor) -> np.ndarray:
    """The weights in their own dtype; bfloat16, which numpy lacks, as 16-bit integers."""
    return (w.view(torch.int16) if w.dtype == torch.bfloat16 else w).contiguous().numpy()


def _arrange(stored: np.ndarray, form: int) -> np.ndarray:
    flat = np.ascontiguousarray(stored.T if form & BY_COLUMN else stored).reshape(-1)
    return flat.view(np.uint8).reshape(flat.size, -1).T if form & PLANES else flat


def _decode(payload: bytes, shape: tuple[int, int], dtype: torch.dtype) -> np.ndarray:
    held = torch.empty(0, dtype=torch.int16 if dtype == torch.bfloat16 else dtype).numpy().dtype
    form, count = payload[0], shape[0] * shape[1]
    if form & PLANES:
        planes = decode_array(payload[1:], np.uint8, count * held.itemsize)
        flat = np.ascontiguousarray(planes.reshape(held.itemsize, count).T).reshape(-1).view(held)
    else:
        flat = decode_array(payload[1:], held, count)
    ordered = flat.reshape(shape[1], shape[0]).T if form & BY_COLUMN else flat.reshape(shape)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return torch.from_numpy(np.ascontiguousarray(ordered)).view(dtype).to(wide).numpy()


LOSSLESS = Peer("lossless", "lossless (pcodec, zstd)", _encode, _decode, lossless=True)
