"""Matrices of low rank whose singular values do not fall: nothing shows that before the last of them is taken.

Products of two layers, merged low-rank updates and projectors are such: each triplet alone costs more than it saves. By
elimination, a few rows and columns show after how many of them nothing is left of the others.
"""

import numpy as np
import torch

from hmcompress.hmatrix import price

Array = np.ndarray
_LEAST, _MOST = 32, 256  # rows and columns that are eliminated
_SHARE = 0.5  # of the rank at which factors have as many entries as the matrix: what may pay at most
_WINDOW = 4  # pivots in a row that must be small: one may be by chance
_FIRST, _DROP = 8, 0.2  # pivots; what is left by chance is more of the first ones
_FACTOR_BITS = 2.0  # an entry of a factor, more than one of the matrix


def deficient_ranks(stack: Array) -> Array:
    """The rank of every block of a stack (b, m, n), in steps, where that saves bits: (b,), else 0."""
    rows, columns = some_lines(stack.shape[1:])
    some = stack[:, rows, columns].astype(np.float64)
    return np.array([_best(pivots, a, stack.shape[1:])[0] for pivots, a in zip(_pivots(some), some, strict=True)], int)


def deficiency(some: Array, shape: tuple[int, ...]) -> float:
    """Bits an entry that low rank saves of a matrix of this shape, of which these are `some_lines`, in steps."""
    some = some.astype(np.float64)
    return _best(_pivots(some[None])[0], some, shape)[1]


def some_lines(shape: tuple[int, ...]) -> tuple[slice, slice]:
    """The rows and the columns of a matrix (m, n) that tell its rank, as many of these as of those."""
    m, n = shape
    k = min(m, n, _MOST, max(_LEAST, 1 << int(_SHARE * m * n / (m + n) - 1).bit_length()))
    rows, columns = (slice(0, k * (side // k), side // k) for side in shape)
    return rows, columns


def _pivots(some: Array) -> Array:
    """Magnitudes of the pivots of every matrix of a stack (b, k, k): (b, k)."""
    lu = torch.linalg.lu_factor_ex(torch.from_numpy(some))[0]
    return lu.diagonal(dim1=1, dim2=2).abs().numpy()


def _best(pivots: Array, some: Array, shape: tuple[int, ...]) -> tuple[int, float]:
    """How many pivots a low-rank part takes, and the bits an entry it saves; 0 and 0 where none pays."""
    if len(pivots) < 2 * _WINDOW or not np.isfinite(pivots).all():
        return 0, 0.0
    later = np.lib.stride_tricks.sliding_window_view(pivots, _WINDOW).max(1)[1:]
    left = later / max(float(np.median(pivots[:_FIRST])), 1e-30)  # after 1, 2, ... of them
    rms = np.array([np.sqrt(np.vdot(some, some) / some.size)])
    before = price.cost(rms)
    factors = np.arange(1, len(left) + 1) * sum(1 / side for side in shape) * (before + _FACTOR_BITS)
    saved = np.where(left < _DROP, before - price.cost(rms * np.minimum(left, 1)), 0) - factors
    best = int(np.argmax(saved))
    return (best + 1, float(saved[best])) if saved[best] > 0 else (0, 0.0)
