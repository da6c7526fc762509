"""A peer run badly is no peer: each uses its tolerance and reaches what theory says it can."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from baseline_matrices import decaying, noise, scaled

from hmcompress.baselines import PEERS, Matrix, run_peer
from hmcompress.baselines.pruning import BITMAP

TOTALS = json.loads((Path(__file__).parent / "peer_totals.json").read_text())
ZOO = Path(os.environ.get("HMC_ZOO", Path.home() / ".cache" / "hmc-zoo"))


@pytest.mark.parametrize("name, column_bytes", [("svd32", 4 * 160), ("svd16", 2 * 160 + 4)])
def test_svd_takes_the_smallest_rank_that_holds(name, column_bytes):
    w = decaying(96, 64)
    outcome = run_peer(PEERS[name], Matrix(w), 1e-2)
    rank = outcome.nbytes // column_bytes
    s = torch.linalg.svdvals(w.double())
    tails = [float(s[r:].norm() / s.norm()) for r in range(len(s))]
    assert outcome.nbytes == rank * column_bytes
    assert tails[rank - 1] > 1e-2  # Eckart-Young: no matrix of lower rank is as close
    assert tails[rank] <= outcome.error


@pytest.mark.parametrize("tol", [1e-1, 1e-2, 1e-3])
def test_pruning_keeps_the_fewest_weights(tol):
    w = scaled(100, 100)
    outcome = run_peer(PEERS["pruning"], Matrix(w), tol)
    kept = outcome.decode().abs()
    least = kept[kept > 0].min()
    without = torch.where(kept == least, 0.0, outcome.decode())
    assert float((w - without).double().norm() / w.double().norm()) > tol


def test_pruning_places_take_less_than_a_bitmap_where_few_weights_stay():
    sparse = noise(128, 128) * (torch.arange(128) % 16 == 0)
    dense = noise(128, 128)
    few, many = (PEERS["pruning"].encode(Matrix(w), 1e-1) for w in (sparse, dense))
    assert few[0] != BITMAP and many[0] == BITMAP
    kept = (len(few) - 128 * 128 // 8) / 4
    assert kept < 1024  # values alone: the places took less than the bitmap


def test_entropy_coded_quantisation_is_near_its_limit_on_white_noise():
    w = noise(512, 512)
    for tol in (1e-1, 1e-2, 1e-3):
        bits = 8 * run_peer(PEERS["quantization_entropy"], Matrix(w), tol).nbytes / w.numel()
        assert bits < math.log2(1 / tol) + 0.2546 + 0.06


@pytest.mark.parametrize("tol", [1e-1, 1e-2, 1e-3, 1e-4])
def test_entropy_coded_quantisation_uses_the_tolerance(tol):
    assert run_peer(PEERS["quantization_entropy"], Matrix(noise(256, 128)), tol).error > 0.999 * tol


def test_entropy_coding_takes_the_order_in_which_neighbours_are_alike():
    ramp = torch.linspace(0, 1, 400)[:, None] * noise(1, 64) + 1e-4 * noise(400, 64, 5)
    tall, wide = (run_peer(PEERS["quantization_entropy"], Matrix(w), 1e-3).nbytes for w in (ramp, ramp.T.contiguous()))
    assert tall == pytest.approx(wide, rel=0.01)


@pytest.mark.parametrize("bits, tol", [(8, 8e-3), (12, 6e-4)])
def test_fixed_rate_quantisation_needs_the_bits_that_white_noise_needs(bits, tol):
    w = noise(256, 256)
    nbytes = run_peer(PEERS["quantization"], Matrix(w), tol).nbytes
    assert nbytes * 8 / w.numel() <= bits + 16 / 64 + 0.01


def test_fixed_rate_quantisation_takes_group_scales_where_scales_differ():
    w = scaled(64, 256)
    w /= w.norm(dim=1, keepdim=True).sqrt()
    payload = PEERS["quantization"].encode(Matrix(w), 1e-3)
    assert payload[0] >= 128


@pytest.mark.parametrize("model, file", [
    ("neuralfoil-xxlarge", "neuralfoil/nn-xxlarge.pt"),
    ("silero-vad", "silero-vad/silero_vad.jit"),
])  # fmt: skip
def test_peers_are_as_good_as_published_on_real_models(model, file):
    if not (ZOO / file).exists():
        pytest.skip("the zoo of public checkpoints is not here (HMC_ZOO)")
    matrices = [Matrix(w) for w in _layers(ZOO / file)]
    assert len(matrices) == TOTALS[model]["layers"]
    for tol in ("0.1", "0.001"):
        for name in ("svd32", "svd16", "quantization", "pruning", "quantization_entropy"):
            nbytes = sum(run_peer(PEERS[name], matrix, float(tol)).nbytes for matrix in matrices)
            assert nbytes <= 1.02 * TOTALS[model][tol][name]
    lossless = sum(run_peer(PEERS["lossless"], matrix, 1e-3).nbytes for matrix in matrices)
    assert lossless <= 1.02 * TOTALS[model]["lossless"]


def _layers(file: Path) -> list[torch.Tensor]:
    """The 2-D weights whose smaller side is at least 16."""
    state = torch.jit.load(file).state_dict() if file.suffix == ".jit" else torch.load(file, weights_only=True)
    return [w.detach() for w in state.values() if w.ndim == 2 and min(w.shape) >= 16]


def test_totals_of_the_published_peers_are_whole():
    assert {len(model) for model in TOTALS.values()} == {6}
    assert all(np.isfinite(model["lossless"]) for model in TOTALS.values())
