"""The tangent kernel by layers is J J^T; the rate limit is reverse water-filling."""

import itertools
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_networks import forward, outputs_settings, saved, stack

import hmcompress
from hmcompress.network import pose
from hmcompress.network.bound.kernel_bound import TangentBound
from hmcompress.network.bound.ntk import tangent_kernel, training_curves, water_filling_bits
from hmcompress.network.owned import load_tensors, owned


def jacobian_kernel(state: dict, x: torch.Tensor) -> torch.Tensor:
    names = list(state)

    def outputs(*tensors: torch.Tensor) -> torch.Tensor:
        return forward(dict(zip(names, tensors, strict=True)), x, torch.tanh)[:, 0]

    jacobian = torch.autograd.functional.jacobian(outputs, tuple(t.double() for t in state.values()))
    flat = torch.cat([j.reshape(len(x), -1) for j in jacobian], 1)
    return flat @ flat.T


def test_kernel_by_layers_equals_the_jacobian_product() -> None:
    state = stack([2, 16, 16, 1])
    problem = pose(outputs_settings(), state)
    points = problem.calibration.points.pairs(20)
    expected = jacobian_kernel(state, points.tensors[0])
    assert torch.allclose(tangent_kernel(problem.network, points).k, expected, rtol=1e-10, atol=1e-10)


def test_kernel_is_positive_semidefinite_and_invariant_under_order_and_signs() -> None:
    state = stack([2, 16, 16, 1])
    problem = pose(outputs_settings(), state)
    points = problem.calibration.points.pairs(32)
    kernel = tangent_kernel(problem.network, points)
    spectrum = kernel.spectrum()
    assert float(spectrum[-1]) > -1e-10 * float(spectrum[0])
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    other = {
        "net.0.weight": -state["net.0.weight"][order],
        "net.0.bias": -state["net.0.bias"][order],
        "net.2.weight": -state["net.2.weight"][:, order],
    }
    assert kernel.error(tangent_kernel(problem.network, points, other)) < 1e-6


def test_scaled_weights_show_in_the_record() -> None:
    state = stack([2, 16, 1])
    settings = outputs_settings(ntk={"tol": 0.1, "samples": 32, "training": 20})
    problem = pose(settings, state)
    assert settings.ntk_bound is not None
    bound = TangentBound.of(problem, settings.ntk_bound)
    same = bound.record({})
    assert same.error == 0 and same.alignment == pytest.approx(1) and same.trace_ratio == pytest.approx(1)
    assert same.training is not None and same.training.original == same.training.compressed
    moved = bound.record({"net.2.weight": 2 * state["net.2.weight"]})
    assert moved.error > 0.1 and moved.trace_ratio > 1
    assert bound.trains_alike({}) and not bound.trains_alike({"net.2.weight": 2 * state["net.2.weight"]})


def test_training_lowers_the_loss() -> None:
    problem = pose(outputs_settings(), stack([2, 16, 16, 1]))
    points = problem.calibration.points.pairs(64)
    losses, _ = training_curves(problem.network, points, 100, {}, tangent_kernel(problem.network, points))
    assert losses[-1] < 0.8 * losses[0] and all(b <= a * 1.001 for a, b in itertools.pairwise(losses))


def test_water_filling_matches_closed_forms() -> None:
    assert water_filling_bits(torch.ones(8, dtype=torch.float64), 8 / 16) == pytest.approx(8 * 0.5 * math.log2(16))
    two = torch.tensor([4.0, 0.25], dtype=torch.float64)
    assert water_filling_bits(two, 1.25) == pytest.approx(0.5 * math.log2(4 / 1.0))
    assert water_filling_bits(two, 5.0) == 0


def test_the_rate_limit_is_found_once(monkeypatch):
    """Joint stage, middle way and report ask for it; with attention it takes as long as a few passes."""
    found = []

    def counted(*given, **named):
        found.append(tangent_kernel(*given, **named))
        return found[-1]

    monkeypatch.setattr("hmcompress.network.bound.ntk.tangent_kernel", counted)
    problem = pose(outputs_settings(), stack([2, 16, 16, 1]))
    assert problem.rate_limit.nbytes(0.1) < problem.rate_limit.nbytes(0.01)
    assert len(found) == 1


def test_a_network_whose_weights_are_all_tied_has_no_rate_limit(tmp_path):
    w = torch.randn(16, 24, generator=torch.Generator().manual_seed(0))
    torch.save({"weight": w, "bias": w[:, 0]}, tmp_path / "m.pt")
    options = {"network": {"linear": {}}, "calibration": {"domain": {f"x{k}": [-1, 1] for k in range(24)}}}
    report = hmcompress.compress(tmp_path / "m.pt", metric="outputs", ntk=False, effort="fast", tol=1e-2, **options)
    assert report.passed and report.network.rate_limit_bytes == 0


@pytest.mark.parametrize(
    "changes", [{}, {"layers": [{"match": "net.4.*", "keep": True}]}, {"layers": [{"match": "net.0.*", "tol": 1e-3}]}]
)
@pytest.mark.parametrize("tied", [False, True])
def test_the_kernel_of_all_layers_is_bounded_coded_or_not(tied: bool, changes: dict, tmp_path: Path) -> None:
    """Of those that are kept, have tolerances of their own or are tied to others as well, as `verify` measures it."""
    state = stack([2, 12, 12, 12, 1])
    state |= {f"net.4.{leaf}": state[f"net.2.{leaf}"] for leaf in ("weight", "bias")} if tied else {}
    torch.save(state, tmp_path / "m.pt")
    settings = outputs_settings(tol=5e-2, ntk={"tol": 0.05, "samples": 64}, effort="fast", **changes)
    report = hmcompress.compress(tmp_path / "m.pt", tmp_path / "c.st", settings=settings)
    verdict = hmcompress.verify(tmp_path / "c.st", tmp_path / "m.pt")
    assert 0 < report.network.ntk.error <= 0.05 and verdict.passed
    assert verdict.network.ntk_error == pytest.approx(report.network.ntk.error, rel=1e-6)


def test_tied_layers_train_from_the_weights_that_come_back(tmp_path: Path) -> None:
    """The second name's as well."""
    state = stack([2, 12, 12, 12, 1])
    state |= {f"net.4.{leaf}": state[f"net.2.{leaf}"] for leaf in ("weight", "bias")}
    checkpoint, settings = saved(tmp_path, state), outputs_settings(ntk={"samples": 32, "training": 20})
    problem = pose(settings, load_tensors(checkpoint))
    problem = replace(problem, network=owned(problem.network, checkpoint))
    bound = TangentBound.of(problem, settings.ntk_bound)
    moved = {"net.2.weight": 1.2 * state["net.2.weight"]}
    trained = bound.record(moved).training
    assert trained.compressed == bound.record(moved | {"net.4.weight": moved["net.2.weight"]}).training.compressed
    assert trained.compressed != trained.original
