"""Reading a compressed file: nothing in it is trusted, and one tensor at a time is decoded."""

import mmap
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Self

import numpy as np
import psutil
import torch
from torch import Tensor

from hmcompress.coding.buffer import Reader
from hmcompress.coding.tables import decode_table
from hmcompress.container.dtypes import from_words, table_shape, word_count, words
from hmcompress.container.header import POOL, file_digest, parse_header, stored_digest
from hmcompress.container.index import Index
from hmcompress.container.index_reader import index_from_json
from hmcompress.container.payload import decode_layer
from hmcompress.container.records import LayerRow
from hmcompress.container.squeeze import unpack_json
from hmcompress.errors import FormatError
from hmcompress.geometry import elements
from hmcompress.texts import check_name

# What a decoder may raise on bytes that no encoder wrote.
_DECODING = (ValueError, TypeError, ArithmeticError, LookupError, RuntimeError, AssertionError, BufferError)


@dataclass(frozen=True)
class StoredPart:
    """Tensors that are decoded together; `nbytes` is what `load` returns."""

    tensors: tuple[str, ...]
    nbytes: int
    load: Callable[[], dict[str, Tensor]]


class CompressedFile:
    """An open compressed file. `open` checks structure and digest; tensors are decoded when asked for."""

    def __init__(self, path: Path, data: memoryview) -> None:
        self.path = path
        self._data = data
        self.header = parse_header(data)
        index, self._payloads = self._pool()
        self.index: Index = index_from_json(unpack_json(index), self.header, len(self._payloads))
        self._begin = dict(zip((row.name for row in self.layers), self._begins(), strict=True))
        self.layer_of = {name: row for row in self.layers for name in row.tensors}
        self.views_of: dict[str, list[str]] = {}  # by their base
        self._last_other = (-1, torch.empty(0))  # the layer on which others stand that was decoded last
        for name, view in self.index.info.views.items():
            self.views_of.setdefault(view.base, []).append(name)

    @classmethod
    def open(cls, path: str | os.PathLike) -> Self:
        """Open a file. Raises FormatError that names the file, and the damaged layers where the digest differs."""
        check_name(path, FormatError)
        path = Path(path)
        with named(path):
            data = _map(path)
            file = cls(path, data)
            if not file.digest_holds():
                raise FormatError(file.damage())
        return file

    @property
    def names(self) -> tuple[str, ...]:
        """Every tensor in the source's order."""
        return self.index.info.names

    @property
    def layers(self) -> tuple[LayerRow, ...]:
        return self.index.layers

    @property
    def nbytes(self) -> int:
        """Bytes of the file."""
        return len(self._data)

    def digest_holds(self) -> bool:
        """Whether the bytes are those that were written."""
        return file_digest(self._data) == stored_digest(self._data)

    def damage(self) -> str:
        """One line on what a wrong digest comes from."""
        layers = [row.name for row in self.layers if not self.checksum_holds(row)]
        where = f"layer {', '.join(layers[:5])}" if layers else "its untouched tensors, its index or its header"
        return f"the file's digest does not hold, damaged: {where}; compress again or take another copy"

    def checksum_holds(self, row: LayerRow) -> bool:
        """Whether a layer's payload is the one that was written."""
        return zlib.crc32(self.payload(row)) == row.crc32

    def payload(self, row: LayerRow) -> memoryview:
        """A layer's coded bytes."""
        begin = self._begin[row.name]
        return self._payloads[begin : begin + row.nbytes]

    def stored_bytes(self, name: str) -> int:
        """Bytes of an untouched tensor in the file."""
        return self.header[self.index.entries[name]].nbytes

    def load_layer(self, row: LayerRow) -> dict[str, Tensor]:
        """Decode a layer: its weight, and its bias where the layer owns one. Raises FormatError."""
        shapes = [self.index.shapes[name] for name in row.tensors]
        dtype = self.index.dtypes[row.name]
        with self._decoding(row.name, self._nbytes(row.tensors)):
            if not self.checksum_holds(row):
                raise FormatError("its checksum does not hold: the file is damaged")
            tensors = decode_layer(self.payload(row), shapes, dtype, partial(self._other, row))
            return dict(zip(row.tensors, tensors, strict=True))

    def _other(self, row: LayerRow, number: int) -> Tensor:
        """The weight of the layer of this number, on which `row` stands; several in a row may stand on one."""
        known, weight = self._last_other
        if known != number:
            weight = self._standing_alone(row, number)
            self._last_other = number, weight
        return weight

    def _standing_alone(self, row: LayerRow, number: int) -> Tensor:
        """Raises FormatError where that is no layer that others of this shape may stand on."""
        if number >= len(self.layers):
            raise FormatError("it stands on a layer that is not there: the file is damaged")
        other = self.layers[number]
        (dtype, shape), own = ((self.index.dtypes[r.name], self.index.shapes[r.name]) for r in (other, row))
        if len(other.tensors) > 1 or (dtype, shape) != own:
            raise FormatError(f"it stands on {other.name}, which has another shape: the file is damaged")
        if not self.checksum_holds(other):
            raise FormatError(f"the checksum of {other.name}, on which it stands, does not hold: the file is damaged")
        return decode_layer(self.payload(other), [shape], dtype)[0]

    def load_untouched(self, name: str) -> Tensor:
        """Read a tensor that was not coded as a layer. Raises FormatError."""
        shape, dtype = self.index.shapes[name], self.index.dtypes[name]
        entry = self.header[self.index.entries[name]]
        body = self._data[entry.begin : entry.end]
        with self._decoding(name, self._nbytes((name,))):
            if name not in self.index.packed:
                return from_words(np.frombuffer(body, words(dtype)).copy(), dtype, shape)
            table = table_shape(shape, word_count(dtype, elements(shape)))
            return from_words(decode_table(body, words(dtype), table), dtype, shape)

    def _load_single(self, name: str) -> dict[str, Tensor]:
        return {name: self.load_untouched(name)}

    def parts(self) -> Iterator[StoredPart]:
        """What is decoded together, in the source's order: a layer, or a single untouched tensor."""
        for name in self.index.shapes:
            row = self.layer_of.get(name)
            if row is None:
                yield StoredPart((name,), self._nbytes((name,)), partial(self._load_single, name))
            elif row.name == name:
                yield StoredPart(row.tensors, self._nbytes(row.tensors), partial(self.load_layer, row))

    def with_views(self, names: Iterable[str]) -> Iterator[str]:
        """Each of these stored tensors, and the views of it behind it."""
        for name in names:
            yield name
            yield from self.views_of.get(name, ())

    def tie(self, name: str, stored: dict[str, Tensor]) -> Tensor:
        """A tensor from the stored ones; a view shares its base's memory again."""
        view = self.index.info.views.get(name)
        return stored[name] if view is None else view.of(stored[view.base])

    def geometry(self) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Dtype and shape of every tensor, views included, in the source's order."""
        views = self.index.info.views
        return {
            name: (self.index.dtypes[views[name].base], views[name].shape)
            if name in views
            else (self.index.dtypes[name], self.index.shapes[name])
            for name in self.names
        }

    def _nbytes(self, names: Iterable[str]) -> int:
        return sum(elements(self.index.shapes[name]) * self.index.dtypes[name].itemsize for name in names)

    @contextmanager
    def _decoding(self, name: str, nbytes: int) -> Iterator[None]:
        """Errors of a decoder become FormatError that names the tensor; so does a size beyond this machine's memory."""
        where = f"{self.path}: tensor {name}"
        if nbytes > _memory():
            raise FormatError(f"{where} would take {nbytes:,} bytes, more than this machine's memory")
        try:
            yield
        except FormatError as error:
            raise FormatError(f"{where}: {error}") from None
        except MemoryError:
            raise FormatError(f"{where} needs {nbytes:,} bytes, more memory than is free") from None
        except _DECODING as error:
            raise FormatError(f"{where} does not decode: the file is damaged ({error!s:.80})") from error

    def _pool(self) -> tuple[bytes, memoryview]:
        """The packed index, which stands behind its length, and the payloads, which follow it."""
        if POOL not in self.header:
            raise FormatError("the index and the layers are missing: the file is damaged")
        entry = self.header[POOL]
        start = Reader(self._data[entry.begin : min(entry.end, entry.begin + 10)])
        size = start.uint(limit=entry.nbytes)
        begin = entry.begin + start.at
        if begin + size > entry.end:
            raise FormatError("the index is longer than what holds it: the file is damaged")
        return bytes(self._data[begin : begin + size]), self._data[begin + size : entry.end]

    def _begins(self) -> Iterator[int]:
        at = 0
        for row in self.layers:
            yield at
            at += row.nbytes


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Put the file's name before a FormatError; a file that cannot be read is one too."""
    try:
        yield
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror or error}") from None


@cache
def _memory() -> int:
    return psutil.virtual_memory().total


def _map(path: Path) -> memoryview:
    if path.is_dir():
        raise FormatError("cannot be read, it is a folder: name a compressed file")
    if path.exists() and not path.is_file():  # to open a pipe is to wait for its writer
        raise FormatError("is a device or a pipe, not a file: save the compressed model to a file first")
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size < 8:
            raise FormatError("not a compressed model: the file is empty or cut off")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
