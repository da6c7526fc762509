"""The skeleton of a saved object as JSON: plain values as they are, tensors by their place.

A tensor's name is the dotted path to it, so the skeleton only says where tensors are. Nodes:

    null, true, 1, 0.5, "text", [...], {"key": ...}   themselves (integers within 2^53, finite floats)
    {"$": "tensors"}                                  dict of all tensors whose names start with this path ("ordered")
    {"$": "tensor"}, {"$": "array"}                   a tensor, a numpy array ("name" where it is not the path)
    {"$": "quantized", "scheme", "parts", "values"}   a quantized tensor, its parts by name
    {"$": "sparse", "layout", "parts", "size"}        a sparse tensor, its parts by name ("coalesced")
    {"$": "dict", "k": [...], "v": [...]}             any dict; "ordered" for an OrderedDict, "counter" for a Counter
    "versions" of a dict or of tensors                what hangs on a state dict, see versions.py
    {"$": "tuple" | "set" | "frozenset", "v": [...]}  and "slice", "range", "size" (torch.Size), "complex"
    {"$": "none"}                                     a root that is None
    {"$": "float" | "int" | "str" | "bytes" | "bytearray" | "dtype" | "device" | "scalar", "v": "..."}
"""

import base64
from bisect import bisect_left
from collections import Counter, OrderedDict, defaultdict
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import numpy as np
import torch

from hmcompress.checkpoint.lazy import LazyTensor
from hmcompress.checkpoint.limits import MAX_DEPTH, MAX_NAME, MAX_TENSORS
from hmcompress.checkpoint.numpy_values import TORCH_DTYPES
from hmcompress.checkpoint.plain import join
from hmcompress.checkpoint.standins import NumpyArray, QuantizedTensor, SparseTensor
from hmcompress.checkpoint.versions import told_versions
from hmcompress.element_types import dtype_name
from hmcompress.errors import SourceError
from hmcompress.texts import excerpt, is_unicode

ROOT_TENSOR = "tensor"
_KINDS = ("ordered", "versions", "counter")
_EXACT = 1 << 53
_TENSORS = (LazyTensor, torch.Tensor)
_ARRAYS = (NumpyArray, np.ndarray)


@dataclass
class Flat:
    """A nest taken apart: its skeleton (None for a flat dict of tensors) and its tensors by name, in order."""

    nest: Any | None
    leaves: dict[str, Any]


def pack_nest(obj: Any) -> Any | None:
    """The JSON-able skeleton of nested dicts, lists, tensors and plain values; None for a flat dict of tensors.

    Raises SourceError where a value has no plain form.
    """
    return flatten(obj).nest


def flatten(obj: Any) -> Flat:
    """Skeleton and named tensors of a nest of plain values. Raises SourceError where a value has no plain form."""
    packer = _Packer()
    nest = packer.node(obj, "", 0)
    packer.settle()
    flat = isinstance(obj, dict) and len(obj) > 0 and nest.get("$") == "tensors" and "versions" not in nest
    return Flat(None if flat else {"$": "none"} if nest is None else nest, packer.leaves)


