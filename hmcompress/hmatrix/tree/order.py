"""Orders of rows and columns: as stored, any permutation, or along the Morton curve of a grid."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hmcompress.coding.buffer import Reader, Writer
from hmcompress.coding.side import decode_side, encode_side
from hmcompress.errors import FormatError

Array = np.ndarray
AS_STORED, PERMUTED, MORTON = range(3)
_ROWS = 64  # that change their columns at once


@dataclass(frozen=True, eq=False)
class Order:
    """A bijection of indices 0 .. n-1: position i holds index permutation[i], without one that of i itself. A `grid`
    order is Morton's, known from its side lengths alone."""

    permutation: Array | None = None
    grid: tuple[int, int] | None = None

    def apply(self, x: Array, axis: int) -> Array:
        """x with its entries along `axis` in this order."""
        return x if self.permutation is None else np.take(x, self.permutation, axis)

    def restore(self, x: Array, axis: int) -> Array:
        """Inverse of apply."""
        return x if self.permutation is None else np.take(x, self._inverse, axis)

    def restore_columns(self, x: Array) -> Array:
        """restore(x, 1) of a matrix that may be overwritten, in little more memory than it takes."""
        for start in range(0, 0 if self.permutation is None else len(x), _ROWS):
            x[start : start + _ROWS] = self.restore(x[start : start + _ROWS], 1)
        return x

    @cached_property
    def _inverse(self) -> Array:
        assert self.permutation is not None
        inverse = np.empty_like(self.permutation)
        inverse[self.permutation] = np.arange(len(inverse))
        return inverse


NATURAL = Order()  # as stored


def morton_order(height: int, width: int) -> Order:
    """Row-major points of a height x width grid along a Morton curve."""
    y, x = np.divmod(np.arange(height * width), width)
    key = np.zeros(height * width, np.int64)
    for bit in range(max(height, width).bit_length()):
        key |= ((x >> bit & 1) << (2 * bit)) | ((y >> bit & 1) << (2 * bit + 1))
    return Order(np.argsort(key, kind="stable"), (height, width))


def write_order(out: Writer, order: Order) -> None:
    """Store an order of known length."""
    if order.permutation is None:
        out.uint(AS_STORED)
    elif order.grid is not None:
        out.uint(MORTON).uint(order.grid[0]).uint(order.grid[1])
    else:
        out.uint(PERMUTED).section(encode_side(order.permutation))


def read_order(data: Reader, n: int) -> Order:
    """Inverse of write_order for n indices. Raises FormatError."""
    code = data.uint()
    if code == AS_STORED:
        return NATURAL
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
    return Order(permutation)
