"""Which blocks have neighbours that resemble each other: of white ones no basis, and no smooth column, saves a bit."""

import numpy as np

from hmcompress.hmatrix.tree.basis import BASES, USUAL

Array = np.ndarray
_LAGS = (1, 2)
_CHANCE = 2.5  # standard deviations by which white entries may look alike
_TINY = 1e-30


def coloured(stack: Array) -> Array:
    """Whether the blocks of a stack (b, m, n) are more than white down their columns, and along their rows: (2, b).

    Columns and rows are brought to one size first: a large one would hide what all others show.
    """
    x = stack * (_scale(stack, "bij,bij->bj") ** -0.5)[:, None]
    x *= (_scale(x, "bij,bij->bi") ** -0.5)[:, :, None]
    return np.stack([_is_coloured(x), _is_coloured(np.swapaxes(x, 1, 2))])


def _scale(x: Array, lines: str) -> Array:
    """The sum of squares of each line; 1 for one of zeros."""
    power = np.einsum(lines, x, x)
    return np.where(power > _TINY, power, 1)


def _is_coloured(x: Array) -> Array:
    """Of columns: those of n white ones of m entries have correlations of mean square 1 / m, give or take."""
    m = x.shape[1]
    power = np.einsum("bij,bij->bj", x, x)
    moved = np.stack([np.einsum("bij,bij->bj", x[:, lag:], x[:, :-lag]) for lag in _LAGS])
    square = np.square(moved / np.maximum(power, _TINY)).sum(axis=2).max(axis=0)
    count = np.maximum((power > _TINY).sum(axis=1), 1)
    return m * square > count + _CHANCE * np.sqrt(2 * count)


def possible_bases(colours: Array) -> Array:
    """Which of the usual bases may be the cheapest for blocks of these colours (2, b): (bases, b)."""
    return np.array([colours[list(basis.axes)].all(axis=0) for basis in BASES[:USUAL]])
