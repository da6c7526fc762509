"""verify against a source that the file was not made from: the tensors that differ are named, nothing else happens."""

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import hmcompress

SETTINGS = {
    "metric": "outputs",
    "tol": 1e-2,
    "effort": "fast",
    "network": {"mlp": {"activation": "tanh"}},
    "calibration": {"domain": {"x": [-1, 1], "t": [0, 1]}, "samples": 128, "held_out": 64},
    "ntk": "off",
}


def state_of(*widths: int) -> dict[str, Tensor]:
    torch.manual_seed(0)
    steps = [step for m, n in itertools.pairwise(widths) for step in (nn.Linear(m, n), nn.Tanh())]
    return nn.Sequential(*steps[:-1]).state_dict()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify")
    torch.save(state_of(2, 20, 20, 1), folder / "model.pt")
    hmcompress.compress(folder / "model.pt", folder / "file.hmc.safetensors", **SETTINGS)
    assert hmcompress.verify(folder / "file.hmc.safetensors", folder / "model.pt").passed
    return folder / "file.hmc.safetensors"


OTHERS = {
    "under a prefix": {f"module.{n}": t for n, t in state_of(2, 20, 20, 1).items()},
    "with one more matrix": {**state_of(2, 20, 20, 1), "more.weight": torch.ones(5, 1)},
    "wider": state_of(2, 24, 20, 1),
    "with fewer layers": state_of(2, 20, 1),
    "with more outputs": state_of(2, 20, 20, 3),
    "in another precision": {n: t.double() for n, t in state_of(2, 20, 20, 1).items()},
}


@pytest.mark.parametrize("which", OTHERS)
def test_tensors_that_differ_from_the_source_are_named(file: Path, which: str, tmp_path: Path) -> None:
    torch.save(OTHERS[which], tmp_path / "other.pt")
    found = hmcompress.verify(file, tmp_path / "other.pt")
    assert not found.passed and found.network is None
    stored, other = state_of(2, 20, 20, 1), OTHERS[which]
    of_layers = [n for n in stored.keys() | other.keys() if n.endswith("weight")]
    differ = {n for n in of_layers if n not in stored or n not in other or _kind(stored[n]) != _kind(other[n])}
    assert differ <= set(found.offending)


def _kind(t: Tensor) -> tuple:
    return t.shape, t.dtype


def test_another_network_of_the_same_shapes_breaks_the_bound_on_the_outputs(file: Path, tmp_path: Path) -> None:
    torch.save({n: t + 0.1 for n, t in state_of(2, 20, 20, 1).items()}, tmp_path / "other.pt")
    found = hmcompress.verify(file, tmp_path / "other.pt")
    assert not found.passed and found.network is not None and not found.network.passed
