"""What "error" means for a single matrix: measured in float64 on decoded values of the stored dtype."""

import math
from typing import Literal

import torch
from torch import Tensor

from hmcompress.errors import SettingsError

Norm = Literal["fro", "spectral", "max"]
NORMS = ("fro", "spectral", "max")
_CHUNK = 1 << 22


def measure_error(original: Tensor, decoded: Tensor, norm: Norm = "fro") -> tuple[float, float]:
    """Measure a decoded matrix against the original.

    original, decoded: (m, n), any floating dtype. Returns (relative error in `norm`, largest absolute error).
    fro: ||E||_F / ||W||_F. spectral: ||E||_2 / ||W||_2. max: max |E| / max |W|. A zero matrix that decodes to zero
    has error 0, one that does not has error inf.
    """
    squared_error, squared_norm, largest_error, largest = _sums(original, decoded)
    if norm == "fro":
        return _ratio(math.sqrt(squared_error), math.sqrt(squared_norm)), largest_error
    if norm == "max":
        return _ratio(largest_error, largest), largest_error
    if norm == "spectral":
        error = original.double() - decoded.double()
        return _ratio(spectral_norm(error), spectral_norm(original.double())), largest_error
    raise SettingsError(f"norm {norm!r} is unknown: use one of {', '.join(NORMS)}")


def spectral_norm(a: Tensor) -> float:
    """Largest singular value of a (m, n) float64 matrix, from the eigenvalues of the smaller Gram matrix."""
    if a.numel() == 0:
        return 0.0
    scale = float(a.abs().max())
    if scale == 0:
        return 0.0
    a = a / scale
    gram = a @ a.T if a.shape[0] <= a.shape[1] else a.T @ a
    return scale * math.sqrt(max(float(torch.linalg.eigvalsh(gram)[-1]), 0.0))


def _sums(original: Tensor, decoded: Tensor) -> tuple[float, float, float, float]:
    squared_error = squared_norm = largest_error = largest = 0.0
    a, b = original.reshape(-1), decoded.reshape(-1)
    for start in range(0, a.numel(), _CHUNK):  # chunks keep the float64 copies small
        x = a[start : start + _CHUNK].double()
        e = x - b[start : start + _CHUNK].double()
        squared_error += float(e @ e)
        squared_norm += float(x @ x)
        largest_error = max(largest_error, float(e.abs().max()))
        largest = max(largest, float(x.abs().max()))
    return squared_error, squared_norm, largest_error, largest


def _ratio(error: float, reference: float) -> float:
    if reference > 0:
        return error / reference
    return 0.0 if error == 0 else math.inf
