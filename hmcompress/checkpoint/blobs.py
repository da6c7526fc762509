"""Ranges of bytes that are read when they are needed and not before."""

import struct
import zipfile
import zlib
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from hmcompress.errors import SourceError

_CHUNK = 1 << 22
# What zipfile raises on damaged archives.
ZIP_FAULTS = (
    zipfile.BadZipFile, zlib.error, struct.error, ValueError, RuntimeError, EOFError, IndexError, OverflowError,
)  # fmt: skip


class Blob(Protocol):
    """Bytes of known number. `read` raises SourceError where they cannot be had."""

    @property
    def nbytes(self) -> int: ...

    def read(self, start: int, count: int) -> torch.Tensor:
        """Bytes start to start + count as a new uint8 tensor."""
        ...


class MemoryBlob:
    """Bytes that a pickle carried inline."""

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._data = data
        self.nbytes = len(data)

    def read(self, start: int, count: int) -> torch.Tensor:
        return torch.from_numpy(np.frombuffer(self._data, np.uint8, count, start).copy())


class FileBlob:
    """A range of a file; the file is opened for each read, so that thousands of shards need no handles."""

    def __init__(self, path: Path, start: int, nbytes: int, crc: int | None = None) -> None:
        self._path, self._start, self.nbytes = path, start, nbytes
        self._unchecked_crc = crc

    def read(self, start: int, count: int) -> torch.Tensor:
        out = torch.empty(count, dtype=torch.uint8)
        try:
            with open(self._path, "rb", buffering=0) as file:
                file.seek(self._start + start)
                _fill(file, out)
                self._check_crc(file, out)
        except OSError as error:
            raise SourceError(f"cannot be read any more ({error.strerror or error})") from error
        return out

    def _check_crc(self, file, read: torch.Tensor) -> None:
        """Once per blob: the whole range against the checksum of the archive."""
        if self._unchecked_crc is None:
            return
        if len(read) == self.nbytes:
            crc = zlib.crc32(read.numpy().data)
        else:
            crc, left = 0, self.nbytes
            file.seek(self._start)
            while left > 0 and (chunk := file.read(min(left, _CHUNK))):
                crc, left = zlib.crc32(chunk, crc), left - len(chunk)
        if crc != self._unchecked_crc:
            raise SourceError("damaged: a checksum of the archive does not match its data; copy or download it again")
        self._unchecked_crc = None


def _fill(file, out: torch.Tensor) -> None:
    view = out.numpy().data
    while len(view):
        count = file.readinto(view[: 1 << 30])
        if not count:
            raise SourceError("is shorter than it was when it was opened")
        view = view[count:]


class DeflatedBlob:
    """A compressed entry of a zip archive, as repacking tools make them; expanded anew for each read."""

    def __init__(self, path: Path, info: zipfile.ZipInfo) -> None:
        self._path, self._info = path, info
        self.nbytes = info.file_size

    def read(self, start: int, count: int) -> torch.Tensor:
        out = torch.empty(count, dtype=torch.uint8)
        try:
            with zipfile.ZipFile(self._path) as archive, archive.open(self._info) as file:
                _skip(file, start)
                _fill(file, out)
                _skip(file, self.nbytes - start - count)
                file.read(1)  # at the end of the entry its checksum is compared
        except (OSError, *ZIP_FAULTS) as error:
            raise SourceError(
                f"damaged: an entry of its archive cannot be expanded ({type(error).__name__})"
            ) from error
        return out


def _skip(file, count: int) -> None:
    while count > 0 and (chunk := file.read(min(count, _CHUNK))):
        count -= len(chunk)
