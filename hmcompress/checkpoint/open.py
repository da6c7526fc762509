"""Open any saved model: the format is told by the content, never by the name."""

import difflib
import os
import re
import stat
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from hmcompress.checkpoint.archive import Archive
from hmcompress.checkpoint.assemble import Opened, assemble
from hmcompress.checkpoint.blobs import Blob, FileBlob
from hmcompress.checkpoint.exported import is_exported, open_exported
from hmcompress.checkpoint.gzipped import GZIP, gunzipped
from hmcompress.checkpoint.legacy import open_pickle
from hmcompress.checkpoint.numpy_zip import is_npy_of_objects, is_npz, open_npy_of_objects, open_npz
from hmcompress.checkpoint.pytorch_zip import open_pytorch_zip
from hmcompress.checkpoint.records import Checkpoint
from hmcompress.checkpoint.safetensors_file import looks_like_safetensors, open_safetensors
from hmcompress.checkpoint.script_module import is_torchscript
from hmcompress.checkpoint.shards import MAX_INDEX, is_index, open_folder, open_index
from hmcompress.checkpoint.sniff import KERAS, ZIP, foreign_kind, is_text
from hmcompress.checkpoint.torch_package import is_package, open_torch_package
from hmcompress.checkpoint.torchscript import open_torchscript
from hmcompress.checkpoint.wrapped import OpenBlob, is_tar, models_in_zip, open_models, open_tar
from hmcompress.errors import SourceError
from hmcompress.texts import check_name, excerpt

_HEAD = 4096
_ARCHIVES_IN_ARCHIVES = 2
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # Path makes one slash of two

# The first that recognises the archive reads it.
_ARCHIVES: tuple[tuple[Callable[[Archive], bool], Callable[[Archive], Opened]], ...] = (
    (is_torchscript, open_torchscript),
    (is_package, open_torch_package),
    (is_exported, open_exported),
    (lambda archive: "data.pkl" in archive, open_pytorch_zip),
    (is_npz, open_npz),
)


def open_checkpoint(path: str | os.PathLike) -> Checkpoint:
    """Open a saved model without executing anything in it; tensors are read when they are loaded.

    Takes files of torch.save (zip and legacy), TorchScript, torch.package, torch.export, pickles, safetensors, .npz,
    zip and tar files around these, and folders: shards or their index file, torch.distributed.checkpoint. Raises
    SourceError, one line, where it cannot be read.
    """
    check_name(path, SourceError)
    if not os.fspath(path):
        raise SourceError("the name of the model is empty: name a file or a folder")
    source = Path(path)
    shown = excerpt(str(source), 1000)
    try:
        return assemble(_open(source), source)
    except SourceError as error:
        raise SourceError(f"{shown}: {error}") from error
    except OSError as error:
        raise SourceError(f"{shown}: cannot be read ({error.strerror or error})") from error
    except MemoryError as error:
        raise SourceError(f"{shown}: needs more memory to open than there is") from error


def _open(source: Path) -> Opened:
    try:
        mode = source.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        if source.is_symlink():
            raise SourceError(f"is a link to {excerpt(os.readlink(source))}, which does not exist") from None
        raise SourceError(f"no such file{_similar(source)}") from None
    except ValueError:
        raise SourceError("no such file (its name holds a null character)") from None
    if stat.S_ISDIR(mode):
        return open_folder(source, _open_weights)
    if not stat.S_ISREG(mode):
        raise SourceError("is a device or a pipe, not a file; save the model to a file first")
    return _open_file(source)


def _similar(source: Path) -> str:
    if _URL.match(str(source)):
        return ": download it first, an address is not read"
    if str(source) == "-":
        return ": standard input is not read, save the model to a file first"
    try:
        names = [entry.name for entry in source.parent.iterdir()]
    except OSError:
        return f" (there is no folder {source.parent})"
    close = difflib.get_close_matches(source.name, names[:10_000], 1)
    return f"; did you mean {close[0]}?" if close else ""


def _open_file(path: Path) -> Opened:
    """A file of weights, or the index of several; an index names weights only, never another index."""
    head = _head(path)
    if head.lstrip()[:1] == b"{" and is_text(head):
        return _open_json(path, head)
    return _open_weights(path)


def _head(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(_HEAD)


def _open_weights(path: Path) -> Opened:
    return _open_blob(path, FileBlob(path))


def _open_blob(path: Path, blob: Blob, depth: int = 0) -> Opened:
    """The model whose bytes are `blob`: all of the file `path`, or an entry of it."""
    if not blob.nbytes:
        raise SourceError("is an empty file; save or download it again")
    if depth > _ARCHIVES_IN_ARCHIVES:
        raise SourceError("lies in archives in archives; unpack these first")
    head = blob.read(0, min(blob.nbytes, _HEAD)).numpy().tobytes()
    if head.startswith(ZIP):
        return _open_archive(Archive(path, blob), partial(_open_blob, depth=depth + 1))
    if is_tar(head):
        return open_tar(path, blob, partial(_open_blob, depth=depth + 1))
    if looks_like_safetensors(head, blob.nbytes):  # first: the length of its header may be any two bytes
        return open_safetensors(path, blob)
    if head.startswith(GZIP):
        opened = _open_blob(path, gunzipped(blob), depth + 1)
        return replace(opened, kind=f"gzip of {opened.kind}")
    if is_npy_of_objects(head):
        return open_npy_of_objects(path, blob)
    if (foreign := foreign_kind(head)) is not None:
        raise SourceError(foreign)
    return _open_pickle(path, blob, head)


def _open_archive(archive: Archive, open_blob: OpenBlob) -> Opened:
    for recognises, read in _ARCHIVES:
        if recognises(archive):
            return read(archive)
    if any(name.endswith(".weights.h5") for name in archive.names):
        raise SourceError(f"is a Keras model, not a PyTorch model; {KERAS}")
    if models := models_in_zip(archive):
        return open_models("zip", models, archive.names, archive.path, open_blob)
    raise SourceError("is a zip archive, but none that torch.save writes (there is no data.pkl in it)")


def _open_json(path: Path, head: bytes) -> Opened:
    if is_index(head if path.stat().st_size > MAX_INDEX else path.read_bytes()):
        return open_index(path, _open_weights)
    raise SourceError(
        f"is a JSON file, no index of shards (it begins {_beginning(head)}); name the weights file instead"
    )


def _beginning(head: bytes) -> str:
    """The first words of a text, often the answer of a server in place of the model."""
    return f"'{excerpt(' '.join(head[:200].decode(errors='ignore').split()), 40)}'"


def _open_pickle(path: Path, blob: Blob, head: bytes) -> Opened:
    """A pickle has no magic number; text that is no pickle is told as text."""
    try:
        return open_pickle(path, blob)
    except SourceError as error:
        if head[:1] == b"\x80" or "no tensors" in str(error):
            raise
        kind = "is no saved PyTorch model, or a damaged one"
        if is_text(head):
            kind = f"is a text file, not a saved model (it begins {_beginning(head)})"
        raise SourceError(f"{kind}; name a .pt, .pth, .ckpt, .bin or .safetensors file") from error
