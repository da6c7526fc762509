"""What a saved model is once opened: ordered, lazy tensors, the ties between them, and the plain values around them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from hmcompress.errors import SourceError
from hmcompress.geometry import View


def state_of(files: tuple[Path, ...]) -> tuple[tuple[int, int], ...]:
    """What tells that files have not been written to: of each its bytes and when they were written. Raises OSError."""
    return tuple((found.st_size, found.st_mtime_ns) for found in (file.stat() for file in files))


def _nothing(count: int) -> None:
    """No values."""


@dataclass(frozen=True)
class TensorEntry:
    """A tensor that is stored once.

    `load()` reads it from the source: a contiguous CPU tensor of `shape` and `dtype`, a fresh copy at each call.
    It raises SourceError where the source is damaged or has changed. `glance(count)` reads so many values from its
    middle, unchecked, or returns None where that would take as long as to load all.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    nbytes: int
    load: Callable[[], torch.Tensor] = field(repr=False, compare=False)
    glance: Callable[[int], torch.Tensor | None] = field(default=_nothing, repr=False, compare=False)


@dataclass(frozen=True)
class Checkpoint:
    """A saved model.

    `names` lists every tensor in source order; each is either in `entries` or in `ties`, a view of one of them.
    `nest` is the JSON-able skeleton of the saved object (see `unpack_nest`), None for a flat dict of tensors.
    `metadata` holds the texts in the header of a safetensors file, without the usual `format: pt`.
    `left_behind` has one line for each thing that is not carried, or carried in another form.
    `digest` is "sha256:" and the hash of the source's bytes; for a folder, of each file's name, size and bytes in turn.
    """

    path: Path
    kind: str
    source_bytes: int
    hash_source: Callable[[], str]
    names: tuple[str, ...]
    entries: dict[str, TensorEntry]
    ties: dict[str, View]
    nest: Any | None
    left_behind: tuple[str, ...]
    metadata: dict[str, str] = field(default_factory=dict)
    files: tuple[Path, ...] = ()  # that it is read from
    state: tuple[tuple[int, int], ...] = ()  # of these files, when it was opened

    def load(self, name: str) -> torch.Tensor | None:
        """A tensor, read from the source; None where there is none of this name. Raises SourceError."""
        if name in self.ties:
            tie = self.ties[name]
            return tie.of(self.entries[tie.base].load())
        return self.entries[name].load() if name in self.entries else None

    def check_unchanged(self) -> None:
        """Raise SourceError where its files have been written to since it was opened; OSError where one is gone.

        What has been read by then may be parts of two models, which a program that saves in place makes of one.
        """
        if state_of(self.files) != self.state:
            raise SourceError(f"{self.path}: has changed while it was read; try again when nothing writes to it")

    @cached_property
    def digest(self) -> str:
        """Reads the whole source when first asked for. Raises OSError."""
        return self.hash_source()
