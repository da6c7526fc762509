"""Matrices that a parameter holds one after another, and what a view of the parameter shows of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor, is_gradtrackingtensor

from hmcompress.geometry import contiguous_stride

Factor = Tensor | float


@dataclass(frozen=True)
class Matrix:
    """One of `count` matrices (rows, n) that the parameter at `place` holds, in its row-major order; index: from 0."""

    place: str
    count: int
    rows: int
    index: int

    def of(self, t: Tensor) -> Tensor:
        """From the parameter."""
        return t.reshape(self.count, self.rows, -1)[self.index]

    def named(self, name: str) -> str:
        """Its own name, from the parameter's."""
        return name if self.count == 1 else f"{name}[{self.index}]"


@dataclass(frozen=True)
class Beside:
    """The parameter with which another one makes a weight: the lengths of its rows, whose directions the other one then
    tells, or a factor of its entries or of each run of these."""

    place: str
    is_factor: bool

    def weight(self, v: Tensor, other: Tensor, turned: bool) -> Tensor:
        """W (m, n) from both; turned: the first one is W^T. Lengths may be negative."""
        if self.is_factor:
            shape = _without_ones(other.shape)
            w = (v * other.reshape(*shape, *[1] * (v.ndim - len(shape)))).reshape(len(v), -1)
            return w.T if turned else w
        rows = (v.T if turned else v).double()
        return (rows * (other.reshape(-1, 1).double() / rows.norm(dim=1, keepdim=True))).to(v.dtype)

    def fits(self, v: Tensor, other: Tensor, shape: tuple[int, ...], turned: bool) -> bool:
        """Whether both can make a weight of this shape."""
        if v.dtype != other.dtype:
            return False
        if not self.is_factor:
            return v.ndim == 2 and tuple(v.shape[::-1] if turned else v.shape) == shape and other.numel() == shape[0]
        size = (len(v), v.numel() // max(len(v), 1)) if v.ndim > 1 else ()
        factor = _without_ones(other.shape)
        wanted = size[::-1] if turned else size
        return factor == v.shape[: len(factor)] and wanted == shape and not (turned and v.ndim > 2)


@dataclass(frozen=True)
class View:
    """A tensor that shows a part of a parameter, turned or not, times a number or one for each row and column.

    size: of the parameter. origin: where that begins in its storage, None where its numbers do not follow each other.
    begin, strides: of what is shown, in the parameter's row-major order.
    """

    tensor: Tensor
    place: str
    size: int
    origin: int | None
    begin: int
    strides: tuple[int, ...]
    rows: Factor = 1.0
    cols: Factor = 1.0

    @classmethod
    def whole(cls, t: Tensor, place: str) -> "View":
        """Of the parameter itself."""
        origin = int(t.storage_offset()) if t.is_contiguous() else None
        return cls(t, place, t.numel(), origin, 0, contiguous_stride(t.shape))

    @property
    def is_scaled(self) -> bool:
        """Whether it is a multiple."""
        return scales(self.rows) or scales(self.cols)

    def of(self, out: Tensor) -> "View | None":
        """What a tensor shows that was made from this one; None where it is no view of it."""
        t, shown = unwrapped(self.tensor), unwrapped(out)
        if t is None or shown is None or shown.layout != torch.strided or shown.dtype != t.dtype:
            return None
        if shown.data_ptr() == t.data_ptr() and (shown.shape, shown.stride()) == (t.shape, t.stride()):
            return replace(self, tensor=out)
        if t.ndim == 2 and shown.data_ptr() == t.data_ptr() and _is_transpose(shown, t):
            return replace(self, tensor=out, strides=self.strides[::-1], rows=self.cols, cols=self.rows)
        if self.origin is None:
            return None
        if shown.untyped_storage().data_ptr() != t.untyped_storage().data_ptr() or not shown.numel():
            return None
        begin = int(shown.storage_offset()) - self.origin
        return replace(self, tensor=out, begin=begin, strides=shown.stride())

    def times(self, out: Tensor, rows: Factor, cols: Factor) -> "View":
        """The same for a multiple of this one."""
        whole = (self.begin, self.size, self.strides) == (0, out.numel(), contiguous_stride(out.shape))
        made = unwrapped(out) if whole and self.origin is not None and _is_number(rows, cols) else None
        origin = int(made.storage_offset()) if made is not None and made.is_contiguous() else None
        return replace(self, tensor=out, origin=origin, rows=self.rows * rows, cols=self.cols * cols)

    def matrices(self) -> "Matrices | None":
        """The matrices that it shows, of all that the parameter then holds; None where they are not whole ones."""
        if self.tensor.ndim < 2 or not self.tensor.numel():
            return None
        *outer, m, n = self.tensor.shape
        *steps, down, right = self.strides
        plain = _are_natural((m, n), (down, right), 1)
        if not plain and not _are_natural((n, m), (right, down), 1):
            return None
        if not _are_natural(outer, steps, m * n) or self.begin % (m * n) or self.size % (m * n):
            return None
        first = Matrix(self.place, self.size // (m * n), m if plain else n, self.begin // (m * n))
        return Matrices(first, tuple(outer), not plain)

    def vectors(self, across: int, along: int | None, count: int) -> tuple[Matrix, ...]:
        """Columns with as many numbers as it has on an axis, one for each of `count` places along another; none where
        it shows anything else."""
        each = max(self.tensor.shape[across], 1)
        steps = (self.strides[across],) if along is None else (self.strides[along], self.strides[across])
        sizes = (each,) if along is None else (count, each)
        whole = self.tensor.numel() == math.prod(sizes) and (along is None or self.tensor.shape[along] == count)
        if not whole or self.is_scaled or not _are_natural(sizes, steps, 1) or self.begin % each or self.size % each:
            return ()
        return tuple(Matrix(self.place, self.size // each, each, self.begin // each + k) for k in range(count))


@dataclass(frozen=True)
class Matrices:
    """Matrices that a tensor (*outer, m, n) shows, turned or not: the first one, and how many stand side by side."""

    first: Matrix
    outer: tuple[int, ...]
    turned: bool

    @property
    def axis(self) -> int | None:
        """Of the tensor, from its end, along which several matrices stand; None for a single one."""
        sizes = [k - len(self.outer) - 2 for k, size in enumerate(self.outer) if size != 1]
        return sizes[0] if len(sizes) == 1 else None

    @property
    def number(self) -> int:
        return math.prod(self.outer)

    def at(self, k: int) -> Matrix:
        return replace(self.first, index=self.first.index + k)


def _without_ones(shape: Sequence[int]) -> tuple[int, ...]:
    """A shape less the axes of one entry at its end."""
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return tuple(shape)


def _is_number(*factors: Factor) -> bool:
    return all(not isinstance(factor, Tensor) or factor.ndim == 0 for factor in factors)


def unwrapped(t: Tensor) -> Tensor | None:
    """The tensor itself, inside torch.func.jvp too; None inside vmap, where it stands for many."""
    while is_functorch_wrapped_tensor(t):
        if not is_gradtrackingtensor(t):
            return None
        t = get_unwrapped(t)
    return t


def scales(factor: Factor) -> bool:
    """Whether it changes what it multiplies."""
    return isinstance(factor, Tensor) or factor != 1


def _are_natural(shape: Sequence[int], strides: Sequence[int], last: int) -> bool:
    """Whether numbers, or parts of `last` numbers, follow each other."""
    natural = contiguous_stride((*shape, last))[:-1]
    return all(size == 1 or own == wanted for size, own, wanted in zip(shape, strides, natural, strict=True))


def _is_transpose(out: Tensor, t: Tensor) -> bool:
    return (out.shape, out.stride()) == (t.shape[::-1], t.stride()[::-1])
