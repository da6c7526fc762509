"""numpy arrays and scalars in pickles, of old (`numpy.core`) and new (`numpy._core`) releases."""

import re
from math import prod
from typing import Any

import numpy as np
import torch

from hmcompress.checkpoint.blobs import Blob, MemoryBlob
from hmcompress.checkpoint.lazy import LazyTensor, Storage, TypedStorage, checked_shape, view_of
from hmcompress.checkpoint.standins import Converted, LeftBehind, NumpyArray
from hmcompress.errors import SourceError
from hmcompress.geometry import contiguous_stride

TORCH_DTYPES = {
    "b1": torch.bool, "i1": torch.int8, "i2": torch.int16, "i4": torch.int32, "i8": torch.int64,
    "u1": torch.uint8, "u2": torch.uint16, "u4": torch.uint32, "u8": torch.uint64,
    "f2": torch.float16, "f4": torch.float32, "f8": torch.float64, "c8": torch.complex64, "c16": torch.complex128,
}  # fmt: skip
_OTHER = "?"  # subarrays and structured types
_CODE = re.compile(r"([<>|=]?)([a-zA-Z]\d{0,6})")


class DtypeInPickle:
    """A numpy dtype while a pickle builds it: first its code, later its byte order."""

    def __init__(self, code: object, *_: object) -> None:
        match = _CODE.fullmatch(code) if isinstance(code, str) else None
        self.order, self.code = match.groups() if match else ("", _OTHER)

    def set_pickled_state(self, state: object) -> None:
        """The tuple of numpy's dtype.__reduce__: version, byte order, and fields of structured types."""
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|", "="):
            self.order = state[1]
        if isinstance(state, tuple) and len(state) > 3 and (state[2] is not None or state[3] is not None):
            self.code = _OTHER

    def __str__(self) -> str:
        return "with fields" if self.code == _OTHER else f"'{self.order}{self.code}'"

    @property
    def big_endian(self) -> bool:
        return self.order == ">"

    @property
    def itemsize(self) -> int:
        """Bytes of a number, or of a text of so many characters; 0 of anything else."""
        if self.code in TORCH_DTYPES:
            return TORCH_DTYPES[self.code].itemsize
        return 4 * int(self.code[1:] or 0) if self.code[0] == "U" else 0

    def concrete(self) -> np.dtype:
        """The dtype of a plain number. Raises SourceError for all others."""
        if self.code not in TORCH_DTYPES:
            raise SourceError(f"numpy values of type {self}")
        return np.dtype(("<>"[self.big_endian]) + self.code)


class ArrayInPickle:
    """A numpy array while a pickle builds it."""

    def __init__(self, *_: object) -> None:
        self.content: Any = LeftBehind("a numpy array without content")

    def set_pickled_state(self, state: object) -> None:
        """The tuple of numpy's ndarray.__reduce__: version, shape, dtype, Fortran order, data."""
        if not isinstance(state, tuple) or len(state) not in (4, 5):
            raise SourceError("damaged: a numpy array has no shape, type and data")
        shape, dtype, fortran, data = state[-4:]
        self.content = array_of(data, dtype, shape, bool(fortran))


def array_of(data: object, dtype: object, shape: object, fortran: bool = False) -> Any:
    """An array of numbers as a NumpyArray, text as a list, anything else left behind."""
    sizes = checked_shape(shape)
    if not isinstance(dtype, DtypeInPickle):
        return LeftBehind("a numpy array of a foreign type")
    if isinstance(data, list):
        return Converted(data, "a numpy array of objects, kept as a flat list")
    data = old_data(data, prod(sizes) * dtype.itemsize)
    if not isinstance(data, (bytes, bytearray)):
        raise SourceError("damaged: a numpy array without data")
    if dtype.code in TORCH_DTYPES:
        return NumpyArray(numbers(data, dtype, sizes, fortran))
    if dtype.code[:1] == "U" and dtype.code[1:].isdigit():
        return _text_array(data, dtype, sizes)
    return LeftBehind(f"a numpy array of type {dtype}")


def old_data(data: object, nbytes: int) -> object:
    """Data that Python 2 pickled as a string: the machine makes text of UTF-8, others of any byte."""
    if not isinstance(data, str):
        return data
    return data.encode("latin-1" if len(data) == nbytes else "utf-8")


def numbers(data: bytes | bytearray, dtype: DtypeInPickle, shape: tuple[int, ...], fortran: bool) -> LazyTensor:
    """The tensor over an array's bytes. Raises SourceError where they are not as many as the shape says."""
    if len(data) != prod(shape) * dtype.itemsize:
        raise SourceError("damaged: a numpy array's data does not fit its shape")
    return numbers_at(MemoryBlob(data), 0, dtype, shape, fortran)


def numbers_at(blob: Blob, start: int, dtype: DtypeInPickle, shape: tuple[int, ...], fortran: bool) -> LazyTensor:
    """The tensor over the bytes of a blob from `start` on. Raises SourceError where they are fewer than it needs."""
    stride = contiguous_stride(shape)
    if fortran:
        stride = tuple(reversed(contiguous_stride(tuple(reversed(shape)))))
    storage, torch_dtype = Storage(blob.nbytes, blob, dtype.big_endian), TORCH_DTYPES[dtype.code]
    return view_of(TypedStorage(storage, torch_dtype, start, blob.nbytes - start), torch_dtype, 0, shape, stride)


def _text_array(data: bytes | bytearray, dtype: DtypeInPickle, shape: tuple[int, ...]) -> Any:
    width = dtype.itemsize
    if width == 0 or len(data) != prod(shape) * width:
        raise SourceError("damaged: a numpy array's data does not fit its shape")
    order = "utf-32-be" if dtype.big_endian else "utf-32-le"
    texts = [bytes(data[i : i + width]).decode(order, "replace").rstrip("\0") for i in range(0, len(data), width)]
    return Converted(texts, "a numpy array of text, kept as a list")


def scalar_of(dtype: object, data: object = b"") -> Any:
    """A numpy number; anything else left behind."""
    if not isinstance(dtype, DtypeInPickle) or dtype.code not in TORCH_DTYPES:
        return LeftBehind("a numpy scalar that is no number")
    data = old_data(data, dtype.itemsize)
    if not isinstance(data, bytes):
        return LeftBehind("a numpy scalar that is no number")
    return np.frombuffer(data, dtype.concrete(), 1)[0].astype(dtype.concrete().newbyteorder("="))
