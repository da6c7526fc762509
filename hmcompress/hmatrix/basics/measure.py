"""What "error" means for a single matrix: measured in float64 on decoded values of the stored dtype."""

import math
from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from hmcompress.errors import SettingsError
from hmcompress.hmatrix.basics.eigen import eigenvalues

Norm = Literal["fro", "spectral", "max"]
NORMS = ("fro", "spectral", "max")
_CHUNK = 1 << 15  # entries: in float64 they fit into the cache
_PIECE = 1 << 13  # entries: of longer products libraries give a half to another thread, and wait for it
_OF_NUMPY = (torch.float64, torch.float32, torch.float16)
_TINY = 1e-140  # a Frobenius norm of numbers whose squares may vanish


def measure_error(original: Tensor, decoded: Tensor, norm: Norm = "fro") -> tuple[float, float]:
    """Measure a decoded matrix against the original.

    original, decoded: (m, n), any floating dtype. Returns (relative error in `norm`, largest absolute error).
    fro: ||E||_F / ||W||_F. spectral: ||E||_2 / ||W||_2. max: max |E| / max |W|. A zero matrix that decodes to zero
    has error 0, one that does not has error inf.
    """
    return relative_error(original, [decoded], norm, reference(original, norm))


def reference(original: Tensor, norm: Norm) -> float:
    """What an error in `norm` is relative to: the norm of the original itself."""
    if norm == "spectral":
        return spectral_norm(original.double())
    if norm == "fro":
        size = _length(original)
        return size if not size < _TINY else _length(original, reference(original, "max") or 1.0)
    largest = 0.0
    for x in _chunks(original.reshape(-1)):
        largest = _larger(largest, x)
    return largest


def _length(original: Tensor, unit: float = 1.0) -> float:
    """The Frobenius norm, squares taken in this unit. inf: no lossy form is tried then."""
    return unit * math.sqrt(sum(_square(x, unit) for x in _chunks(original.reshape(-1))))


def relative_error(original: Tensor, decoded: Iterable[Tensor], norm: Norm, size: float) -> tuple[float, float]:
    """measure_error where the reference `size` is known already; `decoded`: the rows of the matrix, block by block."""
    if norm not in NORMS:
        raise SettingsError(f"norm {norm!r} is unknown: use one of {', '.join(NORMS)}")
    if norm == "spectral":
        whole = torch.cat(list(decoded))
        error = spectral_norm(original.double() - whole.double())
        return _ratio(error, size), _difference(original, [whole])[1]
    length, largest = _difference(original, decoded, size if 0 < size < _TINY else 1.0)
    return _ratio(length if norm == "fro" else largest, size), largest


def spectral_norm(a: Tensor) -> float:
    """Largest singular value of a (m, n) float64 matrix, from the eigenvalues of the smaller Gram matrix."""
    if a.numel() == 0:
        return 0.0
    scale = float(a.abs().max())
    if scale == 0 or not math.isfinite(scale):
        return scale
    a = a / scale
    gram = a @ a.T if a.shape[0] <= a.shape[1] else a.T @ a
    return scale * math.sqrt(max(float(eigenvalues(gram)[-1]), 0.0))


def _difference(original: Tensor, decoded: Iterable[Tensor], unit: float = 1.0) -> tuple[float, float]:
    """Frobenius norm and largest magnitude of the original less the decoded rows; unit: of what is squared."""
    squares = largest = 0.0
    flat, start = original.reshape(-1), 0
    for block in decoded:
        for x, y in zip(_chunks(flat[start : start + block.numel()]), _chunks(block.reshape(-1)), strict=True):
            x -= y
            largest = _larger(largest, x)
            squares += _square(x, unit)
        start += block.numel()
    if start != flat.numel():  # what is missing would count as without error
        raise ValueError(f"{start} decoded entries for a matrix of {flat.numel()}")
    return unit * math.sqrt(squares), largest


def _square(x: np.ndarray, unit: float) -> float:
    """The squared length of x, in this unit; inf where it is too large for a number. x is overwritten."""
    with np.errstate(over="ignore"):
        if unit != 1.0:
            x /= unit
        pieces = (x[start : start + _PIECE] for start in range(0, len(x), _PIECE))
        return sum(float(np.dot(piece, piece)) for piece in pieces)


def _larger(largest: float, x: np.ndarray) -> float:
    """The larger of `largest` and the magnitudes in x; nan where either has one, which max() would lose."""
    magnitude = max(float(x.max()), -float(x.min()))
    return largest if math.isnan(largest) or magnitude <= largest else magnitude


def _chunks(flat: Tensor) -> Iterator[np.ndarray]:
    """The entries (n,) in float64, a cacheful at a time; each chunk takes the place of the one before."""
    buffer = np.empty(min(_CHUNK, flat.numel()))
    for start in range(0, flat.numel(), _CHUNK):
        part = flat[start : start + _CHUNK]
        chunk = buffer[: part.numel()]
        np.copyto(chunk, (part if part.dtype in _OF_NUMPY else part.float()).numpy())
        yield chunk


def _ratio(error: float, reference: float) -> float:
    if reference > 0:
        return error / reference
    return 0.0 if error == 0 else math.inf
