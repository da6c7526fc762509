"""From an opened source to the Checkpoint: names, entries, ties, skeleton, and what was left behind."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from hmcompress.checkpoint.lazy import LazyTensor
from hmcompress.checkpoint.limits import check_expansion
from hmcompress.checkpoint.nest import flatten
from hmcompress.checkpoint.plain import Notes, Plainer
from hmcompress.checkpoint.records import Checkpoint, TensorEntry, state_of
from hmcompress.checkpoint.standins import NumpyArray
from hmcompress.checkpoint.ties import find_ties
from hmcompress.errors import SourceError
from hmcompress.texts import excerpt

_CHUNK = 1 << 18  # bytes that are hashed while they are in the cache
_TOLD = 2  # notes in a message; those on single values, which say more, come last


@dataclass(frozen=True)
class Opened:
    """What a reader of one format hands over: named tensors in order, skeleton, notes, the files it read, metadata.

    `content` is what tensors and skeleton were taken from: nested dicts and lists of tensors and plain values.
    """

    kind: str
    tensors: Mapping[str, LazyTensor]
    files: tuple[Path, ...]
    nest: Any | None = None
    notes: Notes = field(default_factory=Notes)
    metadata: dict[str, str] = field(default_factory=dict)
    content: Any = None


def opened_object(kind: str, obj: Any, pickle_bytes: int, path: Path, notes: Notes | None = None) -> Opened:
    """An unpickled object as Opened. Raises SourceError where it holds no tensors or cannot be named."""
    notes = notes or Notes()
    return opened_content(kind, Plainer(pickle_bytes, notes).plain(obj), (path,), notes)


def opened_content(kind: str, content: Any, files: tuple[Path, ...], notes: Notes) -> Opened:
    """Tensors among plain values as Opened. Raises SourceError where there are none or they cannot be named."""
    flat = flatten(content)
    tensors = {name: leaf.tensor if isinstance(leaf, NumpyArray) else leaf for name, leaf in flat.leaves.items()}
    if not tensors:
        raise SourceError(_no_tensors(notes.lines()))
    if len(tensors) > 1 and all(tensor.shape == (0,) for tensor in tensors.values()):
        raise SourceError("holds empty tensors only; of DeepSpeed's ZeRO-3, join them first with its zero_to_fp32.py")
    return Opened(kind, tensors, files, flat.nest, notes, content=content)


def _no_tensors(lines: tuple[str, ...]) -> str:
    """The message for an object without tensors; what was left behind tells why."""
    if not lines:
        return "holds no tensors: nothing to compress"
    return f"holds no tensors that can be read ({excerpt('; '.join(lines[-_TOLD:]), 300)})"


def assemble(opened: Opened, path: Path) -> Checkpoint:
    """The Checkpoint of an opened source. Raises SourceError."""
    ties, apart = find_ties(opened.tensors)
    for name in apart:
        opened.notes.add(name, "shares memory with another tensor but is no view of it, stored apart")
    state = state_of(opened.files)
    size = sum(nbytes for nbytes, _ in state)
    check_expansion((tensor.nbytes for name, tensor in opened.tensors.items() if name not in ties), size)
    for name in ties:
        check_expansion((opened.tensors[name].nbytes,), size)
    return Checkpoint(
        path=path,
        kind=opened.kind,
        source_bytes=size,
        hash_source=partial(digest_of, opened.files),
        names=tuple(opened.tensors),
        entries={name: _entry(path, name, tensor) for name, tensor in opened.tensors.items() if name not in ties},
        ties=dict(ties),
        nest=opened.nest,
        left_behind=opened.notes.lines(),
        metadata=opened.metadata,
        files=opened.files,
        state=state,
    )


def _entry(path: Path, name: str, tensor: LazyTensor) -> TensorEntry:
    load = partial(_load, path, name, tensor)
    return TensorEntry(name, tensor.shape, tensor.dtype, tensor.nbytes, load, partial(_glance, tensor))


def _glance(tensor: LazyTensor, count: int) -> torch.Tensor | None:
    try:
        return tensor.glance(count)
    except SourceError:  # said where the tensor is loaded
        return None


def _load(path: Path, name: str, tensor: LazyTensor) -> torch.Tensor:
    try:
        return tensor.load()
    except SourceError as error:
        raise SourceError(f"{excerpt(str(path), 1000)}: tensor '{excerpt(name)}': {error}") from error


def digest_of(files: tuple[Path, ...]) -> str:
    """The sha256 of a file's bytes; of several files, of each one's name, size and bytes in turn."""
    digest, buffer = hashlib.sha256(), memoryview(bytearray(_CHUNK))
    for file in files:
        if len(files) > 1:
            digest.update(f"{file.name}\0{file.stat().st_size}\0".encode("utf-8", "surrogateescape"))
        with open(file, "rb", buffering=0) as stream:
            while count := stream.readinto(buffer):
                digest.update(buffer[:count])
    return f"sha256:{digest.hexdigest()}"
