"""An ordinary safetensors file, written one tensor at a time."""

import json
from collections.abc import Mapping
from typing import BinaryIO

import torch
from torch import Tensor

from hmcompress.container.dtypes import to_words
from hmcompress.container.header import header_and_places
from hmcompress.element_types import EVERY_SAFETENSORS, dtype_name
from hmcompress.errors import OutputError
from hmcompress.geometry import elements
from hmcompress.texts import is_unicode


class PlainWriter:
    """Writes the header of `geometry`, name -> (dtype, shape), and `metadata` at once, and each tensor when it comes.

    Raises OutputError where safetensors has no such type or name.
    """

    def __init__(
        self,
        file: BinaryIO,
        geometry: Mapping[str, tuple[torch.dtype, tuple[int, ...]]],
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        entries = {n: (dtype, shape, elements(shape) * dtype.itemsize) for n, (dtype, shape) in geometry.items()}
        for name, (dtype, _, _) in entries.items():
            _check(name, dtype)
        texts = json.dumps({"format": "pt", **(metadata or {})}, separators=(",", ":"))
        header, begin = header_and_places(f'{{"__metadata__":{texts}', entries)
        file.write(header)
        self._file = file
        self._begin = {name: len(header) + at for name, at in begin.items()}

    def write(self, name: str, tensor: Tensor) -> None:
        """Write a tensor of the dtype and shape that were announced."""
        self._file.seek(self._begin[name])
        self._file.write(to_words(tensor).tobytes())


def _check(name: str, dtype: torch.dtype) -> None:
    if dtype not in EVERY_SAFETENSORS:
        raise OutputError(f"safetensors has no {dtype_name(dtype)}, which {name} is: write a .pt file instead")
    if name == "__metadata__" or not is_unicode(name):
        raise OutputError(f"safetensors cannot hold a tensor named {name!a}: write a .pt file instead")
