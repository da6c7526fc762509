"""Small compressed files to test the container with, and ways to damage them."""

import json
from collections.abc import Callable, Mapping
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path

import torch

from hmcompress.container import CompressedFile, EncodedLayer, FileInfo, FileWriter, LayerRow, View, join, pack_tensor
from hmcompress.container.header import DIGEST_AT, DIGEST_BYTES, DIGEST_END, INDEX, parse_header
from hmcompress.container.squeeze import pack_json, unpack_json
from hmcompress.hmatrix import compress_matrix
from hmcompress.layers import is_dense, to_matrices


def encode(name: str, tensor: torch.Tensor, tol: float = 1e-2) -> EncodedLayer:
    slices = [compress_matrix(matrix, tol) for matrix in to_matrices(tensor)]
    row = LayerRow(
        (name,), tol, "fro", max(s.error for s in slices), max(s.max_abs_error for s in slices), slices[0].method,
        slices[0].leaves, slices[0].max_rank,
    )  # fmt: skip
    return EncodedLayer(row, join([s.payload for s in slices]), (tuple(tensor.shape),), tensor.dtype)


def write(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    views: Mapping[str, View] | None = None,
    force: bool = False,
    **info,
) -> int:
    """Compress what is dense, keep the rest; returns the bytes of the file."""
    with FileWriter(path, force=force) as writer:
        for name, tensor in tensors.items():
            writer.add(encode(name, tensor) if is_dense(tensor.shape, tensor.dtype) else pack_tensor(name, tensor))
        return writer.finish(FileInfo((*tensors, *(views or {})), dict(views or {}), **info))


def read(path: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a file, ties tied."""
    file = CompressedFile.open(path)
    stored: dict[str, torch.Tensor] = {}
    for part in file.parts():
        stored.update(part.load())
    return {name: file.tie(name, stored) for name in file.names}


def pinn() -> dict[str, torch.Tensor]:
    """The tensors of a 2-[128]*4-1 network."""
    generator = torch.Generator().manual_seed(0)
    sizes = [2, 128, 128, 128, 128, 1]
    tensors = {}
    for i, (n, m) in enumerate(pairwise(sizes)):
        tensors[f"net.{2 * i}.weight"] = torch.randn(m, n, generator=generator) / n**0.5
        tensors[f"net.{2 * i}.bias"] = torch.randn(m, generator=generator)
    return tensors


def mixed() -> dict[str, torch.Tensor]:
    """One tensor of each sort, small."""
    generator = torch.Generator().manual_seed(1)
    return {
        "encoder.weight": torch.randn(48, 32, generator=generator),
        "encoder.bias": torch.randn(48, generator=generator),
        "stack": torch.randn(3, 20, 16, generator=generator).double(),
        "conv": torch.randn(16, 4, 3, 3, generator=generator).half(),
        "counts": torch.arange(200),
        "mask": torch.zeros(300, dtype=torch.bool),
        "spectrum": torch.randn(7, dtype=torch.complex64, generator=generator),
        "scale": torch.tensor(3.5, dtype=torch.bfloat16),
        "empty": torch.empty(0, 3),
    }


def sign(data: bytes) -> bytes:
    """The same bytes with a digest that holds."""
    blank = data[:DIGEST_AT] + b"0" * (2 * DIGEST_BYTES) + data[DIGEST_END:]
    digest = blake2b(blank, digest_size=DIGEST_BYTES).hexdigest().encode()
    return data[:DIGEST_AT] + digest + data[DIGEST_END:]


def with_index(data: bytes, change: Callable[[dict], object]) -> bytes:
    """A signed file whose index document went through `change` (in place, or a new document)."""
    entry = parse_header(memoryview(data))[INDEX]
    document = unpack_json(data[entry.begin : entry.end])
    document = change(document) or document
    return with_index_bytes(data, pack_json(document))


def with_index_bytes(data: bytes, packed: bytes) -> bytes:
    """A signed file with other bytes where the index lies."""
    header = parse_header(memoryview(data))
    begin, end = header[INDEX].begin, header[INDEX].end
    grown = len(packed) - (end - begin)
    size = int.from_bytes(data[:8], "little")

    def moved(offset: int) -> int:
        return offset if offset + 8 + size < end else offset + grown

    document = json.loads(data[8 : 8 + size])
    for name, value in document.items():
        if name != "__metadata__":
            first, last = value["data_offsets"]
            first = first if first + 8 + size <= begin else moved(first)
            value["data_offsets"] = [first, moved(last)]
            if name == INDEX:
                value["shape"] = [len(packed)]
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return sign(len(text).to_bytes(8, "little") + text + data[8 + size : begin] + packed + data[end:])
