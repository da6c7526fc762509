"""Tensors whose shape is known and whose values are still in the file."""

from dataclasses import dataclass
from math import prod

import numpy as np
import torch

from hmcompress.checkpoint.blobs import Blob
from hmcompress.element_types import dtype_name
from hmcompress.errors import SourceError
from hmcompress.geometry import contiguous_stride, span

_MAX_DIMENSIONS = 64
_MAX_ELEMENTS = 1 << 60
CARRIED_DTYPES = frozenset({
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e4m3fnuz,
    torch.float8_e5m2, torch.float8_e5m2fnuz, torch.float8_e8m0fnu, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint64, torch.uint32, torch.uint16, torch.uint8, torch.bool,
    torch.complex32, torch.complex64, torch.complex128,
})  # fmt: skip
# Copies between strides are done on integers of the same width: every dtype then takes the same, exact path.
_CARRIER = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.complex128}


class Storage:
    """The bytes that one or more tensors look at; its identity is what makes two tensors tied."""

    __slots__ = ("big_endian", "blob", "nbytes")

    def __init__(self, nbytes: int, blob: Blob | None = None, big_endian: bool = False) -> None:
        self.nbytes = nbytes
        self.blob = blob  # None until a legacy file's tail has been read
        self.big_endian = big_endian

    def read(self, start: int, count: int) -> torch.Tensor:
        if self.blob is None:
            raise SourceError("has no data for one of its tensors")
        return self.blob.read(start, count)

    def glance(self, start: int, count: int) -> torch.Tensor | None:
        """As read, but unchecked; None where that would take as long as to read all."""
        return None if self.blob is None or self.big_endian else self.blob.glance(start, count)


@dataclass(frozen=True, eq=False)
class TypedStorage:
    """A storage as one dtype, possibly a range of a larger one (old files save storage views so)."""

    storage: Storage
    dtype: torch.dtype
    first_byte: int
    nbytes: int


@dataclass(frozen=True, eq=False)
class LazyTensor:
    """A strided tensor over a storage: shape and stride in elements, `first_byte` into the storage."""

    storage: Storage
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    first_byte: int
    conjugate: bool = False
    negative: bool = False

    @property
    def numel(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.itemsize

    @property
    def span(self) -> int:
        """Elements of the storage from the first to the last that the tensor touches."""
        return span(self.shape, self.stride)

    @property
    def is_contiguous(self) -> bool:
        return self.stride == contiguous_stride(self.shape)

    def load(self) -> torch.Tensor:
        """Read the values: a contiguous CPU tensor. Raises SourceError."""
        if self.numel == 0:
            return torch.empty(self.shape, dtype=self.dtype)
        raw = self.storage.read(self.first_byte, self.span * self.dtype.itemsize)
        if self.storage.big_endian:
            raw = _swap_bytes(raw, self.dtype)
        if not self.is_contiguous:
            carrier = raw.view(_CARRIER[self.dtype.itemsize])
            raw = torch.as_strided(carrier, self.shape, self.stride).contiguous()
        return self._with_signs(raw.view(self.dtype).reshape(self.shape))

    def glance(self, count: int) -> torch.Tensor | None:
        """So many values (count,) from the middle, unchecked; None where that takes as long as to load all."""
        if not self.is_contiguous or not 0 < count <= self.numel:
            return None
        size = self.dtype.itemsize
        raw = self.storage.glance(self.first_byte + (self.numel - count) // 2 * size, count * size)
        return None if raw is None else self._with_signs(raw.view(self.dtype))

    def _with_signs(self, values: torch.Tensor) -> torch.Tensor:
        values = values.conj().resolve_conj() if self.conjugate else values
        try:
            return values.neg() if self.negative else values
        except RuntimeError:  # of truth values, and of numbers that torch only holds
            raise SourceError(f"damaged: a negative view of type {dtype_name(self.dtype)}") from None


def normal_stride(shape: tuple[int, ...], stride: tuple[int, ...]) -> tuple[int, ...]:
    """The same view with the strides of its dimensions of size one set to their row-major value."""
    default = contiguous_stride(shape)
    return tuple(d if size <= 1 else s for size, s, d in zip(shape, stride, default, strict=True))


def checked_shape(shape: object) -> tuple[int, ...]:
    """A shape from a file as a tuple of ints. Raises SourceError where no tensor could have it."""
    if not isinstance(shape, (tuple, list)) or not all(type(size) is int and size >= 0 for size in shape):
        raise SourceError(f"damaged: {_short(shape)} is not the shape of a tensor")
    if len(shape) > _MAX_DIMENSIONS or prod(max(size, 1) for size in shape) > _MAX_ELEMENTS:
        raise SourceError(f"damaged: a tensor of shape {_short(tuple(shape))} cannot exist")
    return tuple(shape)


def view_of(
    base: TypedStorage, dtype: torch.dtype, offset: object, shape: object, stride: object, **signs: bool
) -> LazyTensor:
    """A strided view of a storage, offset in elements. Raises SourceError where it would leave the storage."""
    sizes = checked_shape(shape)
    if not isinstance(stride, (tuple, list)) or len(stride) != len(sizes) or type(offset) is not int or offset < 0:
        raise SourceError(f"damaged: strides {_short(stride)} do not fit shape {_short(sizes)}")
    if not all(type(step) is int and 0 <= step < _MAX_ELEMENTS for step in stride):
        raise SourceError(f"damaged: strides {_short(stride)} are out of range")
    steps = normal_stride(sizes, tuple(stride))
    first_byte = base.first_byte + offset * dtype.itemsize
    if span(sizes, steps) and (offset + span(sizes, steps)) * dtype.itemsize > base.nbytes:
        raise SourceError(f"damaged: a tensor of shape {_short(sizes)} reaches beyond its storage")
    return LazyTensor(base.storage, dtype, sizes, steps, first_byte, **signs)


def whole(storage: Storage, dtype: torch.dtype, shape: tuple[int, ...]) -> LazyTensor:
    """A row-major tensor that starts where its storage starts."""
    return view_of(TypedStorage(storage, dtype, 0, storage.nbytes), dtype, 0, shape, contiguous_stride(shape))


def _swap_bytes(raw: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    width = dtype.itemsize // 2 if dtype.is_complex else dtype.itemsize
    if width == 1:
        return raw
    return torch.from_numpy(raw.numpy().view(np.dtype(f"u{width}")).byteswap().view(np.uint8))


def _short(value: object) -> str:
    """A value from an untrusted file for a message: never long, never nested."""
    if not isinstance(value, (tuple, list)):
        return f"of type {type(value).__name__}"
    parts = [str(v) if isinstance(v, int) and abs(v) < 1 << 70 else type(v).__name__ for v in value[:6]]
    return f"({', '.join(parts)}{', ...' if len(value) > 6 else ''})"
