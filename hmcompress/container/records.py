"""What a compressed file says about its tensors and layers."""

from dataclasses import dataclass, field
from typing import Any

import torch

from hmcompress.geometry import View
from hmcompress.settings.config import Norm

METHODS = ("hmatrix", "lossless", "raw")


@dataclass(frozen=True)
class LayerRow:
    """One coded layer: a weight, or a weight and its bias decoded together as the matrix (m, n + 1).

    `error` is relative, in the unit of `norm`, measured on decoded values; `tol` is None where the layer has no bound
    of its own (the outputs metric bounds the network instead).
    """

    tensors: tuple[str, ...]
    tol: float | None
    norm: Norm
    error: float
    max_abs_error: float
    method: str = "hmatrix"
    leaves: dict[str, int] = field(default_factory=dict)
    max_rank: int = 0
    nbytes: int = 0
    crc32: int = 0

    @property
    def name(self) -> str:
        """The name of the weight."""
        return self.tensors[0]


@dataclass(frozen=True)
class EncodedLayer:
    """A layer on its way into a file: its row, its payload, and the shapes and dtypes of its tensors."""

    row: LayerRow
    payload: bytes
    shapes: tuple[tuple[int, ...], ...]
    dtype: torch.dtype
    seconds: float = 0.0
    note: str = ""
    peak_rss_bytes: int = 0  # of the process that coded it, 0 where nobody looked


@dataclass(frozen=True)
class PackedTensor:
    """An untouched tensor on its way into a file: its bytes as they are, or coded where `packed`."""

    name: str
    body: bytes
    packed: bool
    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class FileInfo:
    """What a file says beside its layers. Everything but `names` and `views` is plain JSON.

    `metadata`: the texts in the header of the safetensors file that was compressed.
    """

    names: tuple[str, ...]
    views: dict[str, View] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    nest: Any = None
    left_behind: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    network: Any = None
    metadata: dict[str, str] = field(default_factory=dict)
