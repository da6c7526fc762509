"""Every peer really encodes and decodes, holds the tolerance as measured, and never costs more than the weights."""

import pytest
import torch
from baseline_matrices import decaying, noise, scaled

from hmcompress.baselines import PEERS, Matrix, run_peer

LOSSY = [name for name in PEERS if name != "lossless"]


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize("tol", [1e-1, 1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize("make", [noise, decaying, scaled])
def test_error_is_below_tol(name, tol, make):
    w = make(96, 130)
    outcome = run_peer(PEERS[name], Matrix(w), tol)
    measured = float((w.double() - outcome.decode().double()).norm() / w.double().norm())
    assert outcome.error <= tol
    assert outcome.error == pytest.approx(measured, rel=1e-9, abs=1e-12)
    assert outcome.nbytes <= w.numel() * 4


@pytest.mark.parametrize("name", LOSSY)
def test_payload_alone_decodes_to_the_measured_weights(name):
    matrix = Matrix(decaying(80, 64))
    payload = PEERS[name].encode(matrix, 1e-2)
    decoded = PEERS[name].decode(bytes(payload), matrix.shape, torch.float32)
    assert matrix.error(decoded) <= 1e-2
    assert len(payload) == run_peer(PEERS[name], matrix, 1e-2).nbytes


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", PEERS)
def test_errors_are_measured_in_the_stored_dtype(name, dtype):
    w = decaying(64, 48).to(dtype)
    outcome = run_peer(PEERS[name], Matrix(w), 1e-2)
    assert outcome.decode().dtype == dtype
    assert outcome.error <= 1e-2
    assert outcome.nbytes <= w.numel() * w.element_size()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_lossless_is_exact(dtype):
    for w in (noise(40, 33).to(dtype), torch.full((16, 16), float("nan"), dtype=dtype), scaled(33, 40).to(dtype)):
        matrix = Matrix(w)
        payload = PEERS["lossless"].encode(matrix, 1e-3)
        decoded = torch.from_numpy(PEERS["lossless"].decode(payload, matrix.shape, dtype)).to(dtype)
        assert torch.equal(decoded.nan_to_num(7), w.nan_to_num(7))


@pytest.mark.parametrize("name", LOSSY)
def test_what_has_no_relative_error_is_kept(name):
    broken = noise(20, 20)
    broken[3, 4] = float("inf")
    for w, nbytes in ((broken, 1600), (torch.zeros(20, 20), 0)):
        outcome = run_peer(PEERS[name], Matrix(w), 1e-2)
        assert torch.equal(outcome.decode(), w)
        assert outcome.error == 0 and outcome.nbytes == nbytes


@pytest.mark.parametrize("name", LOSSY)
@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (65, 1), (16, 17)])
def test_small_shapes_hold_the_tolerance(name, shape):
    outcome = run_peer(PEERS[name], Matrix(noise(*shape)), 1e-2)
    assert outcome.error <= 1e-2
    assert outcome.decode().shape == shape


@pytest.mark.parametrize("name", LOSSY)
def test_a_tolerance_of_one_costs_nothing(name):
    outcome = run_peer(PEERS[name], Matrix(noise(20, 20)), 1.0)
    assert (outcome.nbytes, outcome.error) == (0, 1.0)
