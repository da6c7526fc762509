"""The index read back: every number is checked against the file before anything relies on it."""

import math
from base64 import b64decode
from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch

from hmcompress.container.document import LARGEST, Document, choice, damaged, integer, integer_tuple, number
from hmcompress.container.dtypes import dtype_from_name
from hmcompress.container.header import RESERVED, Entry
from hmcompress.container.index import Index
from hmcompress.container.network_columns import network_in
from hmcompress.container.records import METHODS, FileInfo, LayerRow
from hmcompress.geometry import View, elements, span
from hmcompress.hmatrix.basics.bodies import LEAF_KINDS
from hmcompress.layers import CODABLE, REAL_PARTS
from hmcompress.settings.config import NORMS, Norm

Shapes = dict[str, tuple[int, ...]]
Dtypes = dict[str, torch.dtype]


def index_from_json(document: Any, header: dict[str, Entry], layer_bytes: int) -> Index:
    """Check the document against the header and the size of the layer pool; raises FormatError."""
    doc = Document(document)
    count = len(doc.rows("names"))
    owners = [_owner(owner, count) for owner in doc.document("layers").rows("tensors")]
    ties = [_tie_ends(tie, count) for tie in doc.rows("ties")]
    placed = _unique([number for owner in owners for number in owner] + [tie for tie, _ in ties])
    names, entries = _names(doc.rows("names"), placed, header)
    packed = frozenset(names[i] for i in _unique(doc.integers("packed", below=count)))
    if not packed <= entries.keys():
        damaged("'packed'")
    stored = [name for i, name in enumerate(names) if i not in {tie for tie, _ in ties}]
    shapes, dtypes = _geometry(doc, stored, packed, entries, header)
    layers = _layers(doc.document("layers"), [tuple(names[i] for i in owner) for owner in owners])
    network = network_in(doc.data.get("network"), [row.name for row in layers])
    info = _info(doc, names, _views(doc.rows("ties"), ties, names, shapes), network)
    index = Index(info, shapes, dtypes, packed, entries, layers)
    _check_layers(index, layer_bytes)
    if doc.integer("decoded_bytes") != index.decoded_bytes:
        damaged("sum of sizes")
    return index


def _owner(value: Any, count: int) -> tuple[int, ...]:
    """The numbers of a layer's tensors: one, or a weight with what makes it, its bias, or both."""
    numbers = value if isinstance(value, list) else [value]
    if not 1 <= len(numbers) <= 3:
        damaged("'tensors'")
    return tuple(integer(n, count, "tensors") for n in numbers)


def _tie_ends(value: Any, count: int) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) not in (2, 5):
        damaged("'ties'")
    return integer(value[0], count, "ties"), integer(value[1], count, "ties")


def _unique(numbers: Sequence[int]) -> set[int]:
    if len(set(numbers)) != len(numbers):
        damaged("order of tensors")
    return set(numbers)


def _names(values: Sequence[Any], placed: set[int], header: dict[str, Entry]) -> tuple[list[str], dict[str, str]]:
    """All names, and the header's name of each untouched tensor; untouched tensors follow the header's order."""
    in_header = [name for name in header if name not in RESERVED]
    untouched = [i for i in range(len(values)) if i not in placed]
    if len(in_header) != len(untouched):
        damaged("number of tensors")
    entry = dict(zip(untouched, in_header, strict=True))
    names = [entry.get(i) if value == 0 else value for i, value in enumerate(values)]
    known = [name for name in names if isinstance(name, str)]
    if len(known) < len(names) or len(set(known)) < len(known):
        damaged("'names'")
    return known, {known[i]: name for i, name in entry.items()}


def _geometry(
    doc: Document, stored: Sequence[str], packed: Iterable[str], entries: dict[str, str], header: dict[str, Entry]
) -> tuple[Shapes, Dtypes]:
    """Shape and dtype of every stored tensor: from the index where it is coded, else from the header."""
    coded = [name for name in stored if name in packed or name not in entries]
    columns = zip(coded, doc.column("shapes", len(coded)), doc.column("dtypes", len(coded)), strict=True)
    geometry = {name: (integer_tuple(shape, "shapes"), dtype_from_name(dtype)) for name, shape, dtype in columns}
    for name in stored:
        if name not in geometry:
            entry = header[entries[name]]
            geometry[name] = entry.shape, entry.dtype
    return {name: geometry[name][0] for name in stored}, {name: geometry[name][1] for name in stored}


