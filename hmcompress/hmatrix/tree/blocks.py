"""The block cluster tree: how index ranges split, and the plan of a compressed matrix over it."""

from dataclasses import dataclass, replace

import numpy as np

from hmcompress.hmatrix.tree.basis import TRANSPOSED

MIN_LEAF = 16
_ASPECT = 2  # a block longer than this times its other side splits along that side only


@dataclass(frozen=True)
class Block:
    """Rows [r0, r1) by columns [c0, c1)."""

    r0: int
    r1: int
    c0: int
    c1: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.r1 - self.r0, self.c1 - self.c0

    def of(self, a: np.ndarray) -> np.ndarray:
        return a[self.r0 : self.r1, self.c0 : self.c1]

    def children(self) -> tuple["Block", ...]:
        """Two or four children, row-major; none for a block too small to split."""
        rows, columns = splits(*self.shape)
        if not rows and not columns:
            return ()
        row_ranges = _halves(self.r0, self.r1) if rows else [(self.r0, self.r1)]
        column_ranges = _halves(self.c0, self.c1) if columns else [(self.c0, self.c1)]
        return tuple(Block(r0, r1, c0, c1) for r0, r1 in row_ranges for c0, c1 in column_ranges)


def splits(m: int, n: int) -> tuple[bool, bool]:
    """Whether a block of this shape splits its rows, and its columns. Symmetric under transposition."""
    can_rows, can_columns = m >= 2 * MIN_LEAF, n >= 2 * MIN_LEAF
    if can_rows and m >= _ASPECT * n:
        return True, False
    if can_columns and n >= _ASPECT * m:
        return False, True
    return can_rows, can_columns


def max_nodes(shape: tuple[int, int]) -> int:
    """No block cluster tree of this shape has more nodes: a side below MIN_LEAF never comes of a split."""
    return 2 * max(shape[0] // MIN_LEAF, 1) * max(shape[1] // MIN_LEAF, 1)


def _halves(start: int, stop: int) -> list[tuple[int, int]]:
    middle = start + (stop - start + 1) // 2
    return [(start, middle), (middle, stop)]


class Plan:
    """What to do with a block."""


@dataclass(frozen=True)
class Leaf(Plan):
    """A leaf with a low-rank part of rank `rank` and, where `remainder`, a quantised remainder.

    Factors of a leaf with a remainder are coded with a step 2 ** `coarse` times the matrix's. `basis` is the basis of
    the remainder, one of basis.BASES. `reweighted`: the low-rank part is the best relative to the entries' scales.
    """

    rank: int = 0
    remainder: bool = False
    coarse: int = 0
    basis: int = 0
    reweighted: bool = False


PLAIN_LEAF = Leaf(remainder=True)  # every entry is rounded as it stands


@dataclass(frozen=True)
class Split(Plan):
    children: tuple[Plan, ...]


@dataclass(frozen=True)
class Copy(Plan):
    """The same as the node numbered `source` in preorder, transposed or not."""

    source: int
    transposed: bool = False


def transpose_plan(plan: Plan, shape: tuple[int, int]) -> Plan:
    """The plan for the transposed block; shape is the block's own."""
    if isinstance(plan, Leaf):
        return replace(plan, basis=TRANSPOSED[plan.basis])
    if not isinstance(plan, Split):
        return plan
    blocks = Block(0, shape[0], 0, shape[1]).children()
    children = [transpose_plan(p, b.shape) for p, b in zip(plan.children, blocks, strict=True)]
    if len(children) == 4:
        children = [children[i] for i in (0, 2, 1, 3)]
    return Split(tuple(children))
