"""Truncated factors of one block of a matrix, from products with it, with a measured remainder.

Randomised range finder (Halko, Martinsson and Tropp 2011). The Frobenius norm of the block is known from the leaves,
so what the factors miss is a difference of energies, not an estimate.
"""

import math
from dataclasses import dataclass

import numpy as np
import scipy.linalg

from hmcompress.hmatrix.blocks import Block
from hmcompress.nn.blocks import Matrix

Array = np.ndarray
_FIRST = 24  # columns of the first sketch
_UNSEEN = 1 / 16  # share of the budget that is given up for memory: most columns of a sketch hold next to nothing
_DIRECT = 128  # blocks up to this size are factored as they are


@dataclass(frozen=True)
class BlockFactors:
    """left (m, k) diag(values) right (n, k)^T, factors orthonormal; `missed`: squared norm of what they leave out."""

    left: Array
    values: Array
    right: Array
    missed: float

    def tails(self) -> Array:
        """Squared error after truncation to rank 0, 1, ..., k."""
        tails = np.cumsum(np.append(np.square(self.values), 0)[::-1])[::-1]
        return tails + self.missed

    def shortened(self, budget: float) -> "BlockFactors":
        """The same without the last columns, which together hold a squared error of at most `budget`."""
        tails = self.tails() - self.missed
        rank = int(np.argmax(tails <= budget))
        left, right = self.left[:, :rank].copy(), self.right[:, :rank].copy()
        return BlockFactors(left, self.values[:rank].copy(), right, self.missed + float(tails[rank]))

    def truncated(self, rank: int) -> tuple[Array, Array]:
        """Factors (m, rank) and (n, rank) that share the singular values evenly, padded with zeros."""
        k = min(rank, len(self.values))
        root = np.sqrt(self.values[:k])
        pad = ((0, 0), (0, rank - k))
        return np.pad(self.left[:, :k] * root, pad), np.pad(self.right[:, :k] * root, pad)


def factor(matrix: Matrix, block: Block, budget: float, limit: int, seed: int = 0) -> BlockFactors | None:
    """Factors of a block that miss a squared error of at most `budget`; None where that takes a rank above `limit`."""
    size = min(block.shape)
    if size <= _DIRECT:
        left, values, right = np.linalg.svd(matrix.dense(block), full_matrices=False)
        return BlockFactors(left, values, right.T, 0.0).shortened(_UNSEEN * budget)
    energy, width, before = matrix.energy(block), _FIRST, math.inf
    while True:
        found = _sketch(matrix, block, energy, min(width, size), seed)
        if found.missed <= budget or width >= size:
            return found.shortened(_UNSEEN * budget)
        if _needed(width, before, found.missed, budget) > 2 * limit:
            return None
        width, before = 2 * width, found.missed


def _needed(width: int, before: float, missed: float, budget: float) -> float:
    """The width that reaches the budget where the error keeps falling as it did when the width was doubled last."""
    fall = math.log2(before / missed)
    if fall == math.inf:  # the first sketch: at the least the next one
        return 2 * width
    return width * 2 ** min(32.0, math.log2(missed / max(budget, 1e-300)) / max(fall, 1e-9))


def _sketch(matrix: Matrix, block: Block, energy: float, width: int, seed: int) -> BlockFactors:
    random = np.random.default_rng(seed).standard_normal((block.shape[1], width))
    basis, _ = scipy.linalg.qr(matrix.times(block, random), mode="economic")
    right, values, turned = np.linalg.svd(matrix.transposed_times(block, basis), full_matrices=False)
    return BlockFactors(basis @ turned.T, values, right, max(0.0, energy - float(np.square(values).sum())))
