"""From a compressed file back to tensors, to the saved object, or to an ordinary checkpoint."""

import os
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from hmcompress.checkpoint import unpack_nest, with_composed
from hmcompress.checkpoint.versions import hang_versions
from hmcompress.container import CompressedFile, atomic_write, check_output
from hmcompress.container.plain import PlainWriter
from hmcompress.container.reader import StoredPart
from hmcompress.errors import OutputError, SettingsError
from hmcompress.geometry import elements
from hmcompress.hmatrix.basics.surroundings import undisturbed
from hmcompress.work.parallel import in_order
from hmcompress.work.progress import Progress, silent
from hmcompress.work.tasks import Task

TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".pth.tar", ".model")
SAFETENSORS_SUFFIX = ".safetensors"
_OF_TENSORS = ("tensor", "tensors", "array", "quantized", "sparse", "dict")  # nodes of a nest
MAX_COPIES = 1 << 28  # bytes to which a small file's views may be expanded


@undisturbed
def load_state_dict(
    file: str | os.PathLike, prefix: str | None = None, *, jobs: int | None = None, progress: Progress = silent
) -> dict[str, Tensor]:
    """All tensors of a compressed file by name, with their original shapes, dtypes and ties.

    With `prefix` only the tensors below it, the prefix taken off. Raises FormatError, and SettingsError for a prefix
    that nothing has.
    """
    compressed = CompressedFile.open(file)
    if prefix is None:
        return _with_versions(_loaded(compressed, compressed.names, jobs, progress), compressed, ())
    start = prefix.rstrip(".") + "."
    names = [name for name in compressed.names if name.startswith(start)]
    if not names:
        heads = sorted({name.split(".")[0] for name in compressed.names})
        raise SettingsError(
            f"{file}: no tensor lies below prefix {prefix!r}; the names start with {', '.join(heads[:8])}"
        )
    tensors = _loaded(compressed, names, jobs, progress)
    below = {name.removeprefix(start): tensor for name, tensor in tensors.items()}
    return _with_versions(below, compressed, start[:-1].split("."))


def _loaded(
    compressed: CompressedFile, names: Collection[str], jobs: int | None, progress: Progress
) -> dict[str, Tensor]:
    return with_composed(compressed.index.info.nest, load_named(compressed, names, jobs, progress))


def _with_versions(tensors: dict[str, Tensor], compressed: CompressedFile, path: Sequence[str]) -> dict[str, Tensor]:
    """The tensors of the dict at a path, with what the source says of the versions of its modules."""
    node = compressed.index.info.nest
    for key in path:
        node = node.get(key) if isinstance(node, dict) and "$" not in node else None
    if not isinstance(node, dict) or node.get("$") != "tensors" or "versions" not in node:
        return tensors
    state = OrderedDict(tensors)
    hang_versions(state, {"_metadata": node["versions"]})
    return state


@undisturbed
def load_checkpoint(file: str | os.PathLike, *, jobs: int | None = None, progress: Progress = silent) -> Any:
    """The object that was saved: tensors and the plain Python values around them. Raises FormatError."""
    return _restored(CompressedFile.open(file), jobs, progress)


def _restored(compressed: CompressedFile, jobs: int | None, progress: Progress) -> Any:
    tensors = load_named(compressed, compressed.names, jobs, progress)
    nest = compressed.index.info.nest
    return tensors if nest is None else unpack_nest(nest, tensors)


