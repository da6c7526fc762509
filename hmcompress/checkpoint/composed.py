"""Tensors that are made of several: quantised ones of integers and their steps, sparse ones of indices and values."""

from typing import Any

import torch

from hmcompress.checkpoint.lazy import LazyTensor, checked_shape, view_of
from hmcompress.checkpoint.standins import Converted, Global, LeftBehind, QuantizedTensor, SparseTensor

_INTEGERS = {"qint8": torch.int8, "quint8": torch.uint8, "qint32": torch.int32}
_LAYOUT_PARTS = {
    "sparse_coo": ("indices", "values"),
    "sparse_csr": ("crow_indices", "col_indices", "values"),
    "sparse_bsr": ("crow_indices", "col_indices", "values"),
    "sparse_csc": ("ccol_indices", "row_indices", "values"),
    "sparse_bsc": ("ccol_indices", "row_indices", "values"),
}

_SCRIPTED_LAYOUTS = {1: "sparse_coo", 2: "sparse_csr"}  # the others are not written to TorchScript


def quantized(storage: Any, offset: Any, size: Any, stride: Any, quantizer: Any, *_: Any) -> Any:
    """The arguments of torch._utils._rebuild_qtensor."""
    kind = str(getattr(storage, "dtype", "")).removeprefix("torch.")
    dtype = _INTEGERS.get(kind)
    if dtype is None or not isinstance(quantizer, tuple) or not quantizer:
        return LeftBehind(f"a quantized tensor ({kind}); save its dequantize() or int_repr() instead")
    integers = {"int_repr": view_of(storage, dtype, offset, size, stride)}
    match quantizer:
        case (Global(name="per_tensor_affine"), float(scale), int(zero)):
            return QuantizedTensor("per_tensor_affine", integers, (scale, zero))
        case (Global(name="per_channel_affine"), LazyTensor() as scales, LazyTensor() as zeros, int(axis)):
            return QuantizedTensor("per_channel_affine", integers | {"scales": scales, "zero_points": zeros}, (axis,))
    parts = {**integers, "quantizer": (str(quantizer[0]), *quantizer[1:])}
    return Converted(parts, f"a quantized tensor ({kind}), kept as a dict of its integers and what they mean")


def sparse(layout: Any, data: Any, *scripted: Any) -> Any:
    """The arguments of torch._utils._rebuild_sparse_tensor.

    TorchScript writes them all in a row: number of the layout, size, whether it has gradients, tensors, hooks.
    """
    if scripted:
        return _sparse(_SCRIPTED_LAYOUTS.get(layout, "") if type(layout) is int else "", scripted[1:-1], data)
    parts, layout = data if isinstance(data, tuple) else (), layout.value if isinstance(layout, Converted) else ""
    count = len(_LAYOUT_PARTS.get(layout, ()))
    size, coalesced = (*parts[count : count + 2], None, None)[:2]
    return _sparse(layout, parts[:count], size, coalesced)


def _sparse(layout: str, tensors: tuple[Any, ...], size: Any, coalesced: Any = None) -> Any:
    names = _LAYOUT_PARTS.get(layout, ())
    if not names or len(tensors) != len(names) or not all(isinstance(t, LazyTensor) for t in tensors) or size is None:
        return LeftBehind("a sparse tensor of an unknown layout")
    parts = dict(zip(names, tensors, strict=True))
    return SparseTensor(layout, parts, checked_shape(size), True if coalesced is True else None)
