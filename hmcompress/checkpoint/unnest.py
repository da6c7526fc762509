"""From the skeleton and the tensors back to the saved object. The skeleton comes from a file and is not trusted."""

import base64
import warnings
from bisect import bisect_left
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from hmcompress.checkpoint.limits import MAX_DEPTH
from hmcompress.checkpoint.nest import ROOT_TENSOR
from hmcompress.checkpoint.numpy_values import TORCH_DTYPES
from hmcompress.checkpoint.plain import join
from hmcompress.checkpoint.versions import hang_versions
from hmcompress.errors import FormatError

_MISSING: Any = object()
_COMPRESSED_LAYOUTS = {
    f"sparse_{kind}": getattr(torch, f"sparse_{kind}") for kind in ("csr", "csc", "bsr", "bsc")
}  # fmt: skip
_QUANTIZED = {f"per_{kind}_affine": f"_make_per_{kind}_quantized_tensor" for kind in ("tensor", "channel")}
_FAULTS = (TypeError, ValueError, KeyError, RuntimeError, AttributeError, OverflowError, IndexError)


def unpack_nest(nest: Any | None, tensors: Mapping[str, torch.Tensor]) -> Any:
    """The object that `pack_nest` took apart, with `tensors` (in their order) at their places.

    A tensor that is not in `tensors` (dropped) leaves its dict without that key, its list with None.
    Raises FormatError.
    """
    if nest is None:
        return dict(tensors)
    try:
        value = _Unpacker(tensors).value(nest, "", 0)
    except _FAULTS as error:
        raise FormatError(f"the skeleton of plain values is damaged ({type(error).__name__})") from error
    return None if value is _MISSING else value


