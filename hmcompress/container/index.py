"""The index: what a file says about its tensors and layers, as columns of plain JSON."""

import math
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from hmcompress.container.document import column_out
from hmcompress.container.network_columns import network_out
from hmcompress.container.records import FileInfo, LayerRow
from hmcompress.element_types import dtype_name
from hmcompress.geometry import View, elements
from hmcompress.hmatrix.basics.bodies import LEAF_KINDS


@dataclass(frozen=True)
class Index:
    """FileInfo and everything about each tensor.

    shapes, dtypes: of every stored tensor, not of views; packed: the untouched tensors that are stored coded;
    entries: the name under which each untouched tensor lies in the safetensors file.
    """

    info: FileInfo
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, torch.dtype]
    packed: frozenset[str]
    entries: dict[str, str]
    layers: tuple[LayerRow, ...] = field(default=())

    @property
    def decoded_bytes(self) -> int:
        """Bytes of all stored tensors once decoded."""
        return sum(elements(shape) * self.dtypes[name].itemsize for name, shape in self.shapes.items())


def index_to_json(index: Index) -> dict[str, Any]:
    """The document that goes into the file. An untouched tensor's name, shape and dtype are left to the header."""
    info = index.info
    number = {name: i for i, name in enumerate(info.names)}
    coded = [name for name in index.shapes if name in index.packed or name not in index.entries]
    document = {
        "settings": info.settings,
        "source": info.source,
        "names": [0 if index.entries.get(name) == name else name for name in info.names],
        "dtypes": column_out([dtype_name(index.dtypes[name]) for name in coded]),
        "shapes": [list(index.shapes[name]) for name in coded],
        "packed": [number[name] for name in info.names if name in index.packed],
        "ties": [_view_out(number, name, view, index) for name, view in info.views.items()],
        "layers": _layers_out(index.layers, number),
        "decoded_bytes": index.decoded_bytes,
        "left_behind": list(info.left_behind),
        "notes": list(info.notes),
        "network": network_out(info.network, [row.name for row in index.layers]),
        "nest": info.nest,
        "metadata": info.metadata,
    }
    return {key: value for key, value in document.items() if value not in ([], {}, None)}


def _view_out(number: dict[str, int], name: str, view: View, index: Index) -> list[Any]:
    """[tensor, base], and the view's geometry where it differs from all of the base."""
    if view == View.whole(view.base, index.shapes[view.base]):
        return [number[name], number[view.base]]
    return [number[name], number[view.base], list(view.shape), list(view.stride), view.offset]


def _layers_out(layers: Sequence[LayerRow], number: dict[str, int]) -> dict[str, Any]:
    owners = [[number[name] for name in row.tensors] for row in layers]
    columns: dict[str, list[Any]] = {
        "bytes": [row.nbytes for row in layers],
        "tol": [row.tol for row in layers],
        "norm": [row.norm for row in layers],
        "error": [round_up(row.error, row.tol) for row in layers],
        "max_abs_error": [round_up(row.max_abs_error) for row in layers],
        "method": [row.method for row in layers],
        "max_rank": [row.max_rank for row in layers],
    }
    columns |= {kind: [row.leaves.get(kind, 0) for row in layers] for kind in LEAF_KINDS}
    tensors = [owner[0] if len(owner) == 1 else owner for owner in owners]
    sums = b64encode(b"".join(row.crc32.to_bytes(4, "little") for row in layers)).decode()
    return (
        {"tensors": tensors, "crc32": sums} | {key: column_out(column) for key, column in columns.items()}
        if layers
        else {}
    )


def round_up(x: float, bound: float | None = None) -> float:
    """The smallest number of five digits that is at least x, so that it may be stored as an upper value.

    Where that would pass a bound that x itself keeps, x is stored in full.
    """
    short = float(f"{x:.4e}")
    if short < x:
        short = float(f"{x + 10.0 ** (math.floor(math.log10(x)) - 4):.4e}")
    return x if bound is not None and x <= bound < short else max(x, short)
