"""The step of a few entries whose integers are the digits of one number: of many, the one that takes fewest bytes."""

import numpy as np

from hmcompress.hmatrix.codecs import DIGITS
from hmcompress.hmatrix.hmatrix import HMatrix
from hmcompress.hmatrix.patterns import digits
from hmcompress.hmatrix.request import Request, first_step

Array = np.ndarray
_COARSEST, _FINEST, _STEPS = 4.0, 0.7, 96  # of the step that many entries would take, and how many between
_PARTS = 8  # of the largest entry, that may be steps: of masks, signs and the like
_CLIPS = 3  # largest integers that are tried
_TRIES, _LARGEST = 6, 1 << 28
_SQUARES = (1e-30, 1e30)  # sizes whose squares neither overflow nor vanish


def tune_digits(request: Request) -> HMatrix | None:
    """The matrix as digits where it is small, its entries are finite and a step holds; else None."""
    if not 0 < request.w.numel() <= digits.MOST or request.norm == "spectral" or not request.rounds:
        return None
    if not _SQUARES[0] < request.size < _SQUARES[1]:
        return None
    values = request.w.double().numpy()
    for step, most in _promising(values, request):
        q = np.clip(np.rint(values / step), -most, most)
        matrix = request.measured(bytes([DIGITS]) + digits.encode(q, step))
        if matrix.error <= request.tol:
            return matrix
    return None


def _promising(values: Array, request: Request) -> list[tuple[float, float]]:
    """Steps, and the largest integers, that hold before values are cast to their dtype, those of fewest bytes first."""
    steps = np.repeat(_steps(values, request), _CLIPS)[:, None, None]
    q = np.rint(values / steps)
    most = np.abs(q).max((1, 2), keepdims=True)
    most = np.maximum(most - np.arange(len(steps))[:, None, None] % _CLIPS, np.minimum(most, 1))
    q = np.clip(q, -most, most)
    wrong = np.abs(q * steps - values)
    error = wrong.max((1, 2)) if request.norm == "max" else np.sqrt(np.square(wrong).sum((1, 2)))
    found = []
    for k in np.flatnonzero((error <= request.tol * request.size) & (most[:, 0, 0] < _LARGEST)):
        step, size = float(steps[k, 0, 0]), digits.nbytes(int(q[k].min()), int(q[k].max()), values.size)
        found.append((size + (0 if _short(steps[k])[0, 0] == step else 2), error[k], step, float(most[k, 0, 0])))
    return [(step, largest) for _, _, step, largest in sorted(found)[:_TRIES]]


def _steps(values: Array, request: Request) -> Array:
    """Around the step that many entries would take, and parts of the largest entry."""
    step = first_step(request)
    parts = np.abs(values).max() / np.arange(1, _PARTS + 1)
    usual = step * np.geomspace(_COARSEST, _FINEST, _STEPS)
    steps = np.concatenate([_short(usual), _short(parts), parts.astype(np.float32)]).astype(np.float64)
    return np.unique(steps[np.isfinite(steps) & (steps > 0)])


def _short(steps: Array) -> Array:
    """Rounded down to numbers of eight significant bits."""
    bits = steps.astype(np.float32).view(np.uint32)
    return (bits & np.uint32(0xFFFF0000)).view(np.float32).astype(np.float64)
