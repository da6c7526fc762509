"""A network with a structured layer as ONNX, dense and compressed, by turns: python tests/benchmarks/exported.py

The layer is a kernel matrix, 1 / (|x - y| + 0.02) on points that are denser at one end; `GELU` and a layer of four
outputs follow. The peer is the ONNX model that torch writes of the original.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

import hmcompress
from hmcompress.nn.choose import by_turns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--tol", type=float, default=1e-4)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        dense, small = _exported(Path(folder), options.size, options.tol)
        print(f"{dense.stat().st_size:,} -> {small.stat().st_size:,} bytes of ONNX")
        runs = [_session(path) for path in (dense, small)]
        for batch in (1, 16, 256):
            x = torch.randn(batch, options.size, generator=torch.Generator().manual_seed(1))
            exact, y = (run(x) for run in runs)
            error = np.linalg.norm(y - exact) / np.linalg.norm(exact)
            peer, own = by_turns([(run, (x,)) for run in runs])
            print(f"batch {batch:3d}: {peer / own:.2f}x as fast as dense ({1e6 * own:.0f} us), off by {error:.1e}")


def build(size: int) -> nn.Module:
    """The network; its weights come from the file."""
    return nn.Sequential(nn.Linear(size, size), nn.GELU(), nn.Linear(size, 4))


def _exported(folder: Path, size: int, tol: float) -> tuple[Path, Path]:
    """The original and the compressed network as ONNX models."""
    torch.manual_seed(0)
    network = build(size).eval()
    network[0].weight.data = _kernel(size)
    torch.save(network.state_dict(), folder / "net.pt")
    np.save(folder / "x.npy", np.random.default_rng(0).standard_normal((256, size), np.float32))
    (folder / "net.py").write_text(f"from exported import build\n\ndef make():\n    return build({size})\n")
    hmcompress.compress(folder / "net.pt", folder / "net.hmc.safetensors", tol=tol)
    own = {"network": f"{folder / 'net.py'}:make", "inputs": str(folder / "x.npy")}
    hmcompress.export(folder / "net.hmc.safetensors", onnx=folder / "small.onnx", **own)
    torch.onnx.export(
        network, (torch.zeros(61, size),), folder / "dense.onnx", dynamo=True, input_names=["x"], output_names=["y"],
        dynamic_shapes=({0: torch.export.Dim("samples")},), external_data=False, verbose=False,
    )  # fmt: skip
    return folder / "dense.onnx", folder / "small.onnx"


def _kernel(size: int) -> Tensor:
    x = (np.arange(size) / size) ** 1.2
    return torch.from_numpy((1 / (abs(x[:, None] - x) + 0.02) / 100).astype(np.float32))


def _session(path: Path) -> Callable[[Tensor], np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    return lambda x: session.run(None, {entry.name: x.numpy()})[0]


if __name__ == "__main__":
    main()
