"""Small compressed files to test the container with, and ways to damage them."""

import json
from collections.abc import Callable, Mapping
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path

import torch

from hmcompress.coding.buffer import Reader, Writer
from hmcompress.container import CompressedFile, EncodedLayer, FileInfo, FileWriter, LayerRow, join, pack_tensor
from hmcompress.container.header import DIGEST_AT, DIGEST_BYTES, DIGEST_END, POOL, parse_header
from hmcompress.container.squeeze import pack_json, unpack_json
from hmcompress.geometry import View
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


def with_index(data: bytes, change: Callable[[dict], object], payloads: bytes | None = None) -> bytes:
    """A signed file whose index document went through `change` (in place, or a new document)."""
    index, old = pool(data)
    document = unpack_json(index)
    document = change(document) or document
    return with_pool(data, pack_json(document), old if payloads is None else payloads)


def pool(data: bytes) -> tuple[bytes, bytes]:
    """The packed index and the payloads of a file."""
    entry = parse_header(memoryview(data))[POOL]
    reader = Reader(data[entry.begin : entry.end])
    return reader.section(), reader.rest()


def with_pool(data: bytes, index: bytes, payloads: bytes) -> bytes:
    """A signed file with another packed index and other payloads."""
    entry = parse_header(memoryview(data))[POOL]
    packed = Writer().section(index).getvalue() + payloads
    grown = len(packed) - entry.nbytes
    size = int.from_bytes(data[:8], "little")

    def change(document: dict) -> None:
        for value in (value for name, value in document.items() if name != "__metadata__"):
            first, last = value["data_offsets"]
            value["data_offsets"] = [
                first + grown * (first + 8 + size >= entry.end),
                last + grown * (last + 8 + size >= entry.end),
            ]
        document[POOL].update(
            shape=[len(packed)], data_offsets=[entry.begin - 8 - size, entry.begin - 8 - size + len(packed)]
        )

    return rewrite_header(data[: entry.begin] + packed + data[entry.end :], change)


def rewrite_header(data: bytes, change: Callable[[dict], object]) -> bytes:
    """A signed file whose header went through `change`."""
    size = int.from_bytes(data[:8], "little")
    document = json.loads(data[8 : 8 + size])
    change(document)
    text = json.dumps(document, separators=(",", ":")).encode()
    return sign(len(text).to_bytes(8, "little") + text + data[8 + size :])
