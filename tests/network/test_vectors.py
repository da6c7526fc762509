"""Vectors of any network (norms and their statistics, biases of what is no dense layer) are layers like others."""

from pathlib import Path

import numpy as np
import pytest
import torch
import vector_networks
from small_networks import outputs_settings, saved

import hmcompress
from hmcompress.hmatrix.grids.factors import factorise
from hmcompress.hmatrix.grids.feedback import Part, quantise
from hmcompress.network import compress_network
from hmcompress.network.layerwise.gradients import ModesMetric, WholeMetric
from hmcompress.settings.config import Settings

HELPERS = Path(__file__).parent / "vector_networks.py"
VECTORS = {f"net.{k}" for k in ("1.weight", "1.bias", "1.running_mean", "1.running_var", "4.weight", "4.bias")}


def settings_for(folder: Path, **network: object) -> Settings:
    np.save(folder / "x.npy", np.random.default_rng(0).uniform(-1, 1, (512, 2)).astype(np.float32))
    given = {"inputs": str(folder / "x.npy"), "samples": 256, "held_out": 64}
    return outputs_settings(network=network or {"factory": f"{HELPERS}:normalised"}, calibration=given, effort="fast")


def test_norms_and_their_statistics_are_coded(tmp_path: Path) -> None:
    state = vector_networks.normalised().state_dict()
    result = compress_network(saved(tmp_path, state), settings_for(tmp_path))
    sizes = {layer.row.name: len(layer.payload) for layer in result.layers if layer.row.name in VECTORS}
    assert set(sizes) == VECTORS
    assert sum(sizes.values()) < sum(4 * state[name].numel() for name in VECTORS) / 3
    assert 0.7e-2 < result.record.error <= 1e-2


def test_what_nothing_reads_and_what_is_short_stays_as_it_is(tmp_path: Path) -> None:
    module = vector_networks.normalised()
    torch.save(module.state_dict(), tmp_path / "model.pt")
    report = hmcompress.compress(tmp_path / "model.pt", settings=settings_for(tmp_path))
    decoded = hmcompress.load_state_dict(report.output)
    for name, tensor in module.state_dict().items():
        assert decoded[name].dtype == tensor.dtype and decoded[name].shape == tensor.shape
    for name in ("unread", "few", "net.1.num_batches_tracked"):
        assert torch.equal(decoded[name], module.state_dict()[name])
    assert hmcompress.verify(report.output, tmp_path / "model.pt").passed


def test_an_archive_whose_statistics_have_no_gradient_is_compressed(tmp_path: Path) -> None:
    vector_networks.archived().save(str(tmp_path / "model.pt"))
    report = hmcompress.compress(tmp_path / "model.pt", settings=settings_for(tmp_path, torchscript=True))
    assert report.network.error <= report.tol
    assert {layer.name for layer in report.layers} >= VECTORS


@pytest.mark.parametrize(("spread", "steps"), [(0.1, 1), (3.0, 40)])
def test_a_vector_has_steps_of_its_own_where_they_pay(spread: float, steps: int) -> None:
    rng = np.random.default_rng(0)
    w, sizes = rng.standard_normal((200, 1)), np.exp2(spread * rng.choice([-1.0, 1.0], 200))
    grid = quantise(w, factorise(np.eye(1)), factorise(np.diag(sizes**2)), 0.01, 0.0, vector=True)
    error = np.sqrt(np.mean(np.square((grid.to_dense() - w)[:, 0] * sizes)))
    assert 0.7 < error / (0.01 / 12**0.5) < 1.3
    assert (len(np.unique(grid.row_exponents)) > 1) == (steps > 1)


def test_the_error_of_a_change_is_that_of_the_moments() -> None:
    random = np.random.default_rng(3)
    change = random.standard_normal((5, 7))
    rows, columns = (a @ a.T for a in (random.standard_normal((5, 9)), random.standard_normal((7, 9))))
    whole = WholeMetric(factorise(rows), factorise(columns))
    assert whole.error(change) == pytest.approx(np.trace(rows @ change @ columns @ change.T))
    few = np.array([0, 2, 6])
    modes = ModesMetric((Part(few, factorise(rows), factorise(columns[:3, :3])),))
    assert modes.error(change) == pytest.approx(np.trace(rows @ change[:, few] @ columns[:3, :3] @ change[:, few].T))
