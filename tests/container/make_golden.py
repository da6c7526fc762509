"""Writes the golden files that are not there and their decoded tensors: `python tests/container/make_golden.py`.

A golden file is frozen once its format version is released: every later release must decode it to the same bits.
"""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from container_files import encode, read, write
from safetensors.torch import save_file

from hmcompress import compress
from hmcompress.container import FileInfo, FileWriter
from hmcompress.container.payload import of_two, parted, turned
from hmcompress.geometry import View

GOLDEN = Path(__file__).parent / "golden"
COMPRESSED = GOLDEN / "version_1.hmc.safetensors"
DECODED = GOLDEN / "version_1.safetensors"
STANDING, STANDING_DECODED = GOLDEN / "standing.hmc.safetensors", GOLDEN / "standing.safetensors"
TURNED, TURNED_DECODED = GOLDEN / "turned.hmc.safetensors", GOLDEN / "turned.safetensors"
PARTED, PARTED_DECODED = GOLDEN / "parted.hmc.safetensors", GOLDEN / "parted.safetensors"
OF_TWO, OF_TWO_DECODED = GOLDEN / "of_two.hmc.safetensors", GOLDEN / "of_two.safetensors"
FILES = (
    (COMPRESSED, DECODED),
    (STANDING, STANDING_DECODED),
    (TURNED, TURNED_DECODED),
    (PARTED, PARTED_DECODED),
    (OF_TWO, OF_TWO_DECODED),
)


def tensors() -> dict[str, torch.Tensor]:
    """One tensor for each kind of part: noise, a kernel, a low rank, a stack, a half-precision kernel, integers."""
    generator = torch.Generator().manual_seed(3)
    x = torch.linspace(0, 1, 64)
    return {
        "noise.weight": torch.randn(48, 64, generator=generator),
        "noise.bias": torch.randn(48, generator=generator),
        "kernel.weight": 1 / ((x[:, None] - x[None]).abs() + 1 / 64),
        "low_rank.weight": torch.randn(64, 2, generator=generator) @ torch.randn(2, 40, generator=generator),
        "dead.weight": torch.randn(32, 32, generator=generator) * (torch.arange(32) < 6),
        "stack": torch.randn(2, 16, 20, generator=generator).double(),
        "half.weight": torch.randn(20, 24, generator=generator).bfloat16(),
        "zero.weight": torch.zeros(16, 16),
        "steps": torch.arange(300),
        "scalar": torch.tensor(2.5),
        "spectrum": torch.randn(5, dtype=torch.complex64, generator=generator),
    }


VIEWS = {"tied.weight": View.whole("noise.weight", (48, 64))}
INFO = {
    "settings": {"tol": 0.01},
    "source": {"name": "golden.pt", "kind": "torch", "bytes": 1, "digest": "sha256:" + "00" * 32},
    "nest": {"epoch": 3},
    "left_behind": ("a: why",),
}


def standing() -> dict[str, torch.Tensor]:
    """Layers that are like the first of their dtype."""
    generator = torch.Generator().manual_seed(4)
    first = torch.randn(64, 64, generator=generator)
    rest = (0.1 * torch.randn(64, 64, generator=generator) for _ in range(4))
    likes = [first, *(first + noise for noise in rest)]
    return {
        f"{name}.{i}": w.to(dtype)
        for name, dtype in (("single", torch.float32), ("double", torch.float64), ("half", torch.bfloat16))
        for i, w in enumerate(likes)
    }


def write_standing(path: Path) -> None:
    """A file in which layers stand on others."""
    with TemporaryDirectory() as folder:
        save_file(standing(), f"{folder}/layers.safetensors")
        compress(f"{folder}/layers.safetensors", path, tol=2e-2)


def write_turned(path: Path) -> None:
    """A file of layers whose parameters are W^T, one with a bias (1, m), and of a bias (m, 1) beside W."""
    generator = torch.Generator().manual_seed(5)
    layers = {
        ("turned", "turned.bias"): (torch.randn(20, 31, generator=generator), ((30, 20), (1, 20)), turned),
        ("alone",): (torch.randn(16, 24, generator=generator).bfloat16(), ((24, 16),), turned),
        ("plain", "plain.bias"): (torch.randn(20, 21, generator=generator).double(), ((20, 20), (20, 1)), bytes),
    }
    with FileWriter(path) as writer:
        for names, (matrix, shapes, stored) in layers.items():
            layer = encode(names[0], matrix)
            row = replace(layer.row, tensors=names)
            writer.add(replace(layer, row=row, shapes=shapes, payload=stored(layer.payload)))
        writer.finish(FileInfo(tuple(name for names in layers for name in names)))


def write_parted(path: Path) -> None:
    """A file of parameters that hold several matrices, turned with biases or not, and a single one of other rows."""
    noise = torch.randn(3, 20, 17, generator=torch.Generator().manual_seed(5))
    layers = {
        ("turned", "turned.bias"): (noise, ((3, 16, 20), (3, 1, 20)), True),
        ("plain",): (noise[[0, 1, 0]].double(), ((60, 17),), False),
        ("heads",): (noise[:1].bfloat16(), ((4, 5, 17),), False),
    }
    with FileWriter(path) as writer:
        for names, (matrices, shapes, is_turned) in layers.items():
            parts = [encode(names[0], matrix) for matrix in matrices]
            row = replace(parts[0].row, tensors=names)
            payload = parted([part.payload for part in parts], matrices.shape[1], is_turned)
            writer.add(replace(parts[0], row=row, shapes=shapes, payload=payload))
        writer.finish(FileInfo(tuple(name for names in layers for name in names)))


def write_of_two(path: Path) -> None:
    """A file of rows with their lengths, as columns with a bias and by themselves, some without a direction, and of a
    weight with a factor."""
    noise = torch.randn(20, 17, generator=torch.Generator().manual_seed(5)) * (torch.arange(20) % 5 > 0)[:, None]
    layers = {
        ("columns", "columns.length", "columns.bias"): (noise, ((16, 20), (1, 20), (20,)), True, False),
        ("rows", "rows.length"): (noise.double(), ((20, 17), (20, 1)), False, False),
        ("weight", "factor"): (noise[:, :16].half(), ((20, 4, 4), (20, 4)), False, True),
    }
    with FileWriter(path) as writer:
        for names, (matrix, shapes, *how) in layers.items():
            layer = encode(names[0], matrix)
            row = replace(layer.row, tensors=names)
            writer.add(replace(layer, row=row, shapes=shapes, payload=of_two(layer.payload, *how)))
        writer.finish(FileInfo(tuple(name for names in layers for name in names)))


def main() -> None:
    GOLDEN.mkdir(exist_ok=True)
    if not COMPRESSED.exists():
        write(COMPRESSED, tensors(), VIEWS, force=True, **INFO)
    if not STANDING.exists():
        write_standing(STANDING)
    if not TURNED.exists():
        write_turned(TURNED)
    if not PARTED.exists():
        write_parted(PARTED)
    if not OF_TWO.exists():
        write_of_two(OF_TWO)
    for file, back in FILES:
        if not back.exists():
            save_file({name: tensor.clone() for name, tensor in read(file).items()}, back)


if __name__ == "__main__":
    main()
