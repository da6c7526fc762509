"""Weights that are made from other tensors: a half-compressed network that breaks is no end of the search."""

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import reparametrised
import torch
from small_networks import outputs_settings, saved

import hmcompress
from hmcompress.errors import NetworkError
from hmcompress.hmatrix.grids.grid import Grid
from hmcompress.network import compress_network, pose
from hmcompress.network.bound.ntk import Kernel
from hmcompress.network.layerwise.original import prepare
from hmcompress.network.layerwise.propagate import Knobs, Parts, run_pass
from hmcompress.network.layerwise.search import search
from hmcompress.settings.config import Settings

HELPERS = Path(__file__).parent / "reparametrised.py"


def settings_for(name: str, **changes: object) -> Settings:
    return outputs_settings(network={"factory": f"{HELPERS}:{name}"}, **changes)


@pytest.mark.parametrize("name", ["normed", "normed_by_hooks", "spectrally_normed", "refusing"])
@pytest.mark.parametrize("order", [0, 1])
def test_normalised_weights_end_in_a_file_that_holds(name: str, order: int, tmp_path: Path) -> None:
    """Coarse rows of them become zero, and zero over its size is nan."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the old form of weight norm
        source = saved(tmp_path, getattr(reparametrised, name)().state_dict()).path
        settings = settings_for(name, calibration={"derivatives": order})
        report = hmcompress.compress(source, tmp_path / "small.hmc.safetensors", settings=settings)
        assert hmcompress.verify(tmp_path / "small.hmc.safetensors", source).passed
    assert report.network is not None and 1e-3 < report.network.error <= 1e-2
    assert report.layer_stored_bytes < 0.4 * report.layer_source_bytes


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("prefix", ["", "model."])
def test_names_of_the_older_weight_norm_fit_the_newer_one(prefix: str, tmp_path: Path) -> None:
    """torch's own module loads both: weight_g and weight_v are what it calls original0 and original1 now."""
    state = {prefix + name: t for name, t in reparametrised.normed_by_hooks().state_dict().items()}
    source, file = saved(tmp_path, state).path, tmp_path / "small.hmc.safetensors"
    report = hmcompress.compress(source, file, settings=settings_for("normed", effort="fast"))
    assert hmcompress.verify(file, source).passed
    assert report.network is not None and report.network.error <= 1e-2
    assert list(hmcompress.load_state_dict(file)) == list(state)
    x = torch.linspace(-1, 1, 64).reshape(32, 2)
    x[:, 1].abs_()  # within the domain
    loaded, original = hmcompress.load_model(file, reparametrised.normed())(x), reparametrised.normed()(x)
    assert (loaded - original).norm() <= 0.02 * original.norm()


def test_weights_without_zero_rows_are_found_and_keep_a_live_entry_in_each(tmp_path: Path) -> None:
    """However coarse the steps are, the half-compressed network runs."""
    state = reparametrised.normed().state_dict()
    settings = settings_for("normed")
    problem = pose(settings, state)
    data = prepare(problem, state, "fast")
    assert data.without_zero_rows == {name for name in state if name.endswith("original1")}
    coarse = {name: part.dense().float() for name, part in run_pass(problem.network, data, Knobs(10.0)).items()}
    directions = [t for name, t in coarse.items() if name.endswith("original1")]
    assert all(bool((t != 0).any(1).all()) and (t == 0).float().mean() > 0.4 for t in directions)
    assert torch.isfinite(problem.network.run(problem.held_out.points.tensors, coarse)).all()


def test_a_row_without_entries_stays_so_and_another_gets_its_largest_in_steps() -> None:
    grid = Grid(np.zeros((3, 2), np.int64), np.zeros(3, np.int64), np.array([0, 8]))
    w = np.array([[0.1, 0.2], [0.0, 0.0], [0.0, -0.3]])
    assert grid.with_live_rows(w).q.tolist() == [[1, 0], [0, 0], [0, -1]]


def test_nan_of_the_original_is_still_an_error(tmp_path: Path) -> None:
    state = reparametrised.normed().state_dict()
    state["0.parametrizations.weight.original1"][0] = 0.0
    with pytest.raises(NetworkError, match="original network's outputs are nan or inf on 512 of 512"):
        compress_network(saved(tmp_path, state), settings_for("normed"))


def test_passes_that_break_do_not_hold_and_finer_ones_are_tried() -> None:
    seen: list[float] = []

    def run(knobs: Knobs) -> Parts:
        seen.append(knobs.delta)
        if knobs.delta > 1e-5:
            raise NetworkError("half compressed, the network gives nan or inf")
        return {}

    found = search(run, lambda parts: 0.5e-2, 1e-2, 20, lambda done: None)
    assert found is not None and found.error == 0.5e-2 and found.knobs.delta <= 1e-5
    assert max(seen) > 1e-5


def test_a_kernel_with_nan_is_infinitely_far() -> None:
    kernel = Kernel(torch.eye(3, dtype=torch.float64))
    assert kernel.error(Kernel(torch.full((3, 3), math.nan, dtype=torch.float64))) == math.inf
