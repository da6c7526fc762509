"""Weights that are made from other tensors: a half-compressed network that breaks is no end of the search."""

import math
import warnings
from pathlib import Path

import pytest
import reparametrised
import torch
from small_networks import outputs_settings, saved

import hmcompress
from hmcompress.config import Settings
from hmcompress.errors import NetworkError
from hmcompress.network import compress_network
from hmcompress.network.ntk import Kernel
from hmcompress.network.propagate import Knobs, Parts
from hmcompress.network.search import search

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
