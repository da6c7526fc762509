"""Files that gzip has compressed, expanded to a nameless temporary file: `.nemo` of older releases, `model.tar.gz`."""

import mmap
import tempfile
import zlib
from collections.abc import Iterator

from hmcompress.checkpoint.blobs import Blob, MemoryBlob
from hmcompress.checkpoint.limits import check_expansion
from hmcompress.errors import SourceError

GZIP = b"\x1f\x8b"
_CHUNK = 1 << 20
_WINDOW = zlib.MAX_WBITS + 16  # zlib's way to say gzip


def gunzipped(blob: Blob) -> Blob:
    """What a gzip file expands to. Raises SourceError where it is damaged, or far larger than the file."""
    size = 0
    try:
        with tempfile.TemporaryFile() as file:
            for chunk in _expanded(blob):
                size += len(chunk)
                check_expansion((size,), blob.nbytes)
                file.write(chunk)
            file.flush()
            return MemoryBlob(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b"")
    except zlib.error as error:
        raise SourceError("truncated or damaged: it cannot be expanded by gunzip; copy or download it again") from error
    except OSError as error:
        told = f"cannot be expanded to a temporary file ({error.strerror or error}); unpack it first (gunzip)"
        raise SourceError(told) from error


def _expanded(blob: Blob) -> Iterator[bytes]:
    """The members of a gzip file one behind the other, in pieces. Raises zlib.error."""
    expander = zlib.decompressobj(_WINDOW)
    for start in range(0, blob.nbytes, _CHUNK):
        left = blob.read(start, min(_CHUNK, blob.nbytes - start)).numpy().tobytes()
        while left:
            if expander.eof:
                if not left.strip(b"\0"):  # as tape drives fill up
                    break
                expander = zlib.decompressobj(_WINDOW)
            yield expander.decompress(left, _CHUNK)
            left = expander.unused_data if expander.eof else expander.unconsumed_tail
    if not expander.eof:
        raise zlib.error("ends too early")
