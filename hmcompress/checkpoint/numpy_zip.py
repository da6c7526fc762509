"""numpy's .npz archives, one .npy entry per array, and .npy files of objects, in which dicts of arrays were shared."""

import ast
import io
import struct
from pathlib import Path
from typing import Any

from hmcompress.checkpoint.archive import Archive
from hmcompress.checkpoint.assemble import Opened, opened_object
from hmcompress.checkpoint.blobs import Blob
from hmcompress.checkpoint.known_globals import find_global
from hmcompress.checkpoint.lazy import checked_shape
from hmcompress.checkpoint.machine import Machine, Stream
from hmcompress.checkpoint.numpy_values import TORCH_DTYPES, ArrayInPickle, DtypeInPickle, array_of, numbers_at
from hmcompress.checkpoint.standins import Converted, LeftBehind, NumpyArray
from hmcompress.errors import SourceError

_MAX_HEADER = 10_000
_BEGINNING = 128
_MAGIC = b"\x93NUMPY"


def is_npz(archive: Archive) -> bool:
    """Whether all entries are .npy files."""
    return bool(archive.names) and all(name.endswith(".npy") for name in archive.names)


def open_npz(archive: Archive) -> Opened:
    """The arrays of an .npz archive by name. Raises SourceError."""
    arrays = {name.removesuffix(".npy"): _array(archive.blob(name)) for name in archive.names}
    return opened_object("numpy archive", arrays, archive.nbytes, archive.path)


def is_npy_of_objects(head: bytes) -> bool:
    """Whether a file begins as an array of objects; one of numbers is no model."""
    return head.startswith(_MAGIC) and b"'descr': '|O'" in head[:_BEGINNING]


def open_npy_of_objects(path: Path, blob: Blob) -> Opened:
    """The object of an array that is one, or the list of several. Raises SourceError."""
    start, header = _header(blob)
    found = _objects(_content(blob, start))
    content = found.content if isinstance(found, ArrayInPickle) else found
    alone = header.get("shape") == () and isinstance(content, Converted) and isinstance(content.value, list)
    return opened_object("numpy array", content.value[0] if alone and content.value else found, blob.nbytes, path)


def _array(blob: Blob) -> Any:
    start, header = _header(blob)
    dtype = DtypeInPickle(header.get("descr"))
    if dtype.code[:1] == "U":
        return array_of(_content(blob, start), dtype, header.get("shape"))  # of texts, which are few
    if dtype.code == "O":
        return _objects(_content(blob, start))
    if dtype.code not in TORCH_DTYPES:
        return LeftBehind(f"a numpy array of type {dtype}")
    shape, fortran = checked_shape(header.get("shape")), bool(header.get("fortran_order"))
    return NumpyArray(numbers_at(blob, start, dtype, shape, fortran))


def _content(blob: Blob, start: int) -> bytes:
    return blob.read(start, blob.nbytes - start).numpy().tobytes()


def _objects(pickle: bytes) -> Any:
    """An array of objects, which numpy pickles. Raises SourceError."""
    return Machine(Stream(io.BytesIO(pickle), len(pickle)), find_global).load()


def _header(blob: Blob) -> tuple[int, dict]:
    head = blob.read(0, min(blob.nbytes, _MAX_HEADER)).numpy().tobytes()
    try:
        if head[:6] != _MAGIC:
            raise ValueError("no magic")
        form, start = ("<H", 10) if head[6] == 1 else ("<I", 12)
        length = struct.unpack(form, head[8:start])[0]
        if start + length > len(head):
            raise ValueError("header too long")
        header = ast.literal_eval(head[start : start + length].decode("latin-1").strip())
    except (ValueError, SyntaxError, IndexError, struct.error, RecursionError, MemoryError) as error:
        raise SourceError("damaged: an array's header cannot be read") from error
    if not isinstance(header, dict):
        raise SourceError("damaged: an array's header cannot be read")
    return start + length, header
