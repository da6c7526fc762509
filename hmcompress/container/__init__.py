"""Compressed file on disk: pooled streams, index, checksums, atomic write. Its bytes are in docs/format.md."""

from hmcompress.container.atomic import atomic_write, check_output
from hmcompress.container.header import is_compressed
from hmcompress.container.payload import join, layout_with_bias
from hmcompress.container.reader import CompressedFile
from hmcompress.container.records import EncodedLayer, FileInfo, LayerRow, PackedTensor
from hmcompress.container.writer import FileWriter, pack_tensor

__all__ = [
    "CompressedFile",
    "EncodedLayer",
    "FileInfo",
    "FileWriter",
    "LayerRow",
    "PackedTensor",
    "atomic_write",
    "check_output",
    "is_compressed",
    "join",
    "layout_with_bias",
    "pack_tensor",
]
