"""Bounds on the largest error: structure takes few bytes there too, noise no search of its own."""

import math

import numpy as np
import pytest
import torch
from hmatrix_matrices import noise

import hmcompress.hmatrix.largest as largest
from hmcompress.hmatrix import HMatrix, compress_matrix
from hmcompress.hmatrix.largest import _likely


def windowed_waves(n: int = 96) -> torch.Tensor:
    """A windowed Fourier basis, as networks for audio hold one."""
    k, x = np.arange(n // 2 + 1)[:, None], np.arange(n)
    waves = np.concatenate([np.cos(2 * np.pi * k * x / n), np.sin(2 * np.pi * k * x / n)])
    return torch.from_numpy(waves * np.hanning(n)).float()


def walks(n: int = 192) -> torch.Tensor:
    return torch.from_numpy(noise(n, n).cumsum(0)).float()


def largest_error(w: torch.Tensor, found: HMatrix) -> float:
    decoded = HMatrix.from_payload(found.payload, found.shape, found.dtype).to_dense()
    return float((decoded.double() - w.double()).abs().max() / w.double().abs().max())


@pytest.mark.parametrize(("w", "tol", "share"), [(windowed_waves(), 1e-3, 0.2), (walks(), 1e-1, 0.8)])
def test_structure_takes_a_share_of_what_rounding_every_entry_takes(monkeypatch, w, tol, share):
    found = compress_matrix(w, tol, "max")
    assert largest_error(w, found) == pytest.approx(found.error) and 0 < found.error <= tol
    assert found.norm == "max" and found.tol == tol
    monkeypatch.setattr(largest, "_may_serve", lambda *given: False)
    assert found.nbytes < share * compress_matrix(w, tol, "max").nbytes


NOISE, SMOOTH = torch.from_numpy(noise(64, 64)).float(), torch.outer(*torch.linspace(1, 2, 64).sin().expand(2, 64))


@pytest.mark.parametrize(
    ("w", "norm", "effort"),
    [
        (NOISE, "max", "default"),
        (SMOOTH, "max", "default"),
        (walks(64), "fro", "default"),
        (walks(64), "max", "fast"),
    ],
)
def test_noise_few_bytes_other_norms_and_little_effort_cost_no_search(monkeypatch, w, norm, effort):
    monkeypatch.setattr(largest, "_by_squares", lambda *given: pytest.fail("searched"))
    assert compress_matrix(w, 1e-2, norm, effort=effort).error <= 1e-2


def test_what_no_tolerance_on_squares_keeps_is_left_as_it_was():
    w = torch.zeros(64, 64)
    w[5, 7], w[:32, :32] = 1.0, torch.from_numpy(1e-3 * noise(32, 32)).float()
    found = compress_matrix(w, 1e-4, "max")
    assert largest_error(w, found) <= 1e-4


def test_bytes_at_the_whole_tolerance_are_guessed():
    found = compress_matrix(torch.from_numpy(noise(64, 64)).float(), 1e-3)
    half = compress_matrix(torch.from_numpy(noise(64, 64)).float(), 2e-3)
    assert half.nbytes == pytest.approx(_likely(found, 0.5), rel=0.02)
    assert _likely(found, 4.0) == 2 * found.nbytes and math.isfinite(_likely(found, 0.0))
