"""Matrices of low rank whose singular values do not fall: nothing shows that before the last of them is taken.

Products of two layers, merged low-rank updates and projectors are such: each triplet alone costs more than it saves. By
elimination, a few rows and columns show after how many of them nothing is left of the others.
"""

import numpy as np
import torch

from hmcompress.hmatrix.basics import price

Array = np.ndarray
_LEAST, _MOST = 32, 256  # rows and columns that are eliminated
_SHARE = 0.5  # of the rank at which factors have as many entries as the matrix: what may pay at most
_WINDOW = 4  # pivots in a row that must be small: one may be by chance
_FIRST, _DROP = 8, 0.2  # pivots; what is left by chance is more of the first ones
_FINE, _TINY = 1e3, 1e-30  # steps, from which float32 is too coarse
_FACTOR_BITS = 2.0  # an entry of a factor, more than one of the matrix


def deficient_ranks(stack: Array) -> Array:
    """The rank of every block of a stack (b, m, n), in steps, where that saves bits: (b,), else 0."""
    rows, columns = some_lines(stack.shape[1:])
    return np.array([rank for rank, _ in _found(stack[:, rows, columns], stack.shape[1:])], int)


def deficiency(some: Array, shape: tuple[int, ...]) -> float:
    """Bits an entry that low rank saves of a matrix of this shape, of which these are `some_lines`, in steps."""
    return _found(some[None], shape)[0][1]


def some_lines(shape: tuple[int, ...]) -> tuple[slice, slice]:
    """The rows and the columns of a matrix (m, n) that tell its rank, as many of these as of those."""
    m, n = shape
    k = min(m, n, _MOST, max(_LEAST, 1 << int(_SHARE * m * n / (m + n) - 1).bit_length()))
    rows, columns = (slice(0, k * (side // k), side // k) for side in shape)
    return rows, columns


def _found(some: Array, shape: tuple[int, ...]) -> list[tuple[int, float]]:
    """How many pivots a low-rank part of each takes, (b, k, k), and the bits an entry it saves; 0 where none pays."""
    if some.shape[1] < 2 * _WINDOW:
        return [(0, 0.0)] * len(some)
    rms = np.sqrt(np.einsum("bij,bij->b", some, some, dtype=np.float64) / some[0].size)
    pivots = _pivots(some.astype(np.float32 if rms.max() < _FINE else np.float64, copy=False))
    later = np.lib.stride_tricks.sliding_window_view(pivots, _WINDOW, axis=1).max(2)[:, 1:]
    first = np.sort(pivots[:, :_FIRST], axis=1)[:, _FIRST // 2, None]
    left = later / np.maximum(first, _TINY)  # after 1, 2, ... of them
    drops = np.isfinite(pivots).all(1) & (left < _DROP).any(1)
    return [_best(x, r, shape) if drop else (0, 0.0) for x, r, drop in zip(left, rms, drops, strict=True)]


def _pivots(some: Array) -> Array:
    """Magnitudes of the pivots of every matrix of a stack (b, k, k): (b, k)."""
    lu = torch.linalg.lu_factor_ex(torch.from_numpy(np.ascontiguousarray(some)))[0]
    return lu.diagonal(dim1=1, dim2=2).abs().double().numpy()


def _best(left: Array, rms: float, shape: tuple[int, ...]) -> tuple[int, float]:
    before = price.cost(np.array([rms]))
    factors = np.arange(1, len(left) + 1) * sum(1 / side for side in shape) * (before + _FACTOR_BITS)
    saved = np.where(left < _DROP, before - price.cost(rms * np.minimum(left, 1)), 0) - factors
    best = int(np.argmax(saved))
    return (best + 1, float(saved[best])) if saved[best] > 0 else (0, 0.0)