def _views(values: Sequence[Any], ties: Sequence[tuple[int, int]], names: list[str], shapes: Shapes) -> dict[str, View]:
    return {names[tie]: _view(value[2:], names[base], shapes) for value, (tie, base) in zip(values, ties, strict=True)}


def _view(geometry: Sequence[Any], base: str, shapes: Shapes) -> View:
    if base not in shapes:
        damaged("'ties'")
    if not geometry:
        return View.whole(base, shapes[base])
    shape, stride = integer_tuple(geometry[0], "ties"), integer_tuple(geometry[1], "ties")
    offset = integer(geometry[2], elements(shapes[base]) + 1, "ties")
    if math.prod(max(n, 1) for n in shape) >= LARGEST:  # torch multiplies before it meets a zero
        damaged("'ties'")
    if len(shape) != len(stride) or span(shape, stride, offset) > elements(shapes[base]):
        damaged("'ties'")
    return View(base, shape, stride, offset)


def _info(doc: Document, names: Sequence[str], views: dict[str, View], network: Any) -> FileInfo:
    return FileInfo(
        names=tuple(names),
        views=views,
        source=doc.document("source").data,
        settings=doc.document("settings").data,
        nest=doc.data.get("nest"),
        left_behind=tuple(doc.strings("left_behind")),
        notes=tuple(doc.strings("notes")),
        network=network,
        metadata=doc.document("metadata").texts(),
    )


def _layers(doc: Document, owners: Sequence[tuple[str, ...]]) -> tuple[LayerRow, ...]:
    keys = ("tol", "norm", "error", "max_abs_error", "method", "max_rank", "bytes", *LEAF_KINDS)
    columns = {key: doc.column(key, len(owners)) for key in keys} | {"crc32": _checksums(doc, len(owners))}
    return tuple(_row(owner, {key: column[i] for key, column in columns.items()}) for i, owner in enumerate(owners))


def _checksums(doc: Document, count: int) -> list[int]:
    """Four bytes a layer, least significant first, in base 64."""
    try:
        data = b64decode(doc.data.get("crc32", ""), validate=True)
    except (TypeError, ValueError):
        data = b""
    if len(data) != 4 * count:
        damaged("'crc32'")
    return [int.from_bytes(data[i : i + 4], "little") for i in range(0, len(data), 4)]


def _row(tensors: tuple[str, ...], cell: dict[str, Any]) -> LayerRow:
    return LayerRow(
        tensors=tensors,
        tol=None if cell["tol"] is None else number(cell["tol"], "tol"),
        norm=cast(Norm, choice(cell["norm"], NORMS, "norm")),
        error=number(cell["error"], "error"),
        max_abs_error=number(cell["max_abs_error"], "max_abs_error"),
        method=choice(cell["method"], METHODS, "method"),
        leaves={kind: integer(cell[kind], 1 << 62, kind) for kind in LEAF_KINDS},
        max_rank=integer(cell["max_rank"], 1 << 62, "max_rank"),
        nbytes=integer(cell["bytes"], 1 << 62, "bytes"),
        crc32=cell["crc32"],
    )


def _check_layers(index: Index, layer_bytes: int) -> None:
    """Layers are floating or complex, a bias has a number for each row of its weight, and their bytes fill the pool."""
    for row in index.layers:
        shapes, dtypes = [index.shapes[name] for name in row.tensors], {index.dtypes[name] for name in row.tensors}
        if len(dtypes) > 1 or not dtypes <= set(CODABLE) or not shapes[0]:
            damaged(f"layer {row.name[:80]!r}")
        vectors = [max(elements(shape), 1) for shape in shapes[1:]]
        if any(elements(shapes[0]) % size for size in vectors) or (vectors and dtypes & REAL_PARTS.keys()):
            damaged(f"layer {row.name[:80]!r}")
    if sum(row.nbytes for row in index.layers) != layer_bytes:
        damaged("sum of layer sizes")
