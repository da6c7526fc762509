"""How many singular triplets of a block are worth a look, told from its singular values alone.

Singular vectors, and prices of their columns under every transform, are most of a search; of noise they tell nothing.
"""

import numpy as np

from hmcompress.hmatrix import price
from hmcompress.hmatrix.spectra import singular_values

Array = np.ndarray
COARSE = (0, 2)  # steps of the factors, as powers of two
_SMOOTH, _FADING = 0.8, 4.0  # what smooth columns save, as a share, halved every so many: later ones are hardly smooth
_SPARE = 4
_LOW_RATE = 0.75  # bits an entry below which a block is so smooth that columns may cost next to nothing


def worthwhile_ranks(stack: Array, squares: Array, best: Array) -> Array:
    """For every block of a stack (b, m, n), in steps, how many leading triplets may take part in its cheapest leaf.

    squares (b,): sums of squares. best (b,): prices of leaves without a low-rank part. 0: no low-rank part pays.
    """
    _, m, n = stack.shape
    values = singular_values(stack)
    tails = np.maximum(squares[:, None] - np.cumsum(np.square(values), axis=1), 0)
    prices = np.stack([_prices(values, tails, m, n, coarse) for coarse in COARSE]).min(0)
    ranks = np.argmin(prices, axis=1) + 1
    promising = np.take_along_axis(prices, ranks[:, None] - 1, 1)[:, 0] < best
    return np.where(best < _LOW_RATE * m * n, values.shape[1], np.where(promising, 2 * ranks + _SPARE, 0))


def _prices(values: Array, tails: Array, m: int, n: int, coarse: int) -> Array:
    """What a leaf of every rank would cost at least, with or without a remainder: (b, ranks)."""
    scaled, rank = values * 2.0**-coarse, np.arange(values.shape[1])
    columns = m * price.bits(scaled / np.sqrt(m)) + n * price.bits(scaled / np.sqrt(n))
    columns *= 1 - _SMOOTH * 2.0 ** (-rank / _FADING)
    left = tails + (rank + 1) * (m + n) / 12 * 4.0**coarse
    remainder = m * n * price.cost(np.sqrt(left / (m * n)))
    return np.cumsum(columns, axis=1) + np.minimum(remainder, price.SLOPE * left)
