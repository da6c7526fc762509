"""safetensors files: an 8-byte length, a JSON header of types, shapes and offsets, then the data."""

import json
import struct
from math import prod
from pathlib import Path
from typing import Any

from hmcompress.checkpoint.assemble import Opened
from hmcompress.checkpoint.blobs import Blob, RangeBlob
from hmcompress.checkpoint.lazy import LazyTensor, Storage, checked_shape, whole
from hmcompress.checkpoint.limits import MAX_NAME, MAX_TENSORS
from hmcompress.checkpoint.plain import Notes
from hmcompress.element_types import EVERY_SAFETENSORS
from hmcompress.errors import SourceError
from hmcompress.texts import excerpt, is_unicode

_MAX_HEADER = 100_000_000  # the format's own limit
_DTYPES = {code: dtype for dtype, code in EVERY_SAFETENSORS.items()}


def looks_like_safetensors(head: bytes, size: int) -> bool:
    """Whether the first bytes are a header length and the beginning of a JSON object."""
    return len(head) > 8 and head[8:9] == b"{" and 2 <= struct.unpack("<Q", head[:8])[0] <= max(size, _MAX_HEADER)


def open_safetensors(path: Path, blob: Blob) -> Opened:
    """The tensors of a safetensors file, in the order of its data. Raises SourceError."""
    length = struct.unpack("<Q", blob.read(0, 8).numpy().tobytes())[0]
    if length > min(_MAX_HEADER, blob.nbytes - 8):
        raise SourceError("truncated: its header reaches beyond the end of the file; copy or download it again")
    header = _parse(blob.read(8, length).numpy().tobytes())
    notes = Notes()
    metadata = _metadata(header.pop("__metadata__", {}), notes)
    tensors = _tensors(header, RangeBlob(blob, 8 + length, blob.nbytes - 8 - length), notes)
    if not tensors:
        raise SourceError("holds no tensors: nothing to compress")
    return Opened("safetensors", tensors, (path,), None, notes, metadata, tensors)


def _parse(text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise SourceError("damaged: its safetensors header is no JSON") from error
    if not isinstance(header, dict) or len(header) > MAX_TENSORS:
        raise SourceError("damaged: its safetensors header is no table of tensors")
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise SourceError("damaged: its safetensors header names a tensor twice")
    return made


def _metadata(metadata: Any, notes: Notes) -> dict[str, str]:
    """The texts of the header but for `format: pt`, which every such file has. Raises SourceError."""
    if not isinstance(metadata, dict):
        raise SourceError("damaged: its safetensors metadata is no table")
    if metadata.get("format") == "hmcompress":
        raise SourceError("is compressed by hmcompress already; restore it with `hmcompress decompress FILE -o OUT`")
    texts = {key: text for key, text in metadata.items() if isinstance(text, str) and is_unicode(key + text)}
    if odd := [key for key in metadata if key not in texts]:
        shown = excerpt(", ".join(odd[:5]) + (", ..." if len(odd) > 5 else ""))
        notes.add("__metadata__", f"entries of the safetensors header that are no texts ({shown})")
    return {key: text for key, text in texts.items() if (key, text) != ("format", "pt")}


def _tensors(header: dict[str, Any], data: Blob, notes: Notes) -> dict[str, LazyTensor]:
    tensors: dict[str, LazyTensor] = {}
    reached = 0
    ranges = {name: _range(entry, name) for name, entry in header.items()}
    for name, (first, stop) in sorted(ranges.items(), key=lambda item: item[1]):
        if first != reached or stop > data.nbytes:
            raise SourceError(f"truncated or damaged: the data of tensor '{excerpt(name)}' is not where it should be")
        reached = stop
        tensor = _tensor(header[name], name, RangeBlob(data, first, stop - first), notes)
        if tensor is not None:
            tensors[name] = tensor
    if reached != data.nbytes:
        raise SourceError("damaged: it has more data than its safetensors header describes")
    return tensors


def _range(entry: Any, name: str) -> tuple[int, int]:
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(n) is int and n >= 0 for n in offsets):
        raise SourceError(f"damaged: tensor '{excerpt(name)}' has no data offsets")
    if offsets[0] > offsets[1] or not 0 < len(name) <= MAX_NAME or not is_unicode(name):
        raise SourceError(f"damaged: tensor '{excerpt(name)}' has an impossible entry")
    return offsets[0], offsets[1]


def _tensor(entry: dict[str, Any], name: str, blob: Blob, notes: Notes) -> LazyTensor | None:
    kind = entry.get("dtype")
    dtype = _DTYPES.get(kind) if isinstance(kind, str) else None
    if dtype is None:
        notes.add(name, f"a tensor of type {excerpt(str(kind), 20)}")
        return None
    shape = checked_shape(entry.get("shape"))
    if prod(shape) * dtype.itemsize != blob.nbytes:
        raise SourceError(f"damaged: the data of tensor '{excerpt(name)}' does not fit its shape")
    return whole(Storage(blob.nbytes, blob), dtype, shape)
