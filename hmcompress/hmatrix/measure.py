"""What "error" means for a single matrix: measured in float64 on decoded values of the stored dtype."""

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from hmcompress.errors import SettingsError

Norm = Literal["fro", "spectral", "max"]
NORMS = ("fro", "spectral", "max")
_CHUNK = 1 << 15


def measure_error(original: Tensor, decoded: Tensor, norm: Norm = "fro") -> tuple[float, float]:
    """Measure a decoded matrix against the original.

    original, decoded: (m, n), any floating dtype. Returns (relative error in `norm`, largest absolute error).
    fro: ||E||_F / ||W||_F. spectral: ||E||_2 / ||W||_2. max: max |E| / max |W|. A zero matrix that decodes to zero
    has error 0, one that does not has error inf.
    """
    return relative_error(original, decoded, norm, reference(original, norm))


def reference(original: Tensor, norm: Norm) -> float:
    """What an error in `norm` is relative to: the norm of the original itself."""
    if norm == "spectral":
        return spectral_norm(original.double())
    squares, largest = _size(original)
    return math.sqrt(squares) if norm == "fro" else largest


def relative_error(original: Tensor, decoded: Tensor, norm: Norm, size: float) -> tuple[float, float]:
    """measure_error where the reference `size` is known already."""
    if norm not in NORMS:
        raise SettingsError(f"norm {norm!r} is unknown: use one of {', '.join(NORMS)}")
    squares, largest = _difference(original, decoded)
    if norm == "spectral":
        return _ratio(spectral_norm(original.double() - decoded.double()), size), largest
    return _ratio(math.sqrt(squares) if norm == "fro" else largest, size), largest


def spectral_norm(a: Tensor) -> float:
    """Largest singular value of a (m, n) float64 matrix, from the eigenvalues of the smaller Gram matrix."""
    if a.numel() == 0:
        return 0.0
    scale = float(a.abs().max())
    if scale == 0 or not math.isfinite(scale):
        return scale
    a = a / scale
    gram = a @ a.T if a.shape[0] <= a.shape[1] else a.T @ a
    return scale * math.sqrt(max(float(torch.linalg.eigvalsh(gram)[-1]), 0.0))


def _size(w: Tensor) -> tuple[float, float]:
    """Sum of squares and largest magnitude."""
    squares = largest = 0.0
    for x in _chunks(w):
        squares += float(torch.dot(x, x))
        largest = _larger(largest, x)
    return squares, largest


def _difference(original: Tensor, decoded: Tensor) -> tuple[float, float]:
    squares = largest = 0.0
    for x, y in zip(_chunks(original), _chunks(decoded), strict=True):
        x -= y
        squares += float(torch.dot(x, x))
        largest = _larger(largest, x)
    return squares, largest


def _larger(largest: float, x: Tensor) -> float:
    """The larger of `largest` and the magnitudes in x; nan where either has one, which max() would lose."""
    low, high = torch.aminmax(x)
    magnitude = max(float(high), -float(low))
    return largest if math.isnan(largest) or magnitude <= largest else magnitude


def _chunks(w: Tensor) -> Iterator[Tensor]:
    """Copies of the entries in float64, small enough to stay in the cache."""
    flat = w.reshape(-1)
    for start in range(0, flat.numel(), _CHUNK):
        yield flat[start : start + _CHUNK].to(torch.float64, copy=True)


def _ratio(error: float, reference: float) -> float:
    if reference > 0:
        return error / reference
    return 0.0 if error == 0 else math.inf
