"""Networks of many kinds: their outputs and derivatives are bounded, or one line says why not."""

from pathlib import Path

import callable_networks
import numpy as np
import pytest
import torch
from small_networks import outputs_settings, saved

import hmcompress
from hmcompress.errors import BoundError, NetworkError
from hmcompress.network import NetworkResult, compress_network, pose
from hmcompress.network.layerwise.budget import cost_of
from hmcompress.network.layerwise.original import prepare
from hmcompress.network.model.network import Network
from hmcompress.settings.config import Settings

HELPERS = Path(__file__).parent / "callable_networks.py"


def settings_for(name: str, inputs: np.ndarray, folder: Path, **calibration: object) -> Settings:
    np.save(folder / "x.npy", inputs)
    given = {"inputs": str(folder / "x.npy"), "samples": 128, "held_out": 64, **calibration}
    return outputs_settings(network={"factory": f"{HELPERS}:{name}"}, calibration=given, effort="fast")


def compressed(name: str, inputs: np.ndarray, folder: Path, **calibration: object) -> NetworkResult:
    state = getattr(callable_networks, name)().state_dict()
    return compress_network(saved(folder, state), settings_for(name, inputs, folder, **calibration))


def points(width: int = 2) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (512, width)).astype(np.float32)


ALL = ("force", "energy_and_force", "padded", "complex_linear", "mixed", "wide", "by_name", "named_columns", "shelved")


@pytest.mark.parametrize("name", ALL)
def test_the_bound_holds_when_loaded_back(name: str, tmp_path: Path) -> None:
    module = getattr(callable_networks, name)().eval()
    torch.save(module.state_dict(), tmp_path / "model.pt")
    report = hmcompress.compress(tmp_path / "model.pt", settings=settings_for(name, points(), tmp_path))
    expected, fresh = module(torch.from_numpy(points())).detach(), getattr(callable_networks, name)().eval()
    fresh.load_state_dict(hmcompress.load_state_dict(report.output))
    error = float((fresh(torch.from_numpy(points())).detach() - expected).norm() / expected.norm())
    assert 0 < error < 1.1 * report.tol
    assert sum(layer.stored_bytes for layer in report.layers) < sum(layer.source_bytes for layer in report.layers) / 2


def test_outputs_that_are_nearly_the_same_for_all_samples_are_told(tmp_path: Path) -> None:
    """A constant would hold such a bound, and that is what is left of the network."""
    notes = compressed("offset", points(), tmp_path).notes
    assert any("differ from their mean over the samples by" in note for note in notes)
    assert not any("differ" in note for note in compressed("mixed", points(), tmp_path).notes)


def test_samples_that_depend_on_those_beside_them_are_told(tmp_path: Path) -> None:
    notes = compressed("time_first", points().reshape(64, 8, 2), tmp_path, samples=48, held_out=16).notes
    assert any("with the samples beside it: is the first axis of the inputs" in note for note in notes)
    assert not any("beside" in note for note in compressed("nodes", points(), tmp_path).notes)


@pytest.mark.parametrize("times", [1, 4])
def test_points_that_are_learned_from_and_measured_on_are_told(times: int, tmp_path: Path) -> None:
    notes = compressed("mixed", np.tile(points()[:128], (times, 1)), tmp_path, samples=512, held_out=32).notes
    told = [note for note in notes if "held-out points are calibration points too" in note]
    assert len(told) == (times > 1)


def test_tied_weights_are_replaced_at_all_their_places(tmp_path: Path) -> None:
    module = callable_networks.tied()
    x = torch.randn(8, 20)
    problem = pose(settings_for("tied", points(20), tmp_path), module.state_dict())
    tensors = {"into.weight": 2 * module.into.weight, "out.weight": 2 * module.into.weight}
    twice = module.into.weight.detach() * 2
    expected = torch.tanh(x @ twice.T + module.into.bias) @ twice.T
    assert torch.allclose(problem.network.run((x,), tensors), expected, atol=1e-5)


@pytest.mark.parametrize(("name", "directions"), [("attention", 2), ("convolution", 2)])
def test_derivatives_are_bounded_beyond_dense_layers(name: str, directions: int, tmp_path: Path) -> None:
    result = compressed(name, points(directions), tmp_path, derivatives=1)
    assert len(result.record.derivative_errors) == directions
    assert max(result.record.derivative_errors) <= result.record.error <= result.record.tol


