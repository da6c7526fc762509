"""Stored leaves that multiply without being expanded, but for small ones and stripes of large ones, for a moment."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property

import numpy as np
from scipy import sparse
from scipy.fft import dct, idct

from hmcompress.hmatrix.basis import BASES
from hmcompress.hmatrix.blocks import Block
from hmcompress.hmatrix.parts import LowRank, Part, Remainder
from hmcompress.hmatrix.tree import PlacedLeaf

Array = np.ndarray
_SMALL = 2**18  # entries of a leaf that is expanded as it is
_STRIPE = 128  # columns of a large leaf that are expanded at once
_SPARSE = 0.1  # share of integers other than zero below which they are kept as a sparse matrix
_ROWS = 256  # rows of integers that become floating at once


class Term(ABC):
    """One part of a leaf, in steps. Blocks are ranges within the leaf."""

    @abstractmethod
    def times(self, block: Block, x: Array) -> Array:
        """The block times x (its columns, k)."""

    @abstractmethod
    def energy(self, block: Block) -> float:
        """The squared Frobenius norm of the block."""


class Factors(Term):
    """A low-rank part."""

    def __init__(self, part: LowRank) -> None:
        self._left, self._right = part.left, part.right

    def times(self, block: Block, x: Array) -> Array:
        return self._left[block.r0 : block.r1] @ (self._right[block.c0 : block.c1].T @ x)

    def energy(self, block: Block) -> float:
        left, right = self._left[block.r0 : block.r1], self._right[block.c0 : block.c1]
        return float(np.sum((left.T @ left) * (right.T @ right)))


class SmallRemainder(Term):
    """A quantised part that is expanded whenever it is needed."""

    def __init__(self, part: Remainder) -> None:
        self._part = part

    def times(self, block: Block, x: Array) -> Array:
        return self._values(block) @ x

    def energy(self, block: Block) -> float:
        return float(np.square(self._values(block)).sum())

    def _values(self, block: Block) -> Array:
        return block.of(self._part.dense()).astype(np.float64)


class LargeRemainder(Term):
    """A quantised part that multiplies through its integers: transform x, multiply, transform back."""

    def __init__(self, part: Remainder) -> None:
        self._part, self._basis = part, BASES[part.basis]

    def times(self, block: Block, x: Array) -> Array:
        whole = np.zeros((self._part.q.shape[1], x.shape[1]))
        whole[block.c0 : block.c1] = x
        return self._from_rows(self._integers_times(self._to_columns(whole)))[block.r0 : block.r1]

    def energy(self, block: Block) -> float:
        return sum(float(np.square(stripe).sum()) for stripe in stripes(self, block))

    def _to_columns(self, x: Array) -> Array:
        if -1 not in self._basis.axes:
            return x
        return np.cumsum(x[::-1], axis=0)[::-1] if self._basis.difference else dct(x, axis=0, norm="ortho")

    def _from_rows(self, y: Array) -> Array:
        if -2 not in self._basis.axes:
            return y
        return np.cumsum(y, axis=0) if self._basis.difference else idct(y, axis=0, norm="ortho")

    def _integers_times(self, x: Array) -> Array:
        if self._sparse is not None:
            return self._sparse @ x
        q = self._part.q
        return np.concatenate([q[i : i + _ROWS].astype(np.float64) @ x for i in range(0, len(q), _ROWS)])

    @cached_property
    def _sparse(self) -> sparse.csr_array | None:
        q = self._part.q
        few = np.count_nonzero(q) < _SPARSE * q.size
        return sparse.csr_array(q, dtype=np.float64) if few else None


class Leaf:
    """A stored leaf, in steps: the sum of its terms and, transposed, of theirs."""

    def __init__(self, placed: PlacedLeaf) -> None:
        self.block = placed.block
        parts = [part.t() if placed.transposed else part for part in placed.parts]
        self._terms = [_term(part) for part in parts]
        self._flipped = [_term(part.t()) for part in parts]

    def times(self, block: Block, x: Array) -> Array:
        """The block times x."""
        return sum((term.times(block, x) for term in self._terms), np.zeros((block.shape[0], x.shape[1])))

    def transposed_times(self, block: Block, x: Array) -> Array:
        """The block's transpose times x."""
        flipped = Block(block.c0, block.c1, block.r0, block.r1)
        return sum((term.times(flipped, x) for term in self._flipped), np.zeros((flipped.shape[0], x.shape[1])))

    def dense(self, block: Block) -> Array:
        """The entries of the block."""
        return self.times(block, np.eye(block.shape[1]))

    def energy(self, block: Block) -> float:
        """The squared Frobenius norm of the block."""
        if len(self._terms) == 1:
            return self._terms[0].energy(block)
        return sum(float(np.square(stripe).sum()) for stripe in stripes(self, block))


def stripes(matrix: Term | Leaf, block: Block) -> Iterator[Array]:
    """The entries of a block, some columns at a time."""
    for first in range(block.c0, block.c1, _STRIPE):
        stripe = Block(block.r0, block.r1, first, min(first + _STRIPE, block.c1))
        yield matrix.times(stripe, np.eye(stripe.shape[1]))


def _term(part: Part) -> Term:
    if isinstance(part, LowRank):
        return Factors(part)
    if not isinstance(part, Remainder):
        raise TypeError(f"{type(part).__name__} is no part of a leaf")
    return SmallRemainder(part) if part.q.size <= _SMALL else LargeRemainder(part)
