"""Weights many of which share the largest magnitude: clipped ones, and dead ones that decayed as far as numbers go."""

import pytest
import torch

from hmcompress.hmatrix import compress_matrix
from hmcompress.hmatrix.basics.rounding import Rounder


def noise(m=200, n=160):
    return torch.randn(m, n, generator=torch.Generator().manual_seed(0))


def clipped(m=200, n=160):
    """As a critic's weights under WGAN."""
    return (2 * noise(m, n)).clamp(-1, 1) * 0.01


def decayed(m=200, n=160):
    """As Adam leaves a dead layer: weight decay takes less than half of the last digit of subnormal numbers."""
    w = 3e-41 * noise(m, n) + 6.2e-41 * noise(n, m).T.sign()
    return w.clamp(-6.3e-41, 6.3e-41)


@pytest.mark.parametrize("make", [clipped, decayed, lambda: clipped().bfloat16()])
@pytest.mark.parametrize(("tol", "saved"), [(1e-1, 0.08), (1e-2, 0.03)])
def test_a_step_that_meets_the_magnitude_saves_bytes(make, tol, saved, monkeypatch):
    found = compress_matrix(make(), tol)
    monkeypatch.setattr("hmcompress.hmatrix.compress.with_thrift", lambda _, tuned: tuned)  # both gain by it
    nearest = compress_matrix(make(), tol)
    monkeypatch.setattr(Rounder, "coarser_steps", lambda *_: [])
    before = compress_matrix(make(), tol)
    assert found.nbytes <= nearest.nbytes <= (1 - saved) * before.nbytes
    error = (found.to_dense().double() - make().double()).norm() / make().double().norm()
    assert error <= tol
    assert found.error == pytest.approx(float(error), rel=1e-6)


@pytest.mark.parametrize("make", [noise, lambda: torch.rand(200, 160) - 0.5, lambda: torch.zeros(40, 40)])
def test_other_weights_have_no_such_step(make):
    assert Rounder(make()).coarser_steps(0.01) == []


def test_few_steps_are_tried_and_the_largest_first():
    steps = Rounder(clipped()).coarser_steps(1e-5)
    assert steps == sorted(steps, reverse=True)
    assert 10 < len(steps) <= 48
    assert all(1e-5 < step < 3.1e-5 for step in steps)
    assert Rounder(clipped()).coarser_steps(0.0) == []


def test_numbers_of_16_bits_under_the_max_norm_take_a_power_of_two_as_step():
    w = torch.randn(128, 96, generator=torch.Generator().manual_seed(0)).clamp(-3.9, 3.9).bfloat16()
    w[0, 0] = 3.953125  # half a step of 2**-7 is within the tolerance, and multiples of it are exact above 1
    compressed = compress_matrix(w, tol=1e-3, norm="max")
    assert compressed.error <= 1e-3
    assert compressed.nbytes < 1.02 * entropy_bytes(w.float() / 2**-7)


def entropy_bytes(w: torch.Tensor) -> float:
    """Of integers w (m, n) as they come."""
    share = w.round().unique(return_counts=True)[1] / w.numel()
    return -w.numel() / 8 * float((share * share.log2()).sum())
