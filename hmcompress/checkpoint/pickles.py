"""Objects in pickles, with their tensors: those of torch.save before 1.6, and plain ones.

The former are magic number, protocol, system, object and storage keys as pickles, then raw storages. Tensors in plain
pickles carry their storages as such a file in a string of bytes.
"""

import struct
from typing import Any, NamedTuple

from hmcompress.checkpoint.blobs import Blob, MemoryBlob, RangeBlob, stream_of
from hmcompress.checkpoint.known_globals import find_global, storage_id
from hmcompress.checkpoint.lazy import Storage, TypedStorage
from hmcompress.checkpoint.limits import Budget
from hmcompress.checkpoint.machine import Machine, Stream
from hmcompress.checkpoint.standins import Constructor
from hmcompress.errors import SourceError

MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_MAX_INNER = 3  # files in bytes in files


class _Segment:
    """A run of bytes in which a legacy file lies: a file on disk or in an archive, or bytes inside a pickle."""

    def __init__(self, blob: Blob, depth: int, budget: Budget) -> None:
        self.file, self.size, self.depth = stream_of(blob), blob.nbytes, depth
        self._blob = blob
        self._budget = budget  # of the file on disk: bytes may be read as a file again and again

    def blob(self, start: int, nbytes: int) -> Blob:
        return RangeBlob(self._blob, start, nbytes)

    def unpickle(self, persistent_load: Any = None) -> Any:
        """The next pickle; the file is left at its end."""
        stream = Stream(self.file, self.size - self.file.tell())
        return Machine(stream, self._find_global, persistent_load, self._budget).load()

    def _find_global(self, module: str, name: str) -> Any:
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return Constructor("torch.storage._load_from_bytes", self._load_from_bytes)
        return find_global(module, name)

    def _load_from_bytes(self, data: Any) -> Any:
        if not isinstance(data, (bytes, bytearray)) or self.depth >= _MAX_INNER:
            raise SourceError("damaged: a storage that is not made of bytes")
        inner = _Segment(MemoryBlob(bytes(data)), self.depth + 1, self._budget)
        if inner.unpickle() != MAGIC:
            raise SourceError("holds a tensor pickled in a way this release does not know")
        return _Legacy(inner).load()


class _Legacy:
    """What follows the magic number."""

    def __init__(self, segment: _Segment) -> None:
        self._segment = segment
        self._storages: dict[str, Storage] = {}
        self._itemsizes: dict[str, int] = {}
        self.pickle_bytes = 0

    def load(self) -> Any:
        if self._segment.unpickle() != _PROTOCOL:
            raise SourceError("damaged, or a legacy file of an unknown protocol")
        system = self._segment.unpickle()
        big_endian = isinstance(system, dict) and system.get("little_endian", True) is False
        obj = self._segment.unpickle(self.persistent_load)
        self.pickle_bytes = self._segment.file.tell()
        self._place(self._segment.unpickle(), big_endian)
        return obj

    def persistent_load(self, key: Any) -> Any:
        """A storage, or the class of a module saved with its source (which is not read)."""
        if isinstance(key, tuple) and len(key) > 1 and key[0] in ("module", b"module"):
            return key[1]
        dtype, name, nbytes = storage_id(key)
        storage = self._storages.setdefault(name, Storage(nbytes))
        if storage.nbytes != nbytes:
            raise SourceError(f"damaged: storage {name} has two sizes")
        self._itemsizes.setdefault(name, dtype.itemsize)
        whole = TypedStorage(storage, dtype, 0, nbytes)
        return whole if len(key) < 6 or key[5] is None else _storage_view(whole, key[5])

    def _place(self, keys: Any, big_endian: bool) -> None:
        """Find each storage's bytes behind the pickles: its number of elements, then its data."""
        if not isinstance(keys, list) or not all(isinstance(key, (str, int)) for key in keys):
            raise SourceError("damaged: its list of storages cannot be read")
        position = self._segment.file.tell()
        for key in keys:
            storage = self._storages.get(str(key))
            if storage is None:
                raise SourceError(f"damaged: storage {str(key)[:60]} belongs to no tensor")
            self._segment.file.seek(position)
            head = self._segment.file.read(8)
            position += 8
            if len(head) < 8 or position + storage.nbytes > self._segment.size:
                raise SourceError("truncated: its last tensors are missing; copy or download it again")
            if struct.unpack("<q", head)[0] * self._itemsizes[str(key)] != storage.nbytes:
                raise SourceError(f"damaged: storage {str(key)[:60]} has two sizes")
            storage.blob = self._segment.blob(position, storage.nbytes)
            storage.big_endian = big_endian
            position += storage.nbytes
        self._segment.file.seek(position)
        if any(storage.blob is None and storage.nbytes for storage in self._storages.values()):
            raise SourceError("truncated or damaged: a storage has no data")


def _storage_view(whole: TypedStorage, view: Any) -> TypedStorage:
    """A range of a storage, (key, first element, number of elements), as files before 0.4 have it."""
    if not isinstance(view, tuple) or len(view) != 3 or not all(type(n) is int and n >= 0 for n in view[1:]):
        raise SourceError("damaged: a view of a storage without range")
    first, nbytes = view[1] * whole.dtype.itemsize, view[2] * whole.dtype.itemsize
    if first + nbytes > whole.nbytes:
        raise SourceError("damaged: a view of a storage reaches beyond it")
    return TypedStorage(whole.storage, whole.dtype, first, nbytes)


class Pickled(NamedTuple):
    """What a run of bytes holds, and how many of them are pickles, and stand behind it."""

    kind: str
    content: Any
    pickle_bytes: int
    left: int


def read_pickle(blob: Blob, budget: Budget) -> Pickled:
    """A legacy file of torch.save, or a plain pickle. Raises SourceError."""
    segment = _Segment(blob, 0, budget)
    kind, obj = "pickle", segment.unpickle()
    pickle_bytes = segment.file.tell()
    if obj == MAGIC:
        legacy = _Legacy(segment)
        kind, obj, pickle_bytes = "PyTorch (legacy)", legacy.load(), legacy.pickle_bytes
    return Pickled(kind, obj, pickle_bytes, blob.nbytes - segment.file.tell())


def pickled_in_bytes(data: bytes, budget: Budget) -> Any:
    """The object of a pickle that lies in another one as bytes. Raises SourceError."""
    budget.spend(len(data))  # as often as they are named
    return read_pickle(MemoryBlob(data), budget).content