@undisturbed
def decompress(
    file: str | os.PathLike,
    output: str | os.PathLike,
    *,
    slim: bool = False,
    force: bool = False,
    jobs: int | None = None,
    progress: Progress = silent,
) -> tuple[str, ...]:
    """Write an ordinary checkpoint: the saved object as .pt, or its tensors by name as .safetensors.

    A .safetensors file holds no plain values, and a copy of each tied tensor; a .pt file no texts of the header of a
    safetensors source: returns a line on what is lacking. `slim` writes the network without its dead neurons, see
    `slimming`. Raises FormatError, OutputError; NetworkError where a file to be slimmed does not name its network.
    """
    name = Path(output).name.lower()
    if not name.endswith((*TORCH_SUFFIXES, SAFETENSORS_SUFFIX)):
        raise OutputError(f"{output}: name it .safetensors, or one of {' '.join(TORCH_SUFFIXES)}")
    check_output(output, force, (file,))
    if slim:
        from hmcompress.commands.slimming import write_slim  # here: only a slim network needs modules that run

        return write_slim(file, output, force, progress)
    compressed = CompressedFile.open(file)
    if name.endswith(SAFETENSORS_SUFFIX):
        _check_copies(compressed, output)
        with atomic_write(output, force) as target:
            _write_plain(compressed, target, jobs, progress)
        return tuple(_lacking(compressed))
    restored = _restored(compressed, jobs, progress)
    with atomic_write(output, force) as target:
        _save(restored, target)
    if compressed.index.info.metadata:
        return ("the texts of the source's header are not in a .pt file: write .safetensors to have them",)
    return ()


def _save(obj: Any, target: BinaryIO) -> None:
    """torch.save, which tells a full disk as a RuntimeError that was raised on the way from the OSError."""
    try:
        torch.save(obj, target)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def stored_parts(
    compressed: CompressedFile, names: Collection[str], jobs: int | None, progress: Progress
) -> Iterator[dict[str, Tensor]]:
    """Decode the stored tensors that `names` need, in the source's order, several at once."""
    wanted = set(names)
    parts = [part for part in compressed.parts() if not wanted.isdisjoint(part.tensors)]
    done, total = 0, sum(part.nbytes for part in parts)
    tasks = (Task(part.nbytes, partial(_same, part), _decode) for part in parts)
    for part, tensors in zip(parts, in_order(tasks, jobs), strict=True):
        done += part.nbytes
        progress(part.tensors[0], done, total)
        yield tensors


def _same(part: StoredPart) -> StoredPart:
    return part


def _decode(part: StoredPart) -> dict[str, Tensor]:
    return part.load()


def load_named(
    compressed: CompressedFile, names: Collection[str], jobs: int | None, progress: Progress
) -> dict[str, Tensor]:
    """Decode the named tensors of an open file, ties made again."""
    views = compressed.index.info.views
    needed = {views[name].base if name in views else name for name in names}
    stored: dict[str, Tensor] = {}
    for tensors in stored_parts(compressed, needed, jobs, progress):
        stored.update(tensors)
    return {name: compressed.tie(name, stored) for name in names}


def _lacking(compressed: CompressedFile) -> Iterator[str]:
    if _holds_values(compressed.index.info.nest):
        yield "plain values around the tensors are not in a .safetensors file: write .pt to have them"
    if ties := len(compressed.index.info.views):
        yield f"{ties} tied tensors are written as copies: write .pt to have them tied"


def _holds_values(node: Any) -> bool:
    """Whether a nest holds anything but tensors and the dicts around them."""
    if isinstance(node, list):
        return any(map(_holds_values, node))
    if not isinstance(node, dict):
        return node is not None
    if "$" not in node:
        return any(map(_holds_values, node.values()))
    return node["$"] not in _OF_TENSORS or _holds_values(node.get("v"))


def _check_copies(compressed: CompressedFile, output: str | os.PathLike) -> None:
    """Refuse copies of views that are far larger than all that is stored: a few bytes may be expanded to any shape."""
    stored = sum(part.nbytes for part in compressed.parts())
    nbytes = sum(elements(shape) * dtype.itemsize for dtype, shape in compressed.geometry().values())
    if nbytes > MAX_COPIES + 8 * stored:
        raise OutputError(
            f"{output}: views of {stored:,} bytes of tensors would take {nbytes:,} bytes as copies: "
            "write .pt, which keeps them as views"
        )


def _write_plain(compressed: CompressedFile, target: BinaryIO, jobs: int | None, progress: Progress) -> None:
    """Write each tensor as it is decoded, and the views of it as copies."""
    writer = PlainWriter(target, compressed.geometry(), compressed.index.info.metadata)
    for tensors in stored_parts(compressed, compressed.names, jobs, progress):
        for name in compressed.with_views(tensors):
            writer.write(name, compressed.tie(name, tensors))
