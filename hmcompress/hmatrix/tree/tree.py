"""Codec `tree`: a block cluster tree of leaves, one step for all of them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hmcompress.coding.buffer import Reader, Writer
from hmcompress.hmatrix.basics.bodies import LEAF_KINDS, Body
from hmcompress.hmatrix.tree.basis import PLAIN
from hmcompress.hmatrix.tree.blocks import Block, Copy, Leaf, Plan, Split
from hmcompress.hmatrix.tree.order import Order, read_order, write_order
from hmcompress.hmatrix.tree.parts import CodedLeaf, LowRank, Parts, Remainder, dense, kind
from hmcompress.hmatrix.tree.treestream import read_tree, write_tree

Array = np.ndarray
_BLOCK = 1 << 15  # entries


@dataclass(frozen=True)
class PlacedLeaf:
    """A leaf where it stands, in the ordered matrix; `parts` is in steps and may be shared with other places."""

    block: Block
    parts: Parts
    transposed: bool = False

    def dense(self) -> Array:
        shape = self.block.shape[::-1] if self.transposed else self.block.shape
        values = dense(self.parts, shape)
        return values.T if self.transposed else values

    def matmul(self, x: Array) -> Array:
        parts = [part.t() if self.transposed else part for part in self.parts]
        return sum((part.matmul(x) for part in parts), np.zeros((self.block.shape[0], x.shape[1])))


@dataclass(frozen=True)
class TreeBody(Body):
    """The decoded leaves of a (m, n) matrix, ordered by rows and columns."""

    shape: tuple[int, int]
    step: float
    leaves: tuple[PlacedLeaf, ...]
    rows: Order
    columns: Order
    wide: bool = False  # compute in float64 throughout

    def to_dense(self) -> Tensor:
        if len(self.leaves) == 1:
            values = self._scaled(self.leaves[0].dense())
        else:
            values = np.zeros(self.shape, np.float64 if self.wide else np.float32)
            for leaf in self.leaves:
                leaf.block.of(values)[...] = self._scaled(leaf.dense())
        values = self.rows.restore(values, 0)  # the ones before are let go
        return torch.from_numpy(self.columns.restore_columns(values))

    def integers(self) -> Array | None:
        """The matrix in steps, (m, n), where it is whole numbers of them as they stand."""
        parts = self.leaves[0].parts if len(self.leaves) == 1 else ()
        as_stored = self.rows.permutation is None and self.columns.permutation is None
        if len(parts) == 1 and isinstance(parts[0], Remainder) and parts[0].basis == PLAIN and as_stored:
            return parts[0].q
        return None

    def blocks(self) -> Iterator[Tensor]:
        q, count = self.integers(), max(1, _BLOCK // self.shape[1])
        if q is None:
            yield self.to_dense()
            return
        for start in range(0, self.shape[0], count):
            yield torch.from_numpy(self._scaled(q[start : start + count]))

    def _scaled(self, x: Array) -> Array:
        if self.wide:
            return x * self.step
        if x.dtype == np.float64 or x.dtype == np.int64:  # rounded at the end, a part at a time
            return np.multiply(x, self.step, out=np.empty_like(x, np.float32), dtype=np.float64, casting="unsafe")
        return np.multiply(x, np.float32(self.step), dtype=np.float32)

    def matmul(self, x: Tensor) -> Tensor:
        ordered = self.columns.apply(x.double().numpy(), 0)
        y = np.zeros((self.shape[0], x.shape[1]))
        for leaf in self.leaves:
            b = leaf.block
            y[b.r0 : b.r1] += leaf.matmul(ordered[b.c0 : b.c1])
        return torch.from_numpy(self.rows.restore(y * self.step, 0))

    def t(self) -> "TreeBody":
        flipped = tuple(
            PlacedLeaf(Block(b.c0, b.c1, b.r0, b.r1), leaf.parts, not leaf.transposed)
            for leaf, b in ((leaf, leaf.block) for leaf in self.leaves)
        )
        return TreeBody(self.shape[::-1], self.step, flipped, self.columns, self.rows, self.wide)

    def leaf_counts(self) -> dict[str, int]:
        kinds = [kind(leaf.parts) for leaf in self.leaves]
        return {name: kinds.count(name) for name in LEAF_KINDS}

    def max_rank(self) -> int:
        return max((p.rank for leaf in self.leaves for p in leaf.parts if isinstance(p, LowRank)), default=0)


def encode(
    plan: Plan, leaves: list[CodedLeaf], step: float, rows: Order, columns: Order, effort: str, general: bool = True
) -> bytes:
    """The payload's body; `step` must be a float32 value. general: whether general coders may find repetitions."""
    out = Writer().step(step)
    write_order(out, rows)
    write_order(out, columns)
    return out.raw(write_tree(plan, leaves, effort, general)).getvalue()


def decode(data: bytes, shape: tuple[int, int], dtype: torch.dtype) -> TreeBody:
    """Inverse of encode. Raises FormatError."""
    stream = Reader(data)
    step = stream.step(may_be_zero=True)
    rows, columns = read_order(stream, shape[0]), read_order(stream, shape[1])
    plan, leaves = read_tree(stream, shape)
    placed = place(plan, [leaf.decode() for leaf in leaves], shape)
    return TreeBody(shape, step, placed, rows, columns, dtype == torch.float64)


def place(plan: Plan, leaves: list[Parts], shape: tuple[int, int]) -> tuple[PlacedLeaf, ...]:
    """Every leaf of the plan where it stands, copies included."""
    return tuple(_place(plan, Block(0, shape[0], 0, shape[1]), iter(leaves), []))


Nodes = list[tuple[Block, list[PlacedLeaf]]]  # in preorder: where each node stands, and its leaves


def _place(plan: Plan, block: Block, leaves: Iterator[Parts], nodes: Nodes) -> list[PlacedLeaf]:
    placed: list[PlacedLeaf] = []
    nodes.append((block, placed))
    if isinstance(plan, Split):
        for child, part in zip(block.children(), plan.children, strict=True):
            placed += _place(part, child, leaves, nodes)
    elif isinstance(plan, Copy):
        origin, copied = nodes[plan.source]
        placed += [_moved(leaf, origin, block, plan.transposed) for leaf in copied]
    elif isinstance(plan, Leaf):
        placed.append(PlacedLeaf(block, next(leaves)))
    else:
        raise TypeError(f"{type(plan).__name__} is no plan")
    return placed


def _moved(leaf: PlacedLeaf, origin: Block, to: Block, transposed: bool) -> PlacedLeaf:
    """A leaf of the node at `origin` as it stands in the copy at `to`."""
    (m, n), rows, columns = leaf.block.shape, leaf.block.r0 - origin.r0, leaf.block.c0 - origin.c0
    if transposed:
        m, n, rows, columns = n, m, columns, rows
    r0, c0 = to.r0 + rows, to.c0 + columns
    return PlacedLeaf(Block(r0, r0 + m, c0, c0 + n), leaf.parts, leaf.transposed ^ transposed)
