"""Lossless coding of the weights: the smallest of pcodec, zstd and zstd over byte planes, rows or columns first."""

import numpy as np
import torch

from hmcompress.baselines.matrix import Matrix
from hmcompress.baselines.peer import Peer
from hmcompress.coding.tables import decode_table, encode_table


def _encode(matrix: Matrix, tol: float) -> bytes:
    """At the highest levels; `tol` plays no part. bfloat16, which numpy lacks, as 16-bit integers."""
    w = matrix.w
    return encode_table((w.view(torch.int16) if w.dtype == torch.bfloat16 else w).numpy(), "max")


def _decode(payload: bytes, shape: tuple[int, int], dtype: torch.dtype) -> np.ndarray:
    held = torch.empty(0, dtype=torch.int16 if dtype == torch.bfloat16 else dtype).numpy().dtype
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return torch.from_numpy(decode_table(payload, held, shape)).view(dtype).to(wide).numpy()


LOSSLESS = Peer("lossless", "lossless (pcodec, zstd)", _encode, _decode, lossless=True)
