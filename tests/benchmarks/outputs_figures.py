"""The figures of docs/outputs.md: `python tests/benchmarks/outputs_figures.py [NAME]...` prints one row a case.

Cases whose checkpoint is absent are left out; the airfoil surrogate lies in $HMC_ZOO (default ~/.cache/hmc-zoo).
"""

import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hmcompress.baselines import PEERS, Matrix
from hmcompress.baselines.knobs import Knob, NetworkPart
from hmcompress.checkpoint import open_checkpoint
from hmcompress.network import NetworkResult, Problem, compress_network, load_tensors, pose
from hmcompress.network.bound.kernel_bound import TangentBound
from hmcompress.network.model.network import DenseLayer
from hmcompress.settings.config import load_settings
from hmcompress.settings.problem_settings import Ntk

ROOT = Path(__file__).resolve().parents[2]
ZOO = Path(os.environ.get("HMC_ZOO", Path.home() / ".cache" / "hmc-zoo")) / "neuralfoil"
SURROGATE = {
    "metric": "outputs",
    "network": {"mlp": {"activation": "silu"}},
    "calibration": {"gaussian": {"file": str(ZOO / "inputs.npz")}, "samples": 8192},
    "ntk": False,
}
NO_KERNEL: dict[str, Any] = {"ntk": False}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "burgers 1e-2 off": ("burgers", NO_KERNEL | {"tol": 1e-2}),
    "burgers 1e-2 off slim": ("burgers", NO_KERNEL | {"tol": 1e-2, "slim": "prefer"}),
    "burgers 1e-3 off": ("burgers", NO_KERNEL | {"tol": 1e-3}),
    "burgers 1e-4 off": ("burgers", NO_KERNEL | {"tol": 1e-4}),
    "burgers 1e-3 derivatives": ("burgers", NO_KERNEL | {"tol": 1e-3, "calibration": {"derivatives": 1}}),
    "burgers 1e-2 ntk 0.1": ("burgers", {"tol": 1e-2}),
    "burgers 1e-3 ntk 0.01": ("burgers", {"tol": 1e-3, "ntk": {"tol": 0.01, "training": 200}}),
    "helmholtz 1e-2 off": ("helmholtz", NO_KERNEL | {"tol": 1e-2}),
    "helmholtz 1e-3 off": ("helmholtz", NO_KERNEL | {"tol": 1e-3}),
    "helmholtz 1e-4 off": ("helmholtz", NO_KERNEL | {"tol": 1e-4}),
    "helmholtz 1e-3 ntk 0.1": ("helmholtz", {"tol": 1e-3, "ntk": {"tol": 0.1}}),
    "allen_cahn 1e-2 off": ("allen_cahn", NO_KERNEL | {"tol": 1e-2}),
    "allen_cahn 1e-4 off": ("allen_cahn", NO_KERNEL | {"tol": 1e-4}),
    "fourier 1e-3 off": ("fourier", NO_KERNEL | {"tol": 1e-3}),
    "deeponet 1e-3 off": ("deeponet", NO_KERNEL | {"tol": 1e-3}),
    "greens 1e-3": ("greens", {"tol": 1e-3}),
    "poisson 1e-3": ("poisson", {"tol": 1e-3}),
    "neuralfoil-xxxlarge 1e-1": ("", SURROGATE | {"tol": 1e-1}),
    "neuralfoil-xxxlarge 1e-2": ("", SURROGATE | {"tol": 1e-2}),
    "neuralfoil-xxxlarge 1e-4": ("", SURROGATE | {"tol": 1e-4}),
}


def run(name: str) -> Iterator[str]:
    """Lines for one case."""
    stem, options = CASES[name]
    source = ROOT / "sample_models" / f"{stem}.pt" if stem else ZOO / "nn-xxxlarge.pt"
    if not source.exists():
        return
    settings = load_settings(ROOT / "configs" / f"{stem}.yaml" if stem else None, options)
    checkpoint = open_checkpoint(source)
    start = time.process_time()
    result = compress_network(checkpoint, settings)
    seconds = time.process_time() - start
    stored, dense = layer_bytes(result)
    record = result.record
    wide, noisy = record.widened_error or math.nan, record.noisy_error or math.nan
    shown = [f"{record.error:.2e}", f"wider {wide:.2e}", f"noisy {noisy:.2e}"]
    shown += [f"derivative {e:.2e}" for e in record.derivative_errors]
    yield f"{name}: {stored} B, {dense / stored:.1f}x, {', '.join(shown)}, {seconds:.0f} s"
    yield f"  living neurons: {', '.join(str(k) for k in living_neurons(result))}"
    if record.ntk is not None:
        problem = pose(settings, load_tensors(checkpoint))
        yield f"  ntk: ours {kernel_figures(record.ntk)}"
        if record.ntk.training is not None:
            curves = zip(record.ntk.training.original, record.ntk.training.compressed, strict=True)
            yield f"  loss curves differ by at most {max(abs(b - a) / a for a, b in curves):.2%}"
        assert settings.ntk_bound is not None
        yield from peers_at(problem, settings.ntk_bound, load_tensors(checkpoint), stored)


def layer_bytes(result: NetworkResult) -> tuple[int, int]:
    """Stored bytes of the layers, and what they take in fp32."""
    stored = sum(len(layer.payload) for layer in result.layers)
    return stored, sum(4 * math.prod(shape) for layer in result.layers for shape in layer.shapes)


def living_neurons(result: NetworkResult) -> list[int]:
    """Of each layer, in the order of computation."""
    rows = {layer.row.name: layer.shapes[0][0] for layer in result.layers}
    return [rows[layer.name] - layer.dead_rows for layer in result.record.layers]


def kernel_figures(ntk: Any) -> str:
    shown = f"error {ntk.error:.3g}, alignment {ntk.alignment:.4f}, trace ratio {ntk.trace_ratio:.4f}"
    return f"{shown}, smallest over largest eigenvalue {ntk.min_eigenvalue:.1g}"


def peers_at(problem: Problem, ntk: Ntk, tensors: dict, nbytes: int) -> Iterator[str]:
    """Output and kernel error of layer-wise SVD and of entropy-coded quantisation within so many bytes."""
    bound = TangentBound.of(problem, ntk)
    for peer in ("svd32", "quantization_entropy"):
        parts = [
            NetworkPart(x.weight, x.bias, (tensors[x.weight], tensors[x.bias]), (Matrix(joined(tensors, x)),), True)
            for x in problem.network.layers
            if x.bias is not None
        ]
        knob = Knob(PEERS[peer], parts, False, lambda t: max(problem.errors(problem.held_out, t)))
        k = knob.finest_within(nbytes)
        if k is None:
            yield f"  ntk: {peer} cannot be had in {nbytes} B"
            continue
        yield f"  ntk: {peer} output error {knob.error(k):.3g}, {kernel_figures(bound.record(knob.trial(k).decode()))}"


def joined(tensors: dict, layer: DenseLayer) -> Tensor:
    """Weight and bias as one matrix."""
    assert layer.bias is not None
    return torch.cat([tensors[layer.weight], tensors[layer.bias].reshape(-1, 1)], 1)


def main() -> None:
    for name in sys.argv[1:] or CASES:
        for line in run(name):
            print(line, flush=True)


if __name__ == "__main__":
    main()
