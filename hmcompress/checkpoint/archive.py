"""Zip archives as torch writes them, read without trusting their tables."""

import struct
import zipfile
import zlib
from pathlib import Path

from hmcompress.checkpoint.blobs import Blob, DeflatedBlob, RangeBlob, stream_of
from hmcompress.checkpoint.limits import check_expansion
from hmcompress.errors import SourceError
from hmcompress.texts import excerpt

_LOCAL_HEADER = struct.Struct("<4s22xHH")
# What zipfile raises on damaged archives.
_FAULTS = (
    zipfile.BadZipFile, zlib.error, struct.error, ValueError, RuntimeError, EOFError, IndexError, OverflowError,
)  # fmt: skip
_SEVERAL = (
    "holds several archives one behind the other; give each a file of its own "
    "(a .distcp file is a part of its folder: name that)"
)
_END = struct.Struct("<4s52x4s4xQ26x")  # the end record of 64 bits, its locator with the record's place, the old record


class Archive:
    """The entries of a zip file by name, below the one folder that torch puts them in.

    It lies in `blob`: the whole file of `path`, an entry of an archive around it, or bytes inside a pickle.
    """

    def __init__(self, path: Path, blob: Blob) -> None:
        self.path, self._blob, self.nbytes = path, blob, blob.nbytes
        try:
            with stream_of(blob) as file, zipfile.ZipFile(file) as archive:
                infos = archive.infolist()
        except _FAULTS as error:
            if _is_moved(blob):  # newer versions of zipfile call two archives of one length damaged
                raise SourceError(_SEVERAL) from error
            raise SourceError(
                f"truncated or damaged zip archive ({excerpt(str(error))}); copy or download it again"
            ) from error
        if infos and min(info.header_offset for info in infos) > 0:
            raise SourceError(_SEVERAL)
        check_expansion((info.file_size for info in infos), self.nbytes)  # entries may lie on the same bytes
        self._infos = {info.filename: info for info in infos}
        if len(self._infos) != len(infos):
            raise SourceError("damaged: its zip archive has two entries of one name")
        self.root = self._common_root()

    def _common_root(self) -> str:
        folders = [name for name in self._infos if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(folders) == 1:
            return folders[0].removesuffix("data.pkl")
        heads = {name.partition("/")[0] for name in self._infos if "/" in name}
        bare = [name for name in self._infos if "/" not in name]
        return f"{heads.pop()}/" if len(heads) == 1 and not bare else ""

    @property
    def names(self) -> list[str]:
        """Names of all entries, without the root folder."""
        return [name.removeprefix(self.root) for name in self._infos]

    def __contains__(self, name: str) -> bool:
        return self.root + name in self._infos

    def stored_bytes(self, name: str) -> int:
        """Bytes that an entry takes in the file, as its table says."""
        return self._infos[self.root + name].compress_size

    def blob(self, name: str) -> Blob:
        """An entry's bytes, unread. Raises SourceError where it is missing or its tables are wrong."""
        info = self._infos.get(self.root + name)
        if info is None:
            raise SourceError(f"damaged: its archive has no entry '{name[:100]}'")
        if info.flag_bits & 1:
            raise SourceError("its archive is encrypted; unpack and save it again")
        if info.compress_type == zipfile.ZIP_STORED:
            if info.file_size != info.compress_size:
                raise SourceError("damaged zip archive (an entry has two sizes)")
            return self._bytes_of(info, info.CRC or None)  # torch can leave checksums out as 0
        if info.compress_type != zipfile.ZIP_DEFLATED:
            raise SourceError("its archive is compressed in an unusual way; repack it with plain zip, or save it again")
        return DeflatedBlob(self._bytes_of(info, None), info.file_size, info.CRC)

    def _bytes_of(self, info: zipfile.ZipInfo, crc: int | None) -> RangeBlob:
        """The range of the file that an entry fills. Raises SourceError."""
        inside = 0 <= info.header_offset <= self.nbytes - _LOCAL_HEADER.size
        header = self._blob.read(info.header_offset, _LOCAL_HEADER.size).numpy().tobytes() if inside else b""
        if header[:4] != b"PK\3\4":
            raise SourceError("truncated or damaged zip archive (an entry is not where its table says)")
        start = info.header_offset + _LOCAL_HEADER.size + sum(_LOCAL_HEADER.unpack(header)[1:])
        if start + info.compress_size > self.nbytes:
            raise SourceError("truncated or damaged zip archive (an entry reaches beyond the end of the file)")
        return RangeBlob(self._blob, start, info.compress_size, crc)

    def read(self, name: str) -> bytes:
        """A small entry's bytes: a pickle, a marker, a source text. Raises SourceError."""
        blob = self.blob(name)
        return blob.read(0, blob.nbytes).numpy().tobytes()


def _is_moved(blob: Blob) -> bool:
    """Whether an archive lies behind other bytes: its end record is not where the archive itself says."""
    start = blob.nbytes - _END.size
    if start < 0:
        return False
    record, locator, place = _END.unpack(blob.read(start, _END.size).numpy().tobytes())
    return record == b"PK\6\6" and locator == b"PK\6\7" and place < start
