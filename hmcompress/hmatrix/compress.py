"""compress_matrix: a matrix and a tolerance in, an HMatrix with its measured error out."""

import math

import numpy as np
import torch
from torch import Tensor

from hmcompress.errors import SettingsError
from hmcompress.hmatrix import exact, tree
from hmcompress.hmatrix.codecs import EXACT, TREE
from hmcompress.hmatrix.hmatrix import HMatrix
from hmcompress.hmatrix.measure import NORMS, measure_error


def compress_matrix(
    w: Tensor | np.ndarray, tol: float = 1e-3, norm: str = "fro", *, effort: str = "default"
) -> HMatrix:
    """Compress a matrix so that its relative error, measured on the decoded values, is at most `tol`."""
    w = torch.as_tensor(w)
    if w.ndim != 2 or not w.is_floating_point():
        raise SettingsError(f"compress_matrix takes a floating matrix (m, n), got {tuple(w.shape)} of {w.dtype}")
    if not 0 < tol < 1:
        raise SettingsError(f"tol is {tol}: it must lie between 0 and 1")
    if norm not in NORMS:
        raise SettingsError(f"norm {norm!r} is unknown: use one of {', '.join(NORMS)}")
    plain = HMatrix(tuple(w.shape), w.dtype, bytes([EXACT]) + exact.encode(w, effort), tol, norm, 0.0, 0.0)
    if w.numel() == 0 or not torch.isfinite(w).all():
        return plain
    scale = float(w.double().norm()) / math.sqrt(w.numel()) if norm != "max" else float(w.double().abs().max())
    step = tol * (scale or 1.0) * (math.sqrt(12) if norm != "max" else 2)
    for _ in range(40):
        payload = bytes([TREE]) + tree.encode(w, step)
        matrix = HMatrix(tuple(w.shape), w.dtype, payload, tol, norm)
        error, largest = measure_error(w, matrix.to_dense(), norm)
        if 0.98 * tol <= error <= tol or error == 0:
            break
        if len(payload) > plain.nbytes:
            return plain
        step *= min(max(0.995 * tol / error, 0.5), 2)
    matrix = HMatrix(tuple(w.shape), w.dtype, payload, tol, norm, error, largest)
    return matrix if error <= tol and matrix.nbytes < plain.nbytes else plain
