"""Folders of torch.distributed.checkpoint: a table `.metadata`, and tensors in pieces in files `.distcp`.

A piece is a file of torch.save in a range of such a file. Pieces are found when the folder is opened, and read when
their tensor is loaded.
"""

from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from hmcompress.checkpoint.archive import Archive
from hmcompress.checkpoint.assemble import Opened, opened_object
from hmcompress.checkpoint.blobs import Blob, FileBlob, RangeBlob, stream_of
from hmcompress.checkpoint.known_globals import find_global
from hmcompress.checkpoint.lazy import CARRIED_DTYPES, LazyTensor, Storage, checked_shape, whole
from hmcompress.checkpoint.limits import MAX_DEPTH
from hmcompress.checkpoint.machine import Machine, Stream
from hmcompress.checkpoint.pieces import Piece, PiecesBlob
from hmcompress.checkpoint.plain import Notes
from hmcompress.checkpoint.standins import LeftBehind, StandIn
from hmcompress.checkpoint.zip_storages import ZipStorages, is_big_endian, unpickle_entry
from hmcompress.errors import SourceError
from hmcompress.texts import excerpt

TABLE = ".metadata"
SUFFIX = ".distcp"
_ADVICE = "convert it first: python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER model.pt"


def open_distributed(folder: Path) -> Opened:
    """The state dict of a folder of torch.distributed.checkpoint, nested as it was. Raises SourceError."""
    table = folder / TABLE
    if not table.is_file():
        raise SourceError(f"has {SUFFIX} files without the file {TABLE} that describes them; copy that too")
    blob = FileBlob(table)
    with stream_of(blob) as file:
        reader = _Reader(folder, Machine(Stream(file, blob.nbytes), find_global).load())
    obj = reader.state_dict()
    opened = opened_object("torch.distributed", obj, blob.nbytes + reader.pickle_bytes, table, Notes())
    return Opened(opened.kind, opened.tensors, (table, *reader.files), opened.nest, opened.notes, {}, opened.content)


