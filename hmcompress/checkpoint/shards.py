"""Folders and index files: one model in several safetensors or PyTorch files, read tensor by tensor."""

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from hmcompress.checkpoint.assemble import Opened
from hmcompress.checkpoint.distributed import SUFFIX, open_distributed
from hmcompress.checkpoint.lazy import LazyTensor
from hmcompress.checkpoint.plain import Notes
from hmcompress.errors import SourceError
from hmcompress.texts import excerpt

MAX_INDEX = 1 << 28
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
_NUMBERED = re.compile(r"-\d{1,9}-of-(\d{1,9})$")  # model-00001-of-00003
_OURS = ".hmc.safetensors"  # our own output beside the source
_PARTITION = "_optim_states.pt"
_SINGLE = ("model.safetensors", "pytorch_model.bin")

OpenFile = Callable[[Path], Opened]


def open_folder(folder: Path, open_file: OpenFile) -> Opened:
    """The model in a folder: by its index, or its only weights file, or numbered shards. Raises SourceError."""
    files = sorted(entry for entry in folder.iterdir() if entry.is_file())
    opened = _opened(folder, files, open_file)
    others = [file.name for file in files if file not in opened.files]
    others += [f"{inner.name}/" for inner in _with_weights(folder)]
    if others:
        shown = ", ".join(map(excerpt, others[:4])) + (f" and {len(others) - 4} more" if len(others) > 4 else "")
        opened.notes.add("(folder)", f"files that were not read as weights of this model ({shown})")
    return opened


def _opened(folder: Path, files: list[Path], open_file: OpenFile) -> Opened:
    if any(file.suffix == SUFFIX for file in files):
        return open_distributed(folder)
    index = _index_in(files)
    return open_index(index, open_file) if index else _without_index(folder, files, open_file)


def _index_in(files: list[Path]) -> Path | None:
    named = {file.name: file for file in files}
    for name in _INDEXES:
        if name in named:
            return named[name]
    found = [file for file in files if file.name.endswith(".index.json")]
    if len(found) > 1:
        raise SourceError(f"has several index files; name one of them: {_names(found)}")
    return found[0] if found else None


def _without_index(folder: Path, files: list[Path], open_file: OpenFile) -> Opened:
    weights = [file for file in files if file.suffix in _SUFFIXES and not file.name.endswith(_OURS)]
    if any(file.name.endswith(_PARTITION) for file in files):
        raise SourceError(
            "is a part of a DeepSpeed checkpoint, whose weights are spread over processes; join them first: python "
            "zero_to_fp32.py FOLDER OUTPUT, with the zero_to_fp32.py and the FOLDER around this one"
        )
    for name in _SINGLE:
        if folder / name in weights:
            return _open_one(folder / name, open_file)
    for suffix in _SUFFIXES:
        shards = [file for file in weights if file.suffix == suffix]
        totals = {int(found[1]) if (found := _NUMBERED.search(shard.stem)) else 0 for shard in shards}
        if totals == {0} and len(shards) == 1:
            return _open_one(shards[0], open_file)
        if len(totals) == 1 and totals != {0}:
            if len(shards) != (total := totals.pop()):
                raise SourceError(f"has {len(shards)} of {total} shards; download the missing ones")
            return _joined(shards, open_file, {})
        if shards:
            raise SourceError(f"has several models; name one of them: {_names(shards)}")
    inner = _with_weights(folder)
    raise SourceError(
        "is a folder without weights (no index.json, .safetensors, .bin, .pt, .pth or .ckpt file in it)"
        + (f"; name a folder in it: {_names(inner)}" if inner else "")
    )


def _with_weights(folder: Path) -> list[Path]:
    """The folders in a folder that hold weights."""
    inner = (entry for entry in sorted(folder.iterdir()) if entry.is_dir() and os.access(entry, os.R_OK))
    return [entry for entry in inner if any(file.suffix in (*_SUFFIXES, SUFFIX) for file in entry.iterdir())]


def _names(files: list[Path]) -> str:
    return ", ".join(excerpt(file.name) for file in files[:6]) + (", ..." if len(files) > 6 else "")


def _open_one(file: Path, open_file: OpenFile) -> Opened:
    """One file of a folder; an error names it."""
    try:
        return open_file(file)
    except SourceError as error:
        raise SourceError(f"{excerpt(file.name)}: {error}") from error


def is_index(text: bytes) -> bool:
    """Whether a JSON file's beginning is that of a shard index."""
    return b'"weight_map"' in text


def open_index(path: Path, open_file: OpenFile) -> Opened:
    """The model of an index file with a `weight_map` from tensor to file. Raises SourceError."""
    weight_map = _weight_map(path)
    folder = path.parent
    shards = [folder / name for name in dict.fromkeys(weight_map.values())]
    for shard in shards:
        if not shard.is_file():
            raise SourceError(f"shard {excerpt(shard.name)} of {excerpt(path.name)} is missing; download it too")
    opened = _joined(shards, open_file, weight_map)
    return replace(opened, files=(path, *opened.files))


def _weight_map(path: Path) -> dict[str, str]:
    if path.stat().st_size > MAX_INDEX:
        raise SourceError("is too large for an index of shards")
    try:
        index = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise SourceError("damaged: the index of shards is no JSON") from error
    names: Any = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(names, dict) or not names:
        raise SourceError("damaged: the index of shards has no weight_map")
    for file in names.values():
        if not isinstance(file, str) or not file or Path(file).name != file or "\0" in file:
            raise SourceError(f"damaged: the index names {excerpt(str(file), 60)}, which is no file beside it")
    return names


def _joined(shards: list[Path], open_file: OpenFile, weight_map: dict[str, str]) -> Opened:
    """All shards as one flat dict; where there is an index, it gives the order and each tensor's file."""
    tensors: dict[str, LazyTensor] = {}
    metadata: dict[str, str] = {}
    notes, kinds = Notes(), []
    for shard in shards:
        opened = _open_one(shard, open_file)
        kinds.append(opened.kind)
        for line in opened.notes.lines():
            notes.add(excerpt(shard.name), line)
        if any(metadata.setdefault(key, text) != text for key, text in opened.metadata.items()):
            notes.add(excerpt(shard.name), "entries of its safetensors header that differ from the first shard's")
        if opened.nest is not None:
            notes.add(excerpt(shard.name), "plain values and nesting beside the tensors")
        for name, tensor in opened.tensors.items():
            if weight_map.get(name, shard.name) == shard.name and tensors.setdefault(name, tensor) is not tensor:
                raise SourceError(f"tensor '{excerpt(name)}' is in two shards")
    missing = [name for name in weight_map if name not in tensors]
    if missing:
        name, shard_name = excerpt(missing[0]), excerpt(weight_map[missing[0]])
        raise SourceError(f"tensor '{name}' is in the index, but not in shard {shard_name}")
    ordered = {name: tensors[name] for name in [*weight_map, *tensors]}
    kind = f"{len(shards)} shards ({', '.join(dict.fromkeys(kinds))})"
    return Opened(kind, ordered, tuple(shards), None, notes, metadata)
