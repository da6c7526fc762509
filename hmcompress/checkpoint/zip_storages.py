"""Pickles of an archive that torch wrote, and the storages that they name."""

import io
from collections.abc import Callable
from typing import Any

from hmcompress.checkpoint.archive import Archive
from hmcompress.checkpoint.known_globals import find_global, storage_id
from hmcompress.checkpoint.lazy import Storage, TypedStorage
from hmcompress.checkpoint.machine import Machine, Stream
from hmcompress.errors import SourceError


class ZipStorages:
    """The storages of an archive by key, each looked up when a pickle first names it."""

    def __init__(self, archive: Archive, pattern: str = "data/{}", big_endian: bool = False) -> None:
        self._archive, self._pattern, self._big_endian = archive, pattern, big_endian
        self._known: dict[str, Storage] = {}

    def persistent_load(self, key: Any) -> TypedStorage:
        """The storage of a persistent id. Raises SourceError."""
        dtype, name, nbytes = storage_id(key)
        storage = self._storage(name, nbytes)
        if nbytes > storage.nbytes:
            raise SourceError(f"truncated or damaged: storage {name} has {storage.nbytes} bytes of {nbytes}")
        return TypedStorage(storage, dtype, 0, nbytes)

    def _storage(self, name: str, wanted: int) -> Storage:
        if name not in self._known:
            entry = self._pattern.format(name)
            if wanted == 0 and entry not in self._archive:
                return Storage(0)
            blob = self._archive.blob(entry)
            self._known[name] = Storage(blob.nbytes, blob, self._big_endian)
        return self._known[name]


def unpickle_entry(
    archive: Archive, name: str, storages: ZipStorages, persistent_load: Callable[[Any], Any] | None = None
) -> tuple[Any, int]:
    """The object in a pickle of the archive, and the pickle's length. Raises SourceError."""
    data = archive.read(name)
    machine = Machine(Stream(io.BytesIO(data), len(data)), find_global, persistent_load or storages.persistent_load)
    return machine.load(), len(data)


def is_big_endian(archive: Archive) -> bool:
    """The archive's byte order; files without the marker are little-endian. Raises SourceError."""
    marker = archive.read("byteorder") if "byteorder" in archive else b"little"
    if marker not in (b"little", b"big"):
        raise SourceError("damaged: its byte order is neither little nor big")
    return marker == b"big"
