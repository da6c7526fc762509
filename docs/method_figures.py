"""Prints the table of docs/method.md: python docs/method_figures.py (a few minutes, one core)."""

import math
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "benchmarks"))
from matrices import KERNELS, kernel

from hmcompress.hmatrix import compress_matrix


def main() -> None:
    torch.set_num_threads(1)
    print("| matrix, n = 1024 | tol | effort | ratio | bits a weight | log2(1/tol) | error / tol | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    for name in KERNELS:
        w = kernel(name, 1024)
        for tol in (1e-2, 1e-4):
            for effort in ("fast", "default", "max"):
                start = time.perf_counter()
                h = compress_matrix(w, tol, effort=effort)
                seconds, bits = time.perf_counter() - start, 8 * h.nbytes / w.numel()
                ratio = f"{w.nbytes / h.nbytes:.{4 if w.nbytes < 1000 * h.nbytes else 5}g}"
                figures = f"{ratio}x | {bits:.3f} | {math.log2(1 / tol):.2f} | {h.error / tol:.3f}"
                print(f"| {name} | {tol:.0e} | {effort} | {figures} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
