"""A layer that is like another one of its shape: a factor times that one, and what is left, as a matrix of its own.

Layers are like each other where they began as one: torch copies the first layer of a TransformerEncoder, experts begin
as one dense layer, averages of weights follow these. A layer that others stand on stands on none, so that no more than
two are decoded for one.
"""

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hmcompress.coding.buffer import Reader, Writer
from hmcompress.errors import FormatError
from hmcompress.hmatrix import HMatrix
from hmcompress.hmatrix.codecs import BASED

_AT_ONCE = 1 << 16  # entries
Other = Callable[[int], Tensor]  # the decoded matrix of the layer of this number


@dataclass(frozen=True)
class Based:
    """number: of the layer that this one stands on, from 0. rest: the payload of what is left."""

    number: int
    factor: float
    rest: bytes

    def payload(self) -> bytes:
        """What is stored."""
        return Writer().raw(bytes([BASED])).uint(self.number).raw(struct.pack("<d", self.factor) + self.rest).getvalue()

    def decode(self, other: Tensor, dtype: torch.dtype) -> Tensor:
        """The matrix (m, n); other (m, n): the layer that it stands on. Raises FormatError."""
        rest = HMatrix.from_payload(self.rest, (other.shape[0], other.shape[1]), dtype_of_rest(dtype))
        return combined(other, self.factor, rest.to_dense(), dtype)


def is_based(payload: bytes | memoryview) -> bool:
    """Whether the payload of a single matrix is that of a layer that stands on another one."""
    return payload[:1] == bytes([BASED])


def read_based(payload: bytes | memoryview) -> Based:
    """The inverse of Based.payload. Raises FormatError."""
    stream = Reader(payload[1:])
    number, (factor,) = stream.uint(), struct.unpack("<d", stream.raw(8))
    if not math.isfinite(factor):
        raise FormatError("the factor of a layer is no number: the file is damaged")
    return Based(number, factor, bytes(stream.rest()))


def combined(other: Tensor, factor: float, rest: Tensor, dtype: torch.dtype) -> Tensor:
    """factor * other + rest, (m, n), taken in float64, some rows at a time."""
    out = torch.empty(rest.shape, dtype=dtype)
    rows = max(1, _AT_ONCE // max(rest.shape[1], 1))
    for i in range(0, len(out), rows):
        out[i : i + rows] = (other[i : i + rows].double() * factor).add_(rest[i : i + rows])
    return out


def dtype_of_rest(dtype: torch.dtype) -> torch.dtype:
    """What is left of 16-bit numbers is no 16-bit number."""
    return dtype if dtype.itemsize >= 4 else torch.float32
