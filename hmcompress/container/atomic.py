"""A file that appears whole, under its final name, or not at all."""

import contextlib
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from hmcompress.errors import OutputError

_COPY_BLOCK = 1 << 20
_SEPARATORS = tuple(filter(None, (os.sep, os.altsep)))


def place_of(path: str | os.PathLike) -> Path:
    """Where a file of this name is written: behind a link, which stays (/dev/stdout is one)."""
    path = Path(path)
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def check_output(path: str | os.PathLike, force: bool, sources: Iterable[str | os.PathLike] = ()) -> Path:
    """Say early, before minutes of work, why `path` cannot be written; raises OutputError.

    sources: files that are never replaced.
    """
    name, path = os.fspath(path), Path(path)
    if path.is_dir() or name.endswith(_SEPARATORS):
        shown = name or "''"
        raise OutputError(f"{shown} is a folder: name a file")
    if name == "-":  # what many tools take for standard output
        raise OutputError("- is no file name here: nothing is written to standard output, name a file")
    folder = place_of(path).parent
    if not folder.is_dir():
        raise OutputError(f"{folder} is no folder: make it first, or write elsewhere")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"{folder} is not writable: write elsewhere")
    if path.exists() and not path.is_file():  # a rename would replace it, /dev/null too
        raise OutputError(f"{path} is a device or a pipe: name a file")
    if os.path.lexists(path):  # a link to nothing is replaced no more silently than a file
        if any(_are_same(path, source) for source in sources):
            raise OutputError(f"{path} is the source itself: name another file")
        if not force:
            raise OutputError(f"{path} exists already: replace it with --force, or name another file")
    return path


def _are_same(path: str | os.PathLike, other: str | os.PathLike) -> bool:
    return os.path.exists(path) and os.path.exists(other) and os.path.samefile(path, other)


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, force: bool = False) -> Iterator[BinaryIO]:
    """Open a nameless file in the folder of `path`; it gets its name, flushed to disk, when the block ends well.

    While it is written it has no name (where the file system can do that), so a kill at any moment leaves nothing
    behind. Raises OutputError where it cannot be written, or where `path` exists and `force` is not set.
    """
    path = check_output(path, force)
    place = place_of(path)
    with writing(path), _unnamed(place.parent) as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
        _publish(file, place, force)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the system's errors while writing `path` into OutputError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"{path} cannot be written: {reason}; nothing was left behind") from error


def _unnamed(folder: Path) -> BinaryIO:
    with contextlib.suppress(OSError, AttributeError):  # not every system or file system has nameless files
        return os.fdopen(os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o666), "w+b")
    return tempfile.TemporaryFile(dir=folder)  # type: ignore[return-value]


def _publish(file: BinaryIO, path: Path, force: bool) -> None:
    """Give the nameless file a temporary name beside `path`, then its own."""
    temporary = path.with_name(f".hmcompress.{secrets.token_hex(6)}.tmp")  # a long name may leave no room for more
    try:
        _name(file, temporary)
        if force:
            _keep_owner(temporary, path)
            os.replace(temporary, path)
        else:
            _claim(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _keep_owner(temporary: Path, replaced: Path) -> None:
    """Who may read a file stays the same where it is replaced: its permissions, and its owner as far as we may."""
    try:
        old = replaced.stat()
    except OSError:  # nothing is replaced
        return
    with contextlib.suppress(OSError, AttributeError):  # not every system has owners, and few users may change them
        os.chown(temporary, old.st_uid, old.st_gid)
    temporary.chmod(stat.S_IMODE(old.st_mode))


def _claim(temporary: Path, path: Path) -> None:
    """Rename to a name that is still free, in one step where the file system has hard links."""
    try:
        if not _linked(temporary, path):
            if os.path.lexists(path):
                raise FileExistsError
            os.replace(temporary, path)
    except FileExistsError:
        told = f"{path} appeared meanwhile: replace it with --force, or name another file"
        raise OutputError(told) from None


def _linked(temporary: Path, path: Path) -> bool:
    """Whether a file could be moved by linking, which fails where the name is taken."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except (OSError, NotImplementedError):
        return False
    temporary.unlink()
    return True


def _name(file: BinaryIO, name: Path) -> None:
    try:
        _link(file, name)
    except (OSError, NotImplementedError):  # not every system can name a file, or open a folder
        _copy(file, name)


def _link(file: BinaryIO, name: Path) -> None:
    folder = os.open(name.parent, os.O_RDONLY)
    try:
        # A folder handle makes Python call linkat with AT_SYMLINK_FOLLOW, which this needs.
        os.link(f"/proc/self/fd/{file.fileno()}", name.name, src_dir_fd=folder, dst_dir_fd=folder)
    finally:
        os.close(folder)


def _copy(file: BinaryIO, name: Path) -> None:
    file.seek(0)
    with open(name, "xb") as copy:
        shutil.copyfileobj(file, copy, _COPY_BLOCK)
        copy.flush()
        os.fsync(copy.fileno())


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # some systems cannot sync a folder; the file itself is on disk
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
