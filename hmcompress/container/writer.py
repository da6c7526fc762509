"""Writing a compressed file: parts go to a nameless spool as they come; the file is put together at the end."""

import contextlib
import os
import tempfile
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from hashlib import blake2b
from itertools import chain, count
from pathlib import Path
from typing import IO, BinaryIO

import torch

from hmcompress.coding.buffer import Writer
from hmcompress.coding.tables import encode_table
from hmcompress.container.atomic import atomic_write, check_output, place_of, writing
from hmcompress.container.dtypes import table_shape, to_words
from hmcompress.container.header import DIGEST_AT, DIGEST_BYTES, POOL, RESERVED, build_header
from hmcompress.container.index import Index, index_to_json
from hmcompress.container.records import EncodedLayer, FileInfo, LayerRow, PackedTensor
from hmcompress.container.squeeze import pack_json
from hmcompress.element_types import SAFETENSORS
from hmcompress.texts import is_unicode

_IN_MEMORY = 64 << 20
_BLOCK = 1 << 20
_AHEAD = 64 << 20  # bytes that are written and not hashed yet
_PACKING_COSTS = 16  # bytes that a coded tensor's shape and dtype take in the index, roughly
_Parts = list[tuple[int, int]]  # where the bytes of one tensor lie in the spool: begin, length


def pack_tensor(name: str, tensor: torch.Tensor, effort: str = "default") -> PackedTensor:
    """The bytes in which an untouched tensor is stored: as it is, or coded where that is smaller."""
    words = to_words(tensor)
    coded = encode_table(words.reshape(table_shape(tuple(tensor.shape), words.size)), effort)
    packed = tensor.dtype not in SAFETENSORS or len(coded) + _PACKING_COSTS < words.nbytes
    return PackedTensor(name, coded if packed else words.tobytes(), packed, tuple(tensor.shape), tensor.dtype)


