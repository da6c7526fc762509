"""Low rank relative to the scale of each entry.

Neurons that died in training share one direction at a scale far below the others': the dominant singular vectors of the
matrix do not see it, those of the matrix divided by its row and column scales do. Scales and vectors are found in turns
(iteratively reweighted least squares), so that what is left has the smallest sum of log scales, which is its price.
"""

from dataclasses import dataclass

import numpy as np
import torch

from hmcompress.hmatrix.basics.scales import price_jointly, rank_one_scales
from hmcompress.hmatrix.tree.blocks import Leaf
from hmcompress.hmatrix.tree.spectra import Spectrum, leading_triplets
from hmcompress.hmatrix.tree.transform import price_columns

Array = np.ndarray
_ROUNDS = 3
_TINY = 1e-30
_ROUNDING = 1e-6  # of the largest entry: a remainder that has no scales of its own
_FLOOR = 1e-6  # of the largest row or column scale
_RANKS = (1, 2, 4)
_COARSE = -2  # factors are rounded to a quarter step: small rows stand on them too
_WORTH = 0.987
_EDGE = 32


@dataclass(frozen=True)
class Reweighted:
    """Triplets of a block (m, n) and the column weights (n,) under which its left factor is fitted."""

    spectrum: Spectrum
    weights: Array


def reweighted_triplets(a: Array, rank: int) -> Reweighted:
    """`rank` triplets of a (m, n) that leave the smallest remainder relative to its scales."""
    rest, columns = a, np.ones(a.shape[1], a.dtype)
    for _ in range(_ROUNDS):
        rows, columns = (np.maximum(s, _FLOOR * s.max()) for s in rank_one_scales(np.square(rest)))
        weighted = a / rows[:, None]
        weighted /= columns
        largest = _largest(weighted) or weighted.dtype.type(1)  # its square may be more than a float32 holds
        weighted /= largest
        s = leading_triplets(torch.from_numpy(weighted), rank)
        left, right = rows[:, None] * s.left * (s.values * largest), columns[:, None] * s.right
        rest = left @ right.T
        np.subtract(a, rest, out=rest)
        if _largest(rest) <= _ROUNDING * _largest(a):
            break
    lengths = np.maximum(np.linalg.norm(right, axis=0), _TINY)
    sizes = np.maximum(np.linalg.norm(left * lengths, axis=0), _TINY)
    spectrum = Spectrum(sizes[None], (left * lengths / sizes)[None], (right / lengths)[None])
    return Reweighted(spectrum, 1 / columns)


def _largest(a: Array) -> np.floating:
    """The largest magnitude, without a copy of magnitudes."""
    return max(a.max(), -a.min())


def best_reweighted_leaf(a: Array, plain_price: float) -> tuple[Leaf, float] | None:
    """The reweighted leaf of a (m, n), in steps, that beats `plain_price` clearly, and its price, or None."""
    if min(a.shape) < _EDGE:
        return None
    best, best_price = None, _WORTH * plain_price
    for rank in _RANKS:
        total = _price(a, reweighted_triplets(a, rank).spectrum)
        if total < best_price:
            best, best_price = Leaf(rank, True, _COARSE, reweighted=True), total
    return None if best is None else (best, best_price)


def _price(a: Array, s: Spectrum) -> float:
    scale = 2.0**-_COARSE
    left, right = s.left[0] * s.values[0], s.right[0] * s.values[0]
    factors = price_columns(left * scale, False).sum() + price_columns(right * scale, False).sum()
    return float(factors) + price_jointly(np.square(a - left @ s.right[0].T) + 1 / 192)
