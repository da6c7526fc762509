"""Ranges of bytes that are read when they are needed and not before."""

import io
import mmap
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from hmcompress.errors import SourceError

_CHUNK = 1 << 22
_BUFFER = 1 << 16


class Blob(Protocol):
    """Bytes of known number. `read` raises SourceError where they cannot be had."""

    @property
    def nbytes(self) -> int: ...

    def read(self, start: int, count: int) -> torch.Tensor:
        """Bytes start to start + count as a new uint8 tensor."""
        ...

    def glance(self, start: int, count: int) -> torch.Tensor | None:
        """The same without a check of them, or None where that would take as long as to read all."""
        ...


class MemoryBlob:
    """Bytes that a pickle carried inline, or that were expanded."""

    def __init__(self, data: bytes | bytearray | memoryview | mmap.mmap) -> None:
        self._data = data
        self.nbytes = len(data)

    def read(self, start: int, count: int) -> torch.Tensor:
        return torch.from_numpy(np.frombuffer(self._data, np.uint8, count, start).copy())

    def glance(self, start: int, count: int) -> torch.Tensor | None:
        return self.read(start, count)


class FileBlob:
    """A file, opened for each read, so that thousands of shards need no handles."""

    def __init__(self, path: Path) -> None:
        self._path, self.nbytes = path, path.stat().st_size

    def read(self, start: int, count: int) -> torch.Tensor:
        out = torch.empty(count, dtype=torch.uint8)
        try:
            with open(self._path, "rb", buffering=0) as file:
                file.seek(start)
                _fill(file, out)
        except OSError as error:
            raise SourceError(f"cannot be read any more ({error.strerror or error})") from error
        return out

    def glance(self, start: int, count: int) -> torch.Tensor | None:
        return self.read(start, count)


class RangeBlob:
    """A range of another blob, an entry of an archive for one; its first read compares it with the checksum."""

    def __init__(self, blob: Blob, start: int, nbytes: int, crc: int | None = None) -> None:
        self._blob, self._start, self.nbytes = blob, start, nbytes
        self._unchecked_crc = crc

    def read(self, start: int, count: int) -> torch.Tensor:
        out = self._blob.read(self._start + start, count)
        if self._unchecked_crc is not None:
            self._check_crc(out)
        return out

    def glance(self, start: int, count: int) -> torch.Tensor | None:
        return self._blob.glance(self._start + start, count)

    def _check_crc(self, read: torch.Tensor) -> None:
        """Once per blob: the whole range against the checksum of the archive."""
        if len(read) == self.nbytes:
            crc = zlib.crc32(read.numpy().data)
        else:
            crc = 0
            for start in range(0, self.nbytes, _CHUNK):
                chunk = self._blob.read(self._start + start, min(_CHUNK, self.nbytes - start))
                crc = zlib.crc32(chunk.numpy().data, crc)
        if crc != self._unchecked_crc:
            raise SourceError("damaged: a checksum of the archive does not match its data; copy or download it again")
        self._unchecked_crc = None


class BlobFile(io.RawIOBase):
    """A blob as a file that is read and sought in."""

    def __init__(self, blob: Blob) -> None:
        self._blob, self._position = blob, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._blob.nbytes}[whence]
        if start + offset < 0:
            raise ValueError("a position before the beginning")
        self._position = start + offset
        return self._position

    def readinto(self, buffer) -> int:
        count = max(0, min(len(buffer), self._blob.nbytes - self._position, _CHUNK))
        if count:
            buffer[:count] = self._blob.read(self._position, count).numpy().data
            self._position += count
        return count


def stream_of(blob: Blob) -> io.BufferedReader:
    """A blob as a buffered file."""
    return io.BufferedReader(BlobFile(blob), _BUFFER)


def _fill(file, out: torch.Tensor) -> None:
    view = out.numpy().data
    while len(view):
        count = file.readinto(view[: 1 << 30])
        if not count:
            raise SourceError("is shorter than it was when it was opened")
        view = view[count:]


class DeflatedBlob:
    """A compressed entry of a zip archive, as repacking tools make them.

    Read whole it is expanded in memory. Many tensors may lie in one: the first read of a part expands it to a nameless
    temporary file, from which all parts come.
    """

    def __init__(self, packed: Blob, nbytes: int, crc: int) -> None:
        self._packed, self._crc = packed, crc
        self.nbytes = nbytes
        self._whole: mmap.mmap | None = None

    def read(self, start: int, count: int) -> torch.Tensor:
        out = torch.empty(count, dtype=torch.uint8)
        if count < self.nbytes:
            self._whole = self._whole or self._spooled()
            out.numpy()[:] = np.frombuffer(self._whole, np.uint8, count, start)
            return out
        target, position = out.numpy(), 0
        for chunk in self._checked():
            target[position : position + len(chunk)] = np.frombuffer(chunk, np.uint8)
            position += len(chunk)
        return out

    def glance(self, start: int, count: int) -> torch.Tensor | None:
        return None

    def _spooled(self) -> mmap.mmap:
        try:
            with tempfile.TemporaryFile() as file:
                file.writelines(self._checked())
                file.flush()
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            told = f"cannot be expanded to a temporary file ({error.strerror or error}); save it again uncompressed"
            raise SourceError(told) from error

    def _checked(self) -> Iterator[bytes]:
        """The bytes, never more than the table says. Raises SourceError where they are others than it says."""
        position, crc = 0, 0
        try:
            for chunk in self._expanded():
                position, crc = position + len(chunk), zlib.crc32(chunk, crc)
                if position > self.nbytes:
                    break
                yield chunk
        except zlib.error as error:
            raise SourceError("damaged: an entry of its archive cannot be expanded") from error
        if position != self.nbytes or (self._crc and crc != self._crc):
            raise SourceError("damaged: an entry of its archive does not expand to what its table says")

    def _expanded(self) -> Iterator[bytes]:
        expander = zlib.decompressobj(-zlib.MAX_WBITS)
        for start in range(0, self._packed.nbytes, _CHUNK):
            left = self._packed.read(start, min(_CHUNK, self._packed.nbytes - start)).numpy().tobytes()
            while left and not expander.eof:
                yield expander.decompress(left, _CHUNK)
                left = expander.unconsumed_tail
        yield expander.flush()
