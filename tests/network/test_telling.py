"""Very wide layers are read by the few inputs that tell the others, where there are such."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_networks import forward, outputs_settings, stack
from torch import Tensor

import hmcompress
from hmcompress.checkpoint import open_checkpoint
from hmcompress.network import pose
from hmcompress.network.bound.problem import Problem
from hmcompress.network.layerwise.coded import Stored, Weighted
from hmcompress.network.layerwise.moments import WIDEST
from hmcompress.network.layerwise.original import prepare
from hmcompress.network.layerwise.propagate import Knobs, decoded, run_pass
from hmcompress.network.layerwise.telling import telling_columns, with_telling_columns
from hmcompress.network.owned import owned

PLACES, MODES = WIDEST + 100, 6


def fields(count: int, seed: int = 0, places: int = PLACES, modes: int = MODES) -> np.ndarray:
    """Sums of a few waves on a line, (count, places)."""
    x, k = np.linspace(0, 1, places), np.arange(1, modes + 1)
    waves = np.sin(np.pi * k[:, None] * x)
    return (np.random.default_rng(seed).standard_normal((count, modes)) / k @ waves).astype("f")


def wide_stack() -> dict[str, Tensor]:
    state = stack([PLACES, 16, 1])
    state["net.0.weight"] *= 10
    return state


def posed(folder: Path, state: dict[str, Tensor], inputs: np.ndarray) -> Problem:
    """With very wide layers as they are to be coded."""
    np.save(folder / "x.npy", inputs)
    torch.save(state, folder / "model.pt")
    calibration = {"inputs": str(folder / "x.npy"), "samples": 256, "held_out": 64}
    settings = outputs_settings(calibration=calibration)
    problem = pose(settings, state)
    network = with_telling_columns(problem.network, problem.calibration.points, settings.tol)
    return replace(problem, network=owned(network, open_checkpoint(folder / "model.pt")))


@pytest.mark.parametrize("places", [300, 2000])
def test_as_many_columns_tell_as_fields_have_modes(places: int) -> None:
    x, w = torch.from_numpy(fields(200, places=places)), torch.randn(5, places, generator=torch.manual_seed(0))
    columns = telling_columns(x, x @ w.T + 1, 1e-2)
    assert columns is not None and MODES <= len(columns) < 5 * MODES
    assert np.array_equal(columns, np.unique(columns))


@pytest.mark.parametrize("count", [8, 200])
def test_noise_and_few_samples_tell_nothing(count: int) -> None:
    x = torch.randn(count, 500, generator=torch.manual_seed(0))
    assert telling_columns(x, x[:, :100].sum(1, keepdim=True), 1e-2) is None
    assert telling_columns(torch.zeros(count, 500), torch.ones(count, 2), 1e-2) is None


def test_a_network_of_many_sensors_keeps_its_bound_in_few_bytes(tmp_path: Path) -> None:
    state = wide_stack()
    torch.save(state, tmp_path / "model.pt")
    np.save(tmp_path / "x.npy", fields(600))
    calibration = {"inputs": str(tmp_path / "x.npy"), "samples": 400}
    report = hmcompress.compress(tmp_path / "model.pt", settings=outputs_settings(calibration=calibration))
    fresh = torch.from_numpy(fields(500, seed=1)).double()
    before, after = (forward(s, fresh, torch.tanh) for s in (state, hmcompress.load_state_dict(report.output)))
    assert 0 < float((after - before).norm() / before.norm()) < 1.1 * report.tol
    assert sum(layer.stored_bytes for layer in report.layers) < 4 * PLACES * 16 / 200
    assert report.network is not None and report.network.layers[0].zero_columns > 0.99 * PLACES


def test_inputs_that_no_few_tell_are_coded_as_other_weights(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).standard_normal((300, PLACES)).astype("f")
    problem = posed(tmp_path, wide_stack(), noise)
    assert not problem.network.telling and "net.0.weight" in problem.network.others


@pytest.mark.parametrize("structured", [False, True])
def test_the_engine_may_code_a_very_wide_layer_too(tmp_path: Path, structured: bool) -> None:
    state = wide_stack()
    problem = posed(tmp_path, state, fields(400))
    data = prepare(problem, state, "default")
    knobs = Knobs(1e-4, structured=frozenset({"net.0.weight"} if structured else ()))
    parts = run_pass(problem.network, data, knobs)
    assert isinstance(parts["net.0.weight"], Stored if structured else Weighted)
    assert max(problem.errors(problem.held_out, decoded(problem.network, data, parts))) < 2e-2
