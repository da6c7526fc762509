"""One method on one source in a process of its own: bytes, measured error, seconds and peak memory.

Run as a script with a request in JSON it prints a result in JSON; `measured` does so and reads it.
"""

import contextlib
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from field_compressors import FIELD_COMPRESSORS
from matrices import load

from hmcompress.baselines import PEERS, Matrix
from hmcompress.hmatrix import HMatrix, compress_matrix

EFFORTS = {"hmatrix": "default", "hmatrix fast": "fast", "hmatrix max": "max"}
ALL_PEERS = PEERS | FIELD_COMPRESSORS


def measured(source: str, method: str, tols: list[float], n: int = 0, timeout: float = 3600) -> dict[str, Any]:
    """Measure in a fresh process with one thread for linear algebra. Raises RuntimeError with its last words."""
    request = json.dumps({"source": source, "method": method, "tols": tols, "n": n})
    command = [sys.executable, str(Path(__file__).resolve()), request]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    if done.returncode:
        raise RuntimeError(f"{source} by {method}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def _answer(source: str, method: str, tols: list[float], n: int) -> dict[str, Any]:
    """Rows [layer, tol, bytes, error, encode s, decode s], and memory beyond what the process held with its source."""
    torch.set_num_threads(1)
    matrices = list(load(source, n))
    before = _reset_peak()
    rows = [row for name, w in matrices for row in _rows(name, w, method, tols)]
    peak = _peak()
    source_bytes = sum(w.numel() * w.element_size() for _, w in matrices)
    return {"rows": rows, "peak_bytes": max(peak - before, 0), "source_bytes": source_bytes}


def _reset_peak() -> int:
    """Bytes resident now; where the system can, the peak starts again from here."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return psutil.Process().memory_info().rss


def _peak() -> int:
    """Largest resident bytes since then, or since the process began."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    high = next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), None)
    return 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss if high is None else high)


def _rows(name: str, w: torch.Tensor, method: str, tols: list[float]) -> list[list[Any]]:
    matrix = Matrix(w)
    if method == "lossless":
        row = _row(name, matrix, method, tols[0])
        return [[row[0], tol, *row[2:4], row[4] / len(tols), row[5] / len(tols)] for tol in tols]
    return [_row(name, matrix, method, tol) for tol in tols]


def _row(name: str, matrix: Matrix, method: str, tol: float) -> list[Any]:
    encode, decode = _coder(method, matrix)
    start = time.perf_counter()
    payload = encode(tol)
    middle = time.perf_counter()
    if payload is None or len(payload) >= matrix.nbytes:
        return [name, tol, matrix.nbytes, 0.0, middle - start, 0.0]
    decoded = decode(payload)
    end = time.perf_counter()
    return [name, tol, len(payload), _error(matrix, decoded), middle - start, end - middle]


def _coder(method: str, matrix: Matrix) -> tuple[Callable[[float], bytes | None], Callable[[bytes], torch.Tensor]]:
    shape, dtype = matrix.shape, matrix.w.dtype
    if method in EFFORTS:
        return (
            lambda tol: compress_matrix(matrix.w, tol, effort=EFFORTS[method]).payload,
            lambda payload: HMatrix.from_payload(payload, shape, dtype).to_dense(),
        )
    peer = ALL_PEERS[method]
    return lambda tol: peer.encode(matrix, tol), lambda payload: torch.from_numpy(peer.decode(payload, shape, dtype))


def _error(matrix: Matrix, decoded: torch.Tensor) -> float:
    wide = torch.float64 if matrix.w.dtype == torch.float64 else torch.float32
    return matrix.error(decoded.to(wide).numpy())


if __name__ == "__main__":
    print(json.dumps(_answer(**json.loads(sys.argv[1]))))
