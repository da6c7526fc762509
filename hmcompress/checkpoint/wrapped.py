"""Archives around saved models, zip and tar: NeMo's .nemo, PhysicsNeMo's .mdlus, agents of stable-baselines3.

Entries are ranges of the file: none is unpacked to the disk.
"""

import tarfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hmcompress.checkpoint.archive import Archive
from hmcompress.checkpoint.assemble import Opened, opened_content
from hmcompress.checkpoint.blobs import Blob, RangeBlob, stream_of
from hmcompress.checkpoint.plain import Notes
from hmcompress.errors import SourceError
from hmcompress.texts import excerpt

TAR = (b"ustar", 257)  # these bytes, and where in a tar file they stand
_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".pth.tar")
_BEFORE_2017 = {"sys_info", "pickle", "storages", "tensors"}  # the tar files of torch.save
_MOST = 256  # models in an archive
_TOLD = 4  # names in a message
_FAULTS = (tarfile.TarError, ValueError, EOFError, OverflowError, RecursionError, LookupError)

OpenBlob = Callable[[Path, Blob], Opened]


def is_tar(head: bytes) -> bool:
    """Whether a file's beginning is that of a tar file."""
    mark, at = TAR
    return head[at : at + len(mark)] == mark


def models_in_zip(archive: Archive) -> dict[str, Blob]:
    """The entries of a zip archive that are saved models by their names. Raises SourceError."""
    return {name: archive.blob(name) for name in archive.names if _is_model(name)}


def open_tar(path: Path, blob: Blob, open_blob: OpenBlob) -> Opened:
    """The models in a tar file. Raises SourceError."""
    entries = _tar_entries(blob)
    if set(entries) >= _BEFORE_2017:
        raise SourceError("is a tar file of torch.save before 2017; load it with torch and save it again (torch.save)")
    models = {name: entry for name, entry in entries.items() if _is_model(name)}
    if not models:
        raise SourceError(f"is a tar file without a saved model ({_told(list(entries)) or 'nothing'} in it)")
    return open_models("tar", models, list(entries), path, open_blob)


def _tar_entries(blob: Blob) -> dict[str, Blob]:
    """The files in a tar file by name. Raises SourceError."""
    found: dict[str, Blob] = {}
    try:
        with stream_of(blob) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                name = member.name.removeprefix("./")
                if not member.isfile() or member.issparse():
                    continue
                if name in found:
                    raise SourceError(f"damaged: its tar file has two entries {excerpt(name)}")
                if member.size < 0 or member.offset_data + member.size > blob.nbytes:
                    raise SourceError("truncated: an entry of its tar file reaches beyond its end")
                found[name] = RangeBlob(blob, member.offset_data, member.size)
    except _FAULTS as error:
        told = f"truncated or damaged tar file ({excerpt(str(error))})"
        raise SourceError(f"{told}; copy or download it again") from error
    return found


def _is_model(name: str) -> bool:
    """By its name; not the shadows that macOS puts beside files."""
    last = name.rpartition("/")[2]
    return last.lower().endswith(_SUFFIXES) and not last.startswith("._")


def open_models(kind: str, models: Mapping[str, Blob], names: list[str], path: Path, open_blob: OpenBlob) -> Opened:
    """The models in an archive with entries `names`: one as it is, several as a dict by entry. Raises SourceError."""
    if len(models) > _MOST:
        raise SourceError(f"is a {kind} file of {len(models):,} models; unpack it and name one of them")
    opened: dict[str, Opened] = {}
    failed: dict[str, SourceError] = {}
    for name, blob in models.items():
        try:
            opened[name] = open_blob(path, blob)
        except SourceError as error:
            failed[name] = error
    if not opened:
        name = next(iter(failed))
        raise SourceError(f"{excerpt(name)} in this {kind} file: {failed[name]}")
    notes = Notes()
    for name, why in failed.items():
        notes.add(name, f"an entry of the {kind} file that was not read: it {why}")
    if others := [name for name in names if name not in models]:
        notes.add("", f"entries of the {kind} file that are no models ({_told(others)}); keep it for these")
    return _joined(kind, opened, path, notes)


def _joined(kind: str, opened: dict[str, Opened], path: Path, notes: Notes) -> Opened:
    """Several models as one; the name of an entry without its suffix is the key of its model."""
    told = f"{kind} of {', '.join(dict.fromkeys(model.kind for model in opened.values()))}"
    if len(opened) == 1:
        model = next(iter(opened.values()))
        model.notes.extend(notes)
        return replace(model, kind=told)
    content: dict[str, Any] = {}
    for name, model in opened.items():
        key = _key(name, opened)
        content[key] = model.content
        notes.extend(model.notes, key)
        if model.metadata:
            notes.add(key, "the texts of its safetensors header")
    return opened_content(told, content, (path,), notes)


def _key(name: str, names: Mapping[str, Any]) -> str:
    """An entry's name without its suffix where that is enough to tell it from the others."""
    stems = [_stem(other) for other in names]
    return _stem(name) if stems.count(_stem(name)) == 1 else name


def _stem(name: str) -> str:
    return name[: -len(next(suffix for suffix in reversed(_SUFFIXES) if name.lower().endswith(suffix)))]


def _told(names: list[str]) -> str:
    more = f" and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
    return ", ".join(excerpt(name) for name in names[:_TOLD]) + more