def with_composed(nest: Any | None, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors by name, those that are made of several (sparse and quantised ones) in place of these.

    Raises FormatError.
    """
    unpack, made, parts = _Unpacker(tensors), dict[str, tuple[str, torch.Tensor]](), set[str]()
    try:
        for node in _composed(nest, 0):
            first, value = node["parts"][0], unpack.value(node, "", 0)
            if value is not _MISSING:
                made[first] = first.rpartition(".")[0] or first, value
                parts.update(node["parts"])
    except _FAULTS as error:
        raise FormatError(f"the skeleton of plain values is damaged ({type(error).__name__})") from error
    kept = (made.get(name, (name, t)) for name, t in tensors.items() if name in made or name not in parts)
    return dict(kept)


def _composed(node: Any, depth: int) -> Iterator[dict]:
    """The nodes of tensors that are made of several."""
    if depth > 2 * MAX_DEPTH:
        raise FormatError("the skeleton of plain values is nested too deeply")
    if isinstance(node, dict) and node.get("$") in ("sparse", "quantized"):
        yield node
    elif isinstance(node, (dict, list)):
        for item in node.values() if isinstance(node, dict) else node:
            yield from _composed(item, depth + 1)


class _Unpacker:
    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self._tensors = tensors
        self._sorted = sorted((name, index) for index, name in enumerate(tensors))
        self._left = len(tensors)  # that dicts of tensors may hold: each stands in one of them

    def value(self, node: Any, place: str, depth: int) -> Any:
        if depth > 2 * MAX_DEPTH:
            raise FormatError("the skeleton of plain values is nested too deeply")
        if isinstance(node, list):
            return self._list(node, place, depth)
        if not isinstance(node, dict):
            return node
        if "$" not in node:
            items = ((key, self.value(item, join(place, key), depth + 1)) for key, item in node.items())
            return {key: item for key, item in items if item is not _MISSING}
        return self._typed(node, place, depth)

    def _list(self, nodes: list, place: str, depth: int) -> list:
        values = (self.value(item, join(place, index), depth + 1) for index, item in enumerate(nodes))
        return [None if value is _MISSING else value for value in values]

    def _typed(self, node: dict, place: str, depth: int) -> Any:
        kind = node["$"]
        if kind in ("tensor", "array"):
            tensor = self._tensors.get(node.get("name", place or ROOT_TENSOR), _MISSING)
            return tensor.numpy() if kind == "array" and tensor is not _MISSING else tensor
        if kind == "tensors":
            return self._below(place, _empty(node))
        if kind == "sparse":
            return self._sparse(node)
        if kind == "quantized":
            return self._quantized(node)
        if kind == "dict":
            return self._dict(node, place, depth)
        if kind == "tuple":
            return tuple(self._list(node["v"], place, depth))
        return _PLAIN[kind](node)

    def _below(self, place: str, made: dict) -> dict:
        prefix = place + "." if place else ""
        start = bisect_left(self._sorted, (prefix, 0))
        stop = bisect_left(self._sorted, (place + "/", 0)) if place else len(self._sorted)
        self._left -= stop - start
        if self._left < 0:
            raise ValueError("tensors that stand in two places")
        for name, _ in sorted(self._sorted[start:stop], key=lambda pair: pair[1]):
            made[name[len(prefix) :]] = self._tensors[name]
        return made

    def _dict(self, node: dict, place: str, depth: int) -> dict:
        made = _empty(node)
        for key_node, item in zip(node["k"], node["v"], strict=True):
            key = self.value(key_node, "", depth + 1)
            value = self.value(item, join(place, key), depth + 1)
            if value is not _MISSING:
                made[key] = value
        return made

    def _quantized(self, node: dict) -> Any:
        parts = [self._tensors.get(name, _MISSING) for name in node["parts"]]
        if any(part is _MISSING for part in parts):
            return _MISSING
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch means to give them up: not what this command is asked about
            return getattr(torch, _QUANTIZED[node["scheme"]])(*parts, *node["values"])

    def _sparse(self, node: dict) -> Any:
        parts = [self._tensors.get(name, _MISSING) for name in node["parts"]]
        if any(part is _MISSING for part in parts):
            return _MISSING
        if node["layout"] == "sparse_coo":
            indices, values = parts
            made = torch.sparse_coo_tensor(indices, values, node["size"], check_invariants=True)
            return made.coalesce() if node.get("coalesced") else made
        layout = _COMPRESSED_LAYOUTS[node["layout"]]
        compressed, plain, values = parts
        return torch.sparse_compressed_tensor(
            compressed, plain, values, node["size"], layout=layout, check_invariants=True
        )


def _empty(node: dict) -> dict:
    """An empty dict of the class that a node names, with the versions that hang on it."""
    if "counter" in node:
        return Counter()
    if "ordered" not in node:
        return {}
    made: OrderedDict = OrderedDict()
    hang_versions(made, {"_metadata": node.get("versions")})
    return made


def _scalar(node: dict) -> np.generic:
    if node["dtype"][1:] not in TORCH_DTYPES:
        raise ValueError("no number")
    return np.frombuffer(base64.b64decode(node["v"]), np.dtype(node["dtype"]), 1)[0]


def _dtype(node: dict) -> torch.dtype:
    value = getattr(torch, node["v"])
    if not isinstance(value, torch.dtype):
        raise ValueError("no dtype")
    return value


def _plain(node: Any) -> Any:
    """A value that holds no tensors."""
    return _Unpacker({}).value(node, "", 0)


def _complex(node: dict) -> complex:
    real, imag = map(_plain, node["v"])
    return complex(real, imag)


def _float(node: dict) -> float:
    return {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}[node["v"]]


_PLAIN: dict[str, Callable[[dict], Any]] = {
    "float": _float,
    "int": lambda node: int(node["v"], 16),
    "str": lambda node: base64.b64decode(node["v"]).decode("utf-8", "surrogatepass"),
    "bytes": lambda node: base64.b64decode(node["v"]),
    "bytearray": lambda node: bytearray(base64.b64decode(node["v"])),
    "none": lambda node: None,
    "complex": _complex,
    "set": lambda node: set(map(_plain, node["v"])),
    "frozenset": lambda node: frozenset(map(_plain, node["v"])),
    "slice": lambda node: slice(*map(_plain, node["v"])),
    "range": lambda node: range(*map(_plain, node["v"])),
    "size": lambda node: torch.Size(node["v"]),
    "dtype": _dtype,
    "device": lambda node: torch.device(node["v"]),
    "scalar": _scalar,
}
