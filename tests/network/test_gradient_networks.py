"""Networks that take gradients in their own forward are compressed, or one line says what cannot be bounded."""

from pathlib import Path

import gradient_networks
import numpy as np
import pytest
import torch
from small_networks import layer_bytes, outputs_settings, saved

from hmcompress.checkpoint import Checkpoint
from hmcompress.cli import run
from hmcompress.errors import NetworkError
from hmcompress.network import NetworkResult, compress_network, pose
from hmcompress.settings.config import Settings

HELPERS = Path(__file__).parent / "gradient_networks.py"
STATE = gradient_networks.Energy().state_dict()


def settings_for(name: str, **calibration: object) -> Settings:
    given = {"samples": 256, "held_out": 128, **calibration}
    return outputs_settings(network={"factory": f"{HELPERS}:{name}"}, calibration=given)


def checkpoint(folder: Path) -> Checkpoint:
    return saved(folder, STATE)


def test_a_network_that_needs_gradients_compresses_as_one_that_switches_them_on(tmp_path: Path) -> None:
    own, enabled = (compress_network(checkpoint(tmp_path), settings_for(n)) for n in ("Hamiltonian", "Enabled"))
    assert [layer.payload for layer in own.layers] == [layer.payload for layer in enabled.layers]
    assert own.record.error == enabled.record.error <= 1e-2


def test_outputs_of_a_network_that_takes_gradients_hold_no_graph() -> None:
    network = pose(settings_for("Hamiltonian"), STATE).network
    points = torch.rand(8, 2)
    expected = gradient_networks.Hamiltonian()(points.clone()).detach()
    assert network.own_gradients and not network.run((points,)).requires_grad
    assert torch.equal(network.run((points,)), expected)


def test_other_networks_run_without_gradients() -> None:
    assert not pose(settings_for("Enabled"), STATE).network.own_gradients
    assert not pose(settings_for("Functional"), STATE).network.own_gradients


@pytest.mark.parametrize("derivatives", [0, 1])
def test_layers_inside_transforms_are_compressed(derivatives: int, tmp_path: Path) -> None:
    result = compress_network(checkpoint(tmp_path), settings_for("Functional", derivatives=derivatives))
    assert result.record.error <= 1e-2 and len(result.record.derivative_errors) == 2 * derivatives
    assert {layer.row.name for layer in result.layers} == {
        f"energy.{k}.{part}" for k in (0, 2, 4) for part in ("weight", "bias")
    }
    assert sum(len(layer.payload) for layer in result.layers) < sum(t.numel() for t in STATE.values())


@pytest.mark.parametrize("name", ["Hamiltonian", "Enabled", "Detached"])
def test_derivatives_of_a_network_that_takes_gradients_are_refused(name: str) -> None:
    with pytest.raises(NetworkError, match=r"^calibration: derivatives: 1: torch finds no derivatives of this network"):
        pose(settings_for(name, derivatives=1), STATE)


def test_a_network_that_ends_the_program_is_an_error_and_no_exit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint(tmp_path)
    np.save(tmp_path / "x.npy", np.zeros((64, 2), np.float32))
    options = ["--metric", "outputs", "--network", f"{HELPERS}:Exits", "--inputs", str(tmp_path / "x.npy")]
    assert run(["compress", str(tmp_path / "model.pt"), *options]) == 2
    assert "it ends the program with sys.exit(3)" in capsys.readouterr().err


def test_a_network_that_averages_over_the_batch_is_refused() -> None:
    with pytest.raises(NetworkError, match=r"returns \(1, 1\) for 61 samples: no axis has one entry a sample"):
        pose(settings_for("Average"), STATE)


def test_several_rows_a_sample_and_a_number_of_the_batch_are_no_average() -> None:
    assert pose(settings_for("Rows"), STATE).network.kind == "factory"


def of(name: str, folder: Path) -> NetworkResult:
    return compress_network(saved(folder, getattr(gradient_networks, name)().state_dict()), settings_for(name))


def test_roots_at_zero_hide_no_sensitivity(tmp_path: Path) -> None:
    """Their gradients are nan: points at distance zero from themselves."""
    own, finite = of("Distances", tmp_path), of("RoundedDistances", tmp_path)
    assert own.record.error <= 1e-2 and layer_bytes(own) < 2 * layer_bytes(finite)


def test_a_weight_whose_gradients_are_all_nan_is_coded_within_the_bound(tmp_path: Path) -> None:
    result = of("DistancesOfWeights", tmp_path)
    assert result.record.error <= 1e-2 and layer_bytes(result) < 64 * 64
