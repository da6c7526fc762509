"""How many singular triplets of a block are worth a look, told from its singular values alone.

Singular vectors, and prices of their columns under every transform, are most of a search; of noise they tell nothing.
"""

import numpy as np

from hmcompress.hmatrix.basics import price
from hmcompress.hmatrix.tree.deficiency import deficient_ranks
from hmcompress.hmatrix.tree.spectra import leading_values, singular_values

Array = np.ndarray
COARSE = (0, 2)  # steps of the factors, as powers of two
_SMOOTH, _FADING = 0.8, 4.0  # what smooth columns save, as a share, halved every so many: later ones are hardly smooth
_SPARE = 4
_CHEAP, _GUESSED_HIGH = 48, 1.1  # a side up to which all singular values take little time; a factor
_CLEARLY, _SHARE = 0.9, 0.5  # of other prices; of the shorter side: ranks that are asked for at most
_LOW_RATE = 0.75  # bits an entry below which a block is so smooth that columns may cost next to nothing


def worthwhile_ranks(stack: Array, squares: Array, best: Array, smooth: Array) -> Array:
    """For every block of a stack (b, m, n), in steps, how many leading triplets may take part in its cheapest leaf.

    squares (b,): sums of squares. best (b,): prices of leaves without a low-rank part. smooth (2, b): whether columns
    of the left and of the right factor may be smooth. 0: no low-rank part pays.
    """
    _, m, n = stack.shape
    ranks = np.zeros(len(stack), int)
    deficient = deficient_ranks(stack)
    some = np.flatnonzero((deficient > 0) | _hopeful(stack, squares, best, smooth))
    if len(some):
        part = stack if len(some) == len(stack) else stack[some]
        values, prices = _priced(part, squares[some], smooth[:, some], best[some], int(deficient.max()) + _SPARE)
        found = np.argmin(prices, axis=1) + 1
        promising = np.take_along_axis(prices, found[:, None] - 1, 1)[:, 0] < best[some]
        low = best[some] < _LOW_RATE * m * n
        most = np.maximum(2 * found, deficient[some]) + _SPARE
        ranks[some] = np.where(low, values.shape[1], np.where(promising, np.minimum(most, values.shape[1]), 0))
    return ranks


def _priced(stack: Array, squares: Array, smooth: Array, best: Array, rank: int) -> tuple[Array, Array]:
    """Singular values (b, ranks) and prices of as many of them, more where the last one of some still pays clearly."""
    _, m, n = stack.shape
    while True:
        values = singular_values(stack, rank)
        prices = _cheapest(values, squares, m, n, smooth)
        last = prices[:, -1]
        falling = (last <= prices.min(axis=1)) & (last < _CLEARLY * best)
        rank = 2 * values.shape[1]
        if not falling.any() or rank > _SHARE * min(m, n):
            return values, prices


def _hopeful(stack: Array, squares: Array, best: Array, smooth: Array) -> Array:
    """Whether the few largest singular values, guessed high, pay or promise that more of them would: (b,)."""
    _, m, n = stack.shape
    if min(m, n) < _CHEAP:
        return np.ones(len(stack), bool)
    prices = _cheapest(leading_values(stack) * _GUESSED_HIGH, squares, m, n, smooth)
    falling = prices[:, -1] <= prices.min(axis=1)
    return (prices.min(axis=1) < best) | falling | (best < _LOW_RATE * m * n)


def _cheapest(values: Array, squares: Array, m: int, n: int, smooth: Array) -> Array:
    """What a leaf of every rank would cost at least, whatever the step of its factors: (b, ranks)."""
    tails = np.maximum(squares[:, None] - np.cumsum(np.square(values), axis=1), 0)
    return np.stack([_prices(values, tails, m, n, coarse, smooth) for coarse in COARSE]).min(0)


def _prices(values: Array, tails: Array, m: int, n: int, coarse: int, smooth: Array) -> Array:
    """What a leaf of every rank would cost at least, with or without a remainder: (b, ranks)."""
    scaled, rank = values * 2.0**-coarse, np.arange(values.shape[1])
    saved = _SMOOTH * 2.0 ** (-rank / _FADING)
    columns = sum(
        side * price.bits(scaled / np.sqrt(side)) * (1 - saved * may_be[:, None])
        for side, may_be in zip((m, n), smooth, strict=True)
    )
    left = tails + (rank + 1) * (m + n) / 12 * 4.0**coarse
    remainder = m * n * price.cost(np.sqrt(left / (m * n)))
    return np.cumsum(columns, axis=1) + np.minimum(remainder, price.SLOPE * left)
