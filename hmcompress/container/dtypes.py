"""Tensors of any element type as words of numpy, which has fewer types, and back."""

import numpy as np
import torch

from hmcompress.errors import FormatError

_NUMPY: dict[torch.dtype, str] = {
    torch.float64: "f8",
    torch.float32: "f4",
    torch.float16: "f2",
    torch.complex128: "f8",
    torch.complex64: "f4",
    torch.complex32: "f2",
    torch.int64: "i8",
    torch.int32: "i4",
    torch.int16: "i2",
    torch.int8: "i1",
    torch.uint64: "u8",
    torch.uint32: "u4",
    torch.uint16: "u2",
    torch.bfloat16: "u2",
}


def dtype_from_name(name: object) -> torch.dtype:
    """The type that dtype_name names; raises FormatError."""
    dtype = getattr(torch, name, None) if isinstance(name, str) else None
    if not isinstance(dtype, torch.dtype) or dtype.itemsize == 0:
        raise FormatError(f"unknown element type {str(name)[:40]!r}: the file is damaged or newer than this release")
    return dtype


def words(dtype: torch.dtype) -> np.dtype:
    """The numpy type in which elements of `dtype` are coded: an element is one or two of these words."""
    return np.dtype("<" + _NUMPY.get(dtype, "u1"))


def word_count(dtype: torch.dtype, elements: int) -> int:
    """How many words of `words(dtype)` hold `elements` elements."""
    return elements * dtype.itemsize // words(dtype).itemsize


def table_shape(shape: tuple[int, ...], count: int) -> tuple[int, int]:
    """Rows and columns of the `count` words of a tensor: its first dimension, and all others."""
    rows = shape[0] if len(shape) > 1 and count else 1
    return rows, count // rows


def to_words(tensor: torch.Tensor) -> np.ndarray:
    """A CPU tensor of any shape as a flat array of words, bits unchanged."""
    flat = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
    none = np.empty(0, words(tensor.dtype))
    return flat.view(torch.from_numpy(none).dtype).numpy() if flat.numel() else none


def from_words(array: np.ndarray, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    """The inverse of to_words; takes over the array's memory."""
    if array.size == 0:
        return torch.empty(shape, dtype=dtype)
    return torch.from_numpy(array.reshape(-1)).view(dtype).reshape(shape)