class FileWriter(AbstractContextManager["FileWriter"]):
    """Collects layers and untouched tensors, then writes the whole file under its name at once.

    With `path` None nothing is written: only the bytes are counted (a dry run). Leaving the block without `finish`
    leaves nothing behind. Raises OutputError.
    """

    def __init__(self, path: str | os.PathLike | None, *, force: bool = False) -> None:
        self._path = None if path is None else check_output(path, force)
        self._force = force
        self._spool = _Spool(self._path)
        self._layers: list[LayerRow] = []
        self._layer_parts: _Parts = []
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._dtypes: dict[str, torch.dtype] = {}
        self._untouched: dict[str, tuple[int, int]] = {}
        self._packed: set[str] = set()

    def __exit__(self, *exc_info: object) -> None:
        self._spool.close()

    def add(self, part: EncodedLayer | PackedTensor) -> None:
        """Append a layer or an untouched tensor."""
        if isinstance(part, EncodedLayer):
            self._add_layer(part)
        else:
            self._add_tensor(part)

    def _add_layer(self, layer: EncodedLayer) -> None:
        row = replace(layer.row, nbytes=len(layer.payload), crc32=zlib.crc32(layer.payload))
        self._layers.append(row)
        self._layer_parts.append(self._spool.append(layer.payload))
        for name, shape in zip(row.tensors, layer.shapes, strict=True):
            self._note(name, shape, layer.dtype)

    def _add_tensor(self, tensor: PackedTensor) -> None:
        self._note(tensor.name, tensor.shape, tensor.dtype)
        self._untouched[tensor.name] = self._spool.append(tensor.body)
        if tensor.packed:
            self._packed.add(tensor.name)

    def finish(self, info: FileInfo) -> int:
        """Write the file; returns its bytes. Every name in `info` must have been added, or be one of its views."""
        index = self._index(info)
        index_bytes = Writer().section(pack_json(index_to_json(index))).getvalue()
        where = {POOL: [self._spool.append(index_bytes), *self._layer_parts]}
        where |= {index.entries[name]: [self._untouched[name]] for name in info.names if name in index.entries}
        owners = {entry: name for name, entry in index.entries.items()}
        entries = {name: _entry(owners.get(name), parts, index) for name, parts in where.items()}
        header, order = build_header(entries)
        if self._path is not None:
            with atomic_write(self._path, self._force) as file:
                self._assemble(file, header, [part for name in order for part in where[name]])
        return len(header) + sum(nbytes for _, _, nbytes in entries.values())

    def _note(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        if name in self._shapes:
            raise ValueError(f"{name} was added twice")
        self._shapes[name], self._dtypes[name] = tuple(shape), dtype

    def _index(self, info: FileInfo) -> Index:
        stored = [name for name in info.names if name not in info.views]
        if set(stored) != self._shapes.keys():
            raise ValueError(f"names and tensors differ: {sorted(set(stored) ^ self._shapes.keys())[:5]}")
        untouched = [name for name in stored if name in self._untouched]
        return Index(
            info,
            {name: self._shapes[name] for name in stored},
            {name: self._dtypes[name] for name in stored},
            frozenset(self._packed),
            _entry_names(untouched),
            tuple(self._layers),
        )

    def _assemble(self, file: BinaryIO, header: bytes, parts: _Parts) -> None:
        digest = blake2b(digest_size=DIGEST_BYTES)
        with ThreadPoolExecutor(1) as beside:
            hashed: deque[tuple[int, Future[None]]] = deque()
            ahead = 0
            for block in chain([header], *(self._spool.read(*part) for part in parts)):
                hashed.append((len(block), beside.submit(digest.update, block)))
                file.write(block)
                ahead += len(block)
                while ahead > _AHEAD:
                    nbytes, done = hashed.popleft()
                    done.result()
                    ahead -= nbytes
            file.flush()
            os.fsync(file.fileno())  # the disk works while the rest is hashed
        file.seek(DIGEST_AT)
        file.write(digest.hexdigest().encode())


def _entry(owner: str | None, parts: _Parts, index: Index) -> tuple[torch.dtype, tuple[int, ...], int]:
    """Type, shape and bytes of an entry of the header: bytes, unless it is a tensor that lies there as it is."""
    nbytes = sum(length for _, length in parts)
    if owner is None or owner in index.packed:
        return torch.uint8, (nbytes,), nbytes
    return index.dtypes[owner], index.shapes[owner], nbytes


def _entry_names(untouched: list[str]) -> dict[str, str]:
    """The name of each tensor in the safetensors file: its own, unless that is reserved or no valid Unicode."""
    entries = {name: name for name in untouched if name not in RESERVED and is_unicode(name)}
    free = (name for k in count() if (name := f"tensor.{k}") not in entries)
    return {name: entries[name] if name in entries else next(free) for name in untouched}


class _Spool:
    """Bytes kept until the file is put together: in memory first, then in a nameless file beside the output."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._held: dict[int, bytes] = {}  # by where they begin: nothing is copied while there are few
        self._file: IO[bytes] | None = None
        self._end = 0

    def append(self, data: bytes) -> tuple[int, int]:
        begin, self._end = self._end, self._end + len(data)
        if self._path is not None:
            self._held[begin] = data
            if self._file is not None or self._end > _IN_MEMORY:
                self._spill(self._path)
        return begin, len(data)

    def _spill(self, path: Path) -> None:
        with writing(path):
            if self._file is None:  # closed by close(); the writer that owns it is the context manager
                self._file = tempfile.TemporaryFile(dir=place_of(path).parent)  # noqa: SIM115
            for begin in sorted(self._held):
                self._file.seek(begin)
                self._file.write(self._held.pop(begin))

    def read(self, begin: int, length: int) -> Iterator[bytes]:
        if self._file is None:
            yield self._held[begin] if length else b""
            return
        self._file.seek(begin)
        while length > 0:
            block = self._file.read(min(length, _BLOCK))
            if not block:
                raise OSError("the spool ended early")
            length -= len(block)
            yield block

    def close(self) -> None:
        self._held.clear()
        if self._file is not None:
            with contextlib.suppress(OSError):  # a full disk, met again: what it holds is not wanted any more
                self._file.close()
