"""What a leaf consists of: a low-rank part, a quantised remainder, both or neither."""

from dataclasses import dataclass

import numpy as np

from hmcompress.coding.sample import FromTable, InSteps
from hmcompress.hmatrix.basics.scales import Scales
from hmcompress.hmatrix.tree.basis import BASES, PLAIN, TRANSPOSED
from hmcompress.hmatrix.tree.transform import CodedColumns, decode_columns

Array = np.ndarray


@dataclass(frozen=True)
class LowRank:
    """left (m, r) @ right (n, r)^T."""

    left: Array
    right: Array

    @property
    def rank(self) -> int:
        return self.left.shape[1]

    def dense(self) -> Array:
        return self.left @ self.right.T

    def matmul(self, x: Array) -> Array:
        return self.left @ (self.right.T @ x)

    def t(self) -> "LowRank":
        return LowRank(self.right, self.left)


@dataclass(frozen=True)
class Remainder:
    """Integers (m, n) in a basis."""

    q: Array
    basis: int = PLAIN

    def dense(self) -> Array:
        return BASES[self.basis].restore(self.q)

    def matmul(self, x: Array) -> Array:
        return self.dense().astype(x.dtype) @ x

    def t(self) -> "Remainder":
        return Remainder(self.q.T, TRANSPOSED[self.basis])


Part = LowRank | Remainder  # one term of a leaf, in steps
Parts = tuple[Part, ...]


@dataclass(frozen=True)
class CodedFactors:
    """The columns of both factors as integers, with a step of 2 ** coarse."""

    left: CodedColumns
    right: CodedColumns
    coarse: int

    def decode(self) -> LowRank:
        return LowRank(decode_columns(self.left.q, self.left.kinds) * 2.0**self.coarse, unit_columns(self.right))


@dataclass(frozen=True)
class CodedRemainder:
    """The remainder's integers (m, n) in a basis, with the scales they are coded by."""

    q: Array
    scales: Scales
    basis: int = PLAIN
    values: Array | InSteps | FromTable | None = None  # before rounding, in steps; the writer's alone, as is the next
    thrift: float = 0.0  # by which they were rounded

    def decode(self) -> Remainder:
        return Remainder(self.q, self.basis)


CodedPart = CodedFactors | CodedRemainder


@dataclass(frozen=True)
class CodedLeaf:
    """A leaf ready to be written: its coded parts, factors first."""

    parts: tuple[CodedPart, ...]

    @property
    def has_scales(self) -> bool:
        """Whether rows or columns have scales of their own."""
        rest = [part.scales for part in self.parts if isinstance(part, CodedRemainder)]
        return any(scales.rows is not None or scales.columns is not None for scales in rest)

    def decode(self) -> Parts:
        return tuple(part.decode() for part in self.parts)


def unit_columns(columns: CodedColumns) -> Array:
    """Decoded columns (n, r) scaled to unit length; their stored length only sets their precision."""
    x = decode_columns(columns.q, columns.kinds)
    return x / np.maximum(np.linalg.norm(x, axis=0), 1e-300)


def dense(parts: Parts, shape: tuple[int, int]) -> Array:
    """The sum of the parts, (m, n), in steps."""
    if not parts:
        return np.zeros(shape, np.float32)
    total = parts[0].dense()
    for part in parts[1:]:
        total = total + part.dense()
    return total


def kind(parts: Parts) -> str:
    """zero, low_rank, quantized or hybrid."""
    names = {LowRank: "low_rank", Remainder: "quantized"}
    return "hybrid" if len(parts) == 2 else names[type(parts[0])] if parts else "zero"
