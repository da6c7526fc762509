"""Counting elements, and where a view lies in its base; strides and offsets are in elements."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what reads settings needs no torch
    from torch import Tensor


def elements(shape: Sequence[int]) -> int:
    """The number of elements of a tensor of this shape (1 for a scalar)."""
    return math.prod(shape)


def contiguous_stride(shape: Sequence[int]) -> tuple[int, ...]:
    """The stride, in elements, of a contiguous tensor."""
    stride, step = [], 1
    for n in reversed(shape):
        stride.append(step)
        step *= max(n, 1)
    return tuple(reversed(stride))


def span(shape: Sequence[int], stride: Sequence[int], offset: int = 0) -> int:
    """How many elements a base must have so that the view stays inside."""
    if elements(shape) == 0:
        return 0
    return offset + 1 + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))


@dataclass(frozen=True)
class View:
    """A tensor that shares the memory of `base`: `stride` and `offset` count elements from base's first."""

    base: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    @classmethod
    def whole(cls, base: str, shape: tuple[int, ...]) -> "View":
        """All of a base of this shape: a tied tensor."""
        return cls(base, shape, contiguous_stride(shape), 0)

    def of(self, base: "Tensor") -> "Tensor":
        """The view, in the memory of its base, which may itself begin anywhere in a storage."""
        return base.as_strided(self.shape, self.stride, int(base.storage_offset()) + self.offset)