class _Reader:
    """A table, and what it says of where things are."""

    def __init__(self, folder: Path, table: Any) -> None:
        self._folder = folder
        self._files: dict[str, Blob] = {}
        self.pickle_bytes = 0
        found = _attributes(table)
        self._entries, self._paths = found.get("state_dict_metadata"), found.get("planner_data")
        places = found.get("storage_data")
        if not isinstance(self._entries, dict) or not isinstance(places, dict):
            raise SourceError(f"damaged, or of an unknown release: its {TABLE} names no tensors; {_ADVICE}")
        self._places = {_index(key): _attributes(place) for key, place in places.items()}

    @property
    def files(self) -> list[Path]:
        """The files that hold what was named, in the order in which it was."""
        return [self._folder / name for name in self._files]

    def state_dict(self) -> Any:
        """All entries where the table's paths put them; without paths a flat dict. Raises SourceError."""
        entries = self._entries or {}
        flat = {name: self._entry(name, _attributes(entry)) for name, entry in entries.items() if type(name) is str}
        if not isinstance(self._paths, dict):
            return flat
        return _nested({self._path(name): value for name, value in flat.items()})

    def _path(self, name: str) -> tuple[str | int, ...]:
        path = self._paths.get(name, (name,)) if isinstance(self._paths, dict) else (name,)
        if not isinstance(path, tuple) or not path or not all(type(step) in (str, int) for step in path):
            raise SourceError(f"damaged: its {TABLE} does not say where '{excerpt(name)}' belongs")
        return path

    def _entry(self, name: str, entry: dict[Any, Any]) -> Any:
        if "chunks" not in entry:  # what torch.save wrote of a number, a text or anything else
            value, length = self._saved(self._range(name, None))
            self.pickle_bytes += length
            return value
        shape, dtype = checked_shape(entry.get("size")), _dtype(entry.get("properties"))
        if dtype not in CARRIED_DTYPES:
            return LeftBehind("a tensor of a type that is not carried")
        chunks = entry["chunks"] if isinstance(entry["chunks"], list) else []
        pieces = [self._piece(name, _attributes(chunk)) for chunk in chunks]
        blob = PiecesBlob(shape, dtype, pieces)
        return whole(Storage(blob.nbytes, blob), dtype, shape)

    def _piece(self, name: str, chunk: dict[Any, Any]) -> Piece:
        offsets, sizes = checked_shape(chunk.get("offsets")), checked_shape(chunk.get("sizes"))
        return Piece(offsets, sizes, partial(self._tensor, self._range(name, offsets)))

    def _tensor(self, blob: Blob) -> LazyTensor:
        value, _ = self._saved(blob)
        if not isinstance(value, LazyTensor):
            raise SourceError("damaged: a piece of a tensor is no tensor")
        return value

    def _saved(self, blob: Blob) -> tuple[Any, int]:
        """What torch.save wrote to a range of a file, and the length of its pickle."""
        archive = Archive(self._folder / TABLE, blob)
        return unpickle_entry(archive, "data.pkl", ZipStorages(archive, big_endian=is_big_endian(archive)))

    def _range(self, name: str, offsets: tuple[int, ...] | None) -> Blob:
        """Where an entry lies, or the piece of it that begins at `offsets`. Raises SourceError."""
        match self._places.get((name, offsets)):
            case {"transform_descriptors": [_, *_]}:
                raise SourceError(f"its pieces are compressed; {_ADVICE}")
            case {"relative_path": str(path), "offset": int(start), "length": int(length)}:
                file = self._file(path)
                if start < 0 or length < 0 or start + length > file.nbytes:
                    raise SourceError(f"truncated: {excerpt(path)} is shorter than its {TABLE} says; copy it again")
                return RangeBlob(file, start, length)
        raise SourceError(f"damaged: its {TABLE} does not say where the data of '{excerpt(name)}' is")

    def _file(self, name: str) -> Blob:
        if name not in self._files:
            path = self._folder / name
            if not name or Path(name).name != name or "\0" in name:
                raise SourceError(f"damaged: its {TABLE} names {excerpt(name, 60)}, which is no file beside it")
            if not path.is_file():
                raise SourceError(f"its file {excerpt(name)} is missing; copy it too")
            self._files[name] = FileBlob(path)
        return self._files[name]


def _attributes(value: Any) -> dict[Any, Any]:
    return (value.attributes() if isinstance(value, StandIn) else None) or {}


def _index(key: Any) -> tuple[Any, tuple[int, ...] | None]:
    """Name and offset of torch's MetadataIndex."""
    found = _attributes(key)
    offset = found.get("offset")
    return found.get("fqn"), None if offset is None else checked_shape(offset)


def _dtype(properties: Any) -> torch.dtype | None:
    """The first of what torch's TensorProperties pickle as."""
    state = properties.states[-1] if isinstance(properties, StandIn) and properties.states else ()
    dtype = state[0] if isinstance(state, tuple) and state else None
    return dtype if isinstance(dtype, torch.dtype) else None


def _nested(flat: Mapping[tuple[str | int, ...], Any], depth: int = 0) -> Any:
    """Values under their paths as nested dicts, and lists where the steps are 0, 1, 2, ... Raises SourceError."""
    if list(flat) == [()]:
        return flat[()]
    if () in flat or depth > MAX_DEPTH:
        raise SourceError(f"damaged: its {TABLE} nests values too deeply, or two in one place")
    groups: dict[str | int, dict[tuple[str | int, ...], Any]] = defaultdict(dict)
    for path, value in flat.items():
        groups[path[0]][path[1:]] = value
    made = {step: _nested(group, depth + 1) for step, group in groups.items()}
    numbered = all(index in made for index in range(len(made)))
    return [made[index] for index in range(len(made))] if numbered else made
