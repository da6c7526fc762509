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


def sparse(layout: Any, data: Any) -> Any:
    """The arguments of torch._utils._rebuild_sparse_tensor."""
    parts, layout = data if isinstance(data, tuple) else (), layout.value if isinstance(layout, Converted) else ""
    names = _LAYOUT_PARTS.get(layout, ())
    tensors = parts[: len(names)]
    if not names or len(parts) <= len(names) or not all(isinstance(t, LazyTensor) for t in tensors):
        return LeftBehind("a sparse tensor of an unknown layout")
    coalesced = parts[len(names) + 1] if len(parts) > len(names) + 1 else None
    size = checked_shape(parts[len(names)])
    return SparseTensor(layout, dict(zip(names, tensors, strict=True)), size, coalesced if coalesced is True else None)
