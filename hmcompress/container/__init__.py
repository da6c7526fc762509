"""Compressed file on disk: pooled streams, index, checksums, atomic write. Its bytes are in docs/format.md."""

from hmcompress.container.payload import join
from hmcompress.container.reader import CompressedFile
from hmcompress.container.records import EncodedLayer, FileInfo, LayerRow, View
from hmcompress.container.writer import FileWriter

__all__ = ["CompressedFile", "EncodedLayer", "FileInfo", "FileWriter", "LayerRow", "View", "join"]
