"""A kernel of n = 16,384 (1 GiB) from a memory-mapped file: compress it, run it, and what memory both took at most.

    python tests/benchmarks/large_operator.py

Compression and running are processes of their own, so that each has its own peak; pages of the mapped file that the
system keeps count for the peak too. The product is checked against rows of the kernel computed anew.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

import hmcompress
from hmcompress.nn import resident_bytes
from hmcompress.nn.choose import by_turns

BATCHES = (1, 16, 256)
ROWS = 512  # of the file that are written, or checked, at once


def rows_of(n: int, begin: int, end: int) -> np.ndarray:
    """Rows of 1 / (|x - y| + 1 / n) on n points of [0, 1), float32."""
    x = np.arange(n) / n
    return (1 / (np.abs(x[begin:end, None] - x) + 1 / n)).astype(np.float32)


def write(path: Path, n: int) -> None:
    """The kernel as safetensors, some rows at a time."""
    header = json.dumps({"weight": {"dtype": "F32", "shape": [n, n], "data_offsets": [0, 4 * n * n]}}).encode()
    with open(path, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for begin in range(0, n, ROWS):
            file.write(rows_of(n, begin, begin + ROWS).tobytes())


def compress(folder: Path, n: int, tol: float) -> dict:
    """Compress the mapped file."""
    start = time.process_time()
    settings = {"tol": tol, "network": {"linear": {"weight": "weight"}}}
    report = hmcompress.compress(folder / "kernel.safetensors", folder / "kernel.hmc.safetensors", **settings)
    return {"bytes": report.output_bytes, "error": report.layers[0].error, "cpu": time.process_time() - start}


def run(folder: Path, n: int, tol: float) -> dict:
    """Load the compressed operator and multiply."""
    start = time.process_time()
    network = hmcompress.load_model(folder / "kernel.hmc.safetensors", batches=BATCHES)
    loading = time.process_time() - start
    seconds = {batch: by_turns([(network, (torch.randn(batch, n),))])[0] for batch in BATCHES}
    layer = next(module for module in network.modules() if hasattr(module, "in_features"))
    return {
        "form": type(layer).__name__,
        "resident": resident_bytes(network),
        "cpu": loading,
        "seconds": seconds,
        "error": _error(network, n),
    }


def _error(network: torch.nn.Module, n: int) -> float:
    """Relative error of the products with one random vector, over rows from all over the matrix."""
    x = torch.randn(n)
    with torch.no_grad():
        y = network(x[None])[0].double()
    wrong = total = 0.0
    for begin in range(0, n, 8 * ROWS):
        exact = torch.from_numpy(rows_of(n, begin, begin + ROWS).astype(np.float64)) @ x.double()
        wrong += float((y[begin : begin + ROWS] - exact).square().sum())
        total += float(exact.square().sum())
    return (wrong / total) ** 0.5


STEPS: dict[str, Callable[[Path, int, float], dict]] = {"compress": compress, "run": run}


def measured(step: str, folder: Path, options: argparse.Namespace) -> dict:
    """A step in a process of its own, and its peak memory."""
    command = [sys.executable, __file__, "--step", step, "--folder", str(folder)]
    command += ["--n", str(options.n), "--tol", str(options.tol)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=16384)
    parser.add_argument("--tol", type=float, default=1e-4)
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if options.step:
        answer = STEPS[options.step](options.folder, options.n, options.tol)
        print(json.dumps({**answer, "peak": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}))
        return
    with tempfile.TemporaryDirectory() as name:
        write(Path(name) / "kernel.safetensors", options.n)
        with safe_open(Path(name) / "kernel.safetensors", "np") as file:
            print(f"n = {options.n:,}: {4 * options.n**2:,} bytes, {file.keys()}", flush=True)
        for step in STEPS:
            print(f"{step}: {measured(step, Path(name), options)}", flush=True)


if __name__ == "__main__":
    main()