def test_derivatives_leave_the_kernels_of_attention_and_recurrent_layers_as_they_were(tmp_path: Path) -> None:
    def flags() -> tuple[bool, bool]:
        return torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled

    before = flags()
    pose(settings_for("attention", points(), tmp_path, derivatives=1), callable_networks.attention().state_dict())
    assert flags() == before


def test_derivatives_by_whole_numbers_are_refused(tmp_path: Path) -> None:
    settings = settings_for("steps", np.zeros((64, 2), np.int64), tmp_path, derivatives=1)
    with pytest.raises(NetworkError, match="derivatives: the last input holds whole numbers"):
        pose(settings, callable_networks.steps().state_dict())


def test_whole_numbers_stored_as_floats_are_told_how_to_be_stored(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match=r"\(2, 2\): .*must be whole numbers: store them as integers in .npz"):
        pose(settings_for("steps", np.zeros((64, 2)), tmp_path), callable_networks.steps().state_dict())


def test_lazy_layers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="lazy layers: run it once before it is returned"):
        pose(settings_for("lazy", points(), tmp_path), {"0.weight": torch.zeros(24, 2)})


def test_a_weight_that_is_not_finite_is_named(tmp_path: Path) -> None:
    state = callable_networks.convolution().state_dict()
    state["net.3.weight"][0, 0] = torch.nan
    with pytest.raises(NetworkError, match=r"calibration points: net.3.weight holds nan or inf"):
        pose(settings_for("convolution", points(), tmp_path), state)


def test_a_byte_order_mark_is_no_line_of_names(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("\ufeff" + "\n".join("0.5,0.25" for _ in range(64)), encoding="utf-8")
    calibration = {"inputs": str(tmp_path / "x.csv"), "samples": 64, "held_out": 16}
    settings = outputs_settings(network={"factory": f"{HELPERS}:convolution"}, calibration=calibration)
    problem = pose(settings, callable_networks.convolution().state_dict())
    assert len(problem.calibration.points) == 64 - 2 * 16


class Stopped(torch.nn.Module):
    """Fails as compiled code does that Ctrl-C stops, or for lack of memory."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.net, self.error = torch.nn.Linear(2, 3), error

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if isinstance(self.error, KeyboardInterrupt):
            raise SystemError("returned a result with an exception set") from self.error
        raise self.error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), BoundError("no step")])
def test_what_is_no_fault_of_the_network_is_not_told_as_one(error: BaseException) -> None:
    module = Stopped(error)
    network = Network(module, (), {}, "factory", torch.float32)
    with pytest.raises(type(error)):
        network.call((torch.zeros(4, 2),))


def test_rows_that_a_layer_sees_of_a_sample_count_as_work(tmp_path: Path) -> None:
    """Graph networks and transformers took minutes for as many passes as networks that see a sample once."""
    state = callable_networks.per_edge().state_dict()
    problem = pose(settings_for("per_edge", points(), tmp_path), state)
    rows = 20 * len(problem.calibration.points)
    assert rows * 2 * 32 < cost_of(problem, prepare(problem, state, "fast")) < 2 * rows * 2 * 32


@pytest.mark.parametrize(("name", "columns"), [("with_a_loss", 2), ("with_nodes", 3)])
def test_what_stands_beside_the_outputs_is_in_the_rows_of_the_samples(name: str, columns: int, tmp_path: Path) -> None:
    """Whatever the number of batches: what is one number for all samples, and what has several rows for each."""
    inputs = np.random.default_rng(0).uniform(-1, 1, (8192, 2)).astype(np.float32)
    state = getattr(callable_networks, name)().state_dict()
    problem = pose(settings_for(name, inputs, tmp_path, samples=5000), state)
    assert problem.calibration.blocks[0].shape == (5000, columns)
    notes = compressed(name, points(), tmp_path).notes
    assert not any("differ from their mean" in note for note in notes)


def test_outputs_without_rows_for_samples_in_several_batches_are_refused(tmp_path: Path) -> None:
    inputs = np.random.default_rng(0).uniform(-1, 1, (8192, 2)).astype(np.float32)
    state = callable_networks.with_a_table().state_dict()
    with pytest.raises(NetworkError, match="no row for each sample"):
        pose(settings_for("with_a_table", inputs, tmp_path, samples=5000), state)