@dataclass
class _Packer:
    leaves: dict[str, Any] = field(default_factory=dict)
    _dicts: list[tuple[dict, str, dict]] = field(default_factory=list)
    _numbers: defaultdict[str, int] = field(default_factory=lambda: defaultdict(lambda: 1))

    def node(self, value: Any, place: str, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise SourceError(f"its objects are nested deeper than {MAX_DEPTH} levels")
        if isinstance(value, _TENSORS):
            return self._leaf("tensor", value, place, depth)
        if isinstance(value, _ARRAYS):
            return self._leaf("array", value, place, depth)
        if isinstance(value, SparseTensor):
            return self._sparse(value, place)
        if isinstance(value, QuantizedTensor):
            return {"$": "quantized", "scheme": value.scheme, **self._parts(value, place), "values": list(value.values)}
        if isinstance(value, dict):
            return self._dict(value, place, depth)
        if isinstance(value, torch.Size):
            return {"$": "size", "v": list(value)}
        if isinstance(value, (list, tuple)):
            items = [self.node(item, join(place, index), depth + 1) for index, item in enumerate(value)]
            return {"$": "tuple", "v": items} if isinstance(value, tuple) else items
        return value_node(value)

    def _leaf(self, kind: str, value: Any, place: str, depth: int) -> dict:
        name = self._claim(value, place)
        natural = name == (place if depth else ROOT_TENSOR)
        return {"$": kind} if natural else {"$": kind, "name": name}

    def _claim(self, value: Any, place: str) -> str:
        """A name of its own for a leaf: the path where that is free."""
        if len(place) > MAX_NAME:
            raise SourceError(f"the name of a tensor is longer than {MAX_NAME} characters: {excerpt(place, 60)}")
        wanted = place.encode("utf-8", "backslashreplace").decode() or ROOT_TENSOR
        name = wanted
        while name in self.leaves:
            self._numbers[wanted] += 1
            name = f"{wanted}#{self._numbers[wanted]}"
        if len(self.leaves) >= MAX_TENSORS:
            raise SourceError(f"holds more than {MAX_TENSORS} tensors")
        self.leaves[name] = value
        return name

    def _sparse(self, value: SparseTensor, place: str) -> dict:
        node = {"$": "sparse", "layout": value.layout, **self._parts(value, place), "size": list(value.size)}
        return {**node, "coalesced": True} if value.coalesced else node

    def _parts(self, value: QuantizedTensor | SparseTensor, place: str) -> dict:
        return {"parts": [self._claim(part, join(place, key)) for key, part in value.parts.items()]}

    def _dict(self, value: dict, place: str, depth: int) -> dict:
        kind = _kind(value)
        if value and (place or depth == 0) and all(_is_named(key, item) for key, item in value.items()):
            nodes = {key: self._leaf("tensor", item, join(place, key), depth + 1) for key, item in value.items()}
            node = {"$": "tensors", **kind}
            self._dicts.append((node, place, nodes))
            return node
        nodes = {key: self.node(item, join(place, key), depth + 1) for key, item in value.items()}
        return nodes if not kind and all(_is_json_key(key) for key in nodes) else _pairs_node(nodes, kind)

    def settle(self) -> None:
        """Spell out the dicts of tensors that other tensors' names reach into."""
        names = sorted(self.leaves)
        for node, place, nodes in self._dicts:
            natural = all("name" not in item for item in nodes.values())
            if not natural or _count(names, place) != len(nodes):
                kind = {key: node[key] for key in _KINDS if key in node}
                node.clear()
                node.update(_pairs_node(nodes, kind))


def _kind(value: dict) -> dict[str, Any]:
    """What a node says of the class of its dict."""
    if type(value) is OrderedDict:
        versions = told_versions(value)
        return {"ordered": 1, "versions": versions} if versions else {"ordered": 1}
    return {"counter": 1} if type(value) is Counter else {}


def _count(names: list[str], place: str) -> int:
    """How many of the sorted names lie below `place`."""
    if not place:
        return len(names)
    return bisect_left(names, place + "/") - bisect_left(names, place + ".")  # "/" follows "."


def _is_named(key: object, value: object) -> bool:
    return isinstance(key, str) and isinstance(value, _TENSORS)


def _is_json_key(key: object) -> bool:
    return isinstance(key, str) and key != "$" and is_unicode(key)


def _pairs_node(nodes: dict, kind: dict) -> dict:
    return {"$": "dict", **kind, "k": [_key_node(key) for key in nodes], "v": list(nodes.values())}


def _key_node(key: Any) -> Any:
    if isinstance(key, tuple):
        return {"$": "tuple", "v": [_key_node(item) for item in key]}
    return value_node(key)


def value_node(value: Any) -> Any:
    """The node of one plain value. Raises SourceError where it has none."""
    if value is None or (isinstance(value, (bool, str, int, float)) and not isinstance(value, np.generic)):
        return _number_or_text(value)
    if isinstance(value, np.generic) and value.dtype.str[1:] in TORCH_DTYPES:
        return {"$": "scalar", "dtype": value.dtype.str, "v": _base64(value.tobytes())}
    if isinstance(value, (bytes, bytearray)):
        return {"$": type(value).__name__, "v": _base64(value)}
    if isinstance(value, complex):
        return {"$": "complex", "v": [value_node(value.real), value_node(value.imag)]}
    if isinstance(value, (set, frozenset)):
        kind = "frozenset" if isinstance(value, frozenset) else "set"
        return {"$": kind, "v": sorted((_key_node(item) for item in value), key=repr)}
    if isinstance(value, slice):
        return {"$": "slice", "v": [value_node(part) for part in (value.start, value.stop, value.step)]}
    if isinstance(value, range):
        return {"$": "range", "v": [value_node(part) for part in (value.start, value.stop, value.step)]}
    if isinstance(value, torch.dtype):
        return {"$": "dtype", "v": dtype_name(value)}
    if isinstance(value, torch.device):
        return {"$": "device", "v": str(value)}
    raise SourceError(f"a value of type {type(value).__name__} cannot be carried")


def _number_or_text(value: Any) -> Any:
    if isinstance(value, str) and not is_unicode(value):
        return {"$": "str", "v": _base64(value.encode("utf-8", "surrogatepass"))}
    if isinstance(value, float) and not isfinite(value):
        return {"$": "float", "v": repr(float(value))}
    if isinstance(value, int) and not -_EXACT <= value <= _EXACT:
        return {"$": "int", "v": hex(value)}
    return value


def _base64(data: bytes | bytearray) -> str:
    return base64.b64encode(data).decode()
