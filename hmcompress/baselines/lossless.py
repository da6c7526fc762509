"""Lossless coding of the weights: the smallest of pcodec, zstd and zstd over byte planes, rows or columns first."""

import numpy as np
import torch

from hmcompress.baselines.matrix import Matrix
from hmcompress.baselines.peer import Peer
from hmcompress.hmatrix.basics import exact


def _encode(matrix: Matrix, tol: float) -> bytes:
    """At the highest levels; `tol` plays no part."""
    return exact.encode(matrix.w, "max")


def _decode(payload: bytes, shape: tuple[int, int], dtype: torch.dtype) -> np.ndarray:
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return exact.decode(payload, shape, dtype).to_dense().to(wide).numpy()


LOSSLESS = Peer("lossless", "lossless (pcodec, zstd)", _encode, _decode, lossless=True)
