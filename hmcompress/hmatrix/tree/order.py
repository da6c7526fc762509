"""Orders of rows and columns: as stored, any permutation, or along the Morton curve of a grid."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hmcompress.coding.buffer import Reader, Writer
from hmcompress.coding.side import decode_side, encode_side
from hmcompress.errors import FormatError

Array = np.ndarray
AS_STORED, PERMUTED, MORTON = range(3)
_ROWS = 64  # that change their columns at once


class Order(ABC):
    """A bijection of indices 0 .. n-1."""

    @abstractmethod
    def apply(self, x: Array, axis: int) -> Array:
        """x with its entries along `axis` in this order."""

    @abstractmethod
    def restore(self, x: Array, axis: int) -> Array:
        """Inverse of apply."""

    def restore_columns(self, x: Array) -> Array:
        """restore(x, 1) of a matrix that may be overwritten, in little more memory than it takes."""
        for start in range(0, len(x), _ROWS):
            x[start : start + _ROWS] = self.restore(x[start : start + _ROWS], 1)
        return x


@dataclass(frozen=True)
class Natural(Order):
    """As stored."""

    def apply(self, x: Array, axis: int) -> Array:
        return x

    def restore(self, x: Array, axis: int) -> Array:
        return x

    def restore_columns(self, x: Array) -> Array:
        return x


@dataclass(frozen=True, eq=False)
class Permuted(Order):
    """Position i holds index permutation[i]. A `grid` order is Morton's, known from its side lengths alone."""

    permutation: Array
    grid: tuple[int, int] | None = None

    def apply(self, x: Array, axis: int) -> Array:
        return np.take(x, self.permutation, axis)

    def restore(self, x: Array, axis: int) -> Array:
        return np.take(x, self._inverse, axis)

    @cached_property
    def _inverse(self) -> Array:
        inverse = np.empty_like(self.permutation)
        inverse[self.permutation] = np.arange(len(inverse))
        return inverse


def morton_order(height: int, width: int) -> Permuted:
    """Row-major points of a height x width grid along a Morton curve."""
    y, x = np.divmod(np.arange(height * width), width)
    key = np.zeros(height * width, np.int64)
    for bit in range(max(height, width).bit_length()):
        key |= ((x >> bit & 1) << (2 * bit)) | ((y >> bit & 1) << (2 * bit + 1))
    return Permuted(np.argsort(key, kind="stable"), (height, width))


def write_order(out: Writer, order: Order) -> None:
    """Store an order of known length."""
    if not isinstance(order, Permuted):
        out.uint(AS_STORED)
    elif order.grid is not None:
        out.uint(MORTON).uint(order.grid[0]).uint(order.grid[1])
    else:
        out.uint(PERMUTED).section(encode_side(order.permutation))


def read_order(data: Reader, n: int) -> Order:
    """Inverse of write_order for n indices. Raises FormatError."""
    code = data.uint()
    if code == AS_STORED:
        return Natural()
    if code == MORTON:
        height, width = data.uint(n), data.uint(n)
        if height * width != n:
            raise FormatError("a grid order does not fit its layer: the file is damaged")
        return morton_order(height, width)
    if code != PERMUTED:
        raise FormatError(f"order {code} is unknown: the file is damaged or newer than this release")
    permutation = decode_side(data.section(), n)
    if not np.array_equal(np.sort(permutation), np.arange(n)):
        raise FormatError("an order is no permutation: the file is damaged")
    return Permuted(permutation)
