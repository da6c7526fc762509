"""An ordinary safetensors file, written one tensor at a time."""

import json
from collections.abc import Mapping
from typing import BinaryIO

import torch
from torch import Tensor

from hmcompress.container.dtypes import SAFETENSORS, dtype_name, to_words
from hmcompress.container.header import entry_json, frame, is_unicode, place
from hmcompress.errors import OutputError
from hmcompress.geometry import elements

_CODES = SAFETENSORS | {
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.complex64: "C64",
    torch.float8_e8m0fnu: "F8_E8M0",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
}


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
        begin = place(entries)
        texts = json.dumps({"format": "pt", **(metadata or {})}, separators=(",", ":"))
        text = f'{{"__metadata__":{texts}' + "".join(
            f",{json.dumps(name)}:{entry_json(_CODES[dtype], shape, begin[name], nbytes)}"
            for name, (dtype, shape, nbytes) in entries.items()
        )
        header = frame(text + "}")
        file.write(header)
        self._file = file
        self._begin = {name: len(header) + at for name, at in begin.items()}

    def write(self, name: str, tensor: Tensor) -> None:
        """Write a tensor of the dtype and shape that were announced."""
        self._file.seek(self._begin[name])
        self._file.write(to_words(tensor).tobytes())


def _check(name: str, dtype: torch.dtype) -> None:
    if dtype not in _CODES:
        raise OutputError(f"safetensors has no {dtype_name(dtype)}, which {name} is: write a .pt file instead")
    if name == "__metadata__" or not is_unicode(name):
        raise OutputError(f"safetensors cannot hold a tensor named {name!a}: write a .pt file instead")
