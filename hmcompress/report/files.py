"""Write a rendered report: whole, by rename, or not at all."""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from hmcompress.errors import OutputError

_PAGES = (b"<!doctype html", b"<?xml", b"<svg", b"\x89png", b"%pdf", b"%!ps", b"%% creator", b"\xff\xd8\xff", b"riff",
          b"\x1f\x8b", b"ii*\0", b"mm\0*")  # fmt: skip
_START = max(map(len, _PAGES))

Name = str | os.PathLike[str]


def check_page(path: Name, models: Iterable[Name] = ()) -> Path:
    """Say early, before minutes of work, why a report cannot be written here.

    `models` must not be overwritten, nor anything else that is no page or picture. Raises OutputError.
    """
    if os.fspath(path) == "-":  # what many tools take for standard output
        raise OutputError("- is no file name here: name a file, or /dev/stdout")
    path = Path(path)
    if not path.parent.is_dir():
        raise OutputError(f"{path}: the folder {path.parent} does not exist")
    if path.is_dir():
        raise OutputError(f"{path}: is a folder, a file name was expected")
    if os.path.realpath(path) in map(os.path.realpath, models):
        raise OutputError(f"{path}: is the model itself, name another file")
    if path.is_file() and not _is_page(path):
        raise OutputError(f"{path}: is no page or picture that could be replaced, name another file")
    if not os.access(Path(os.path.realpath(path)).parent, os.W_OK) and not _is_device(path):
        raise OutputError(f"{path} cannot be written: its folder is not writable")
    return path


def check_apart(*paths: Name | None) -> None:
    """Raise OutputError where one file is to be written twice."""
    named = [path for path in paths if path is not None]
    places = list(map(os.path.realpath, named))
    for path, place in zip(named, places, strict=True):
        if places.count(place) > 1:
            raise OutputError(f"{path} is named twice: give each output a file of its own")


def write_page(path: Name, content: str | bytes) -> None:
    """Replace `path` by this text in UTF-8, or these bytes; a device or a pipe is written to.

    Raises OutputError where it cannot be written.
    """
    path = check_page(path)
    data = content if isinstance(content, bytes) else content.encode("utf-8", "replace")
    try:
        if _is_device(path):
            with contextlib.suppress(BrokenPipeError):  # the reader has seen enough
                path.write_bytes(data)
        else:
            from hmcompress.container.atomic import atomic_write  # here: what is written was found with it loaded

            with atomic_write(path, force=True) as file:
                file.write(data)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error


def _is_page(path: Path) -> bool:
    with open(path, "rb") as file:
        start = file.read(_START)
    return not start or start.lower().startswith(_PAGES)


def _is_device(path: Path) -> bool:
    return path.exists() and not path.is_file()
