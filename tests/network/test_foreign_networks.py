"""The outputs metric takes networks of any kind that can be called, and says why where it cannot."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path

import foreign_networks
import numpy as np
import pytest
import torch
from small_networks import outputs_settings, saved
from torch import Tensor

import hmcompress
from hmcompress.baselines import PEERS
from hmcompress.baselines.knobs import Knob, NetworkPart
from hmcompress.baselines.matrix import Matrix
from hmcompress.checkpoint import open_checkpoint
from hmcompress.cli import run
from hmcompress.commands.verifying import network_settings
from hmcompress.container import CompressedFile
from hmcompress.container.payload import decode_layer
from hmcompress.errors import NetworkError
from hmcompress.layers import to_matrices
from hmcompress.network import NetworkResult, compress_network, load_tensors, pose
from hmcompress.settings.config import Settings, load_settings

HELPERS = Path(__file__).parent / "foreign_networks.py"


def settings_for(name: str, inputs: np.ndarray, folder: Path, **changes: object) -> Settings:
    np.save(folder / "x.npy", inputs)
    calibration = {"inputs": str(folder / "x.npy"), "samples": 256, "held_out": 128}
    return outputs_settings(network={"factory": f"{HELPERS}:{name}"}, calibration=calibration, **changes)


def compressed(name: str, inputs: np.ndarray, folder: Path, **changes: object) -> NetworkResult:
    state = getattr(foreign_networks, name)().state_dict()
    return compress_network(saved(folder, state), settings_for(name, inputs, folder, **changes))


def layer_bytes(result: NetworkResult) -> int:
    return sum(len(layer.payload) for layer in result.layers)


def smooth(*shape: int) -> np.ndarray:
    """Random samples of few frequencies along the last axis."""
    rng = np.random.default_rng(0)
    t = np.linspace(0, 6, shape[-1])
    waves = np.sin(t * rng.uniform(0.5, 2, (*shape[:-1], 1)) + rng.uniform(0, 6, (*shape[:-1], 1)))
    return np.cumsum(waves, 1 if len(shape) > 2 else 0).astype(np.float32) / 4


def points(count: int = 512) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (count, 2)).astype(np.float32)


def images() -> np.ndarray:
    return smooth(512, 1, 12, 12)


def entropy_coded_bytes(result: NetworkResult, folder: Path, settings: Settings) -> int:
    """Quantisation of the same layers with an entropy code, at the same network error."""
    tensors = load_tensors(hmcompress.checkpoint.open_checkpoint(folder / "model.pt"))
    problem = pose(settings, tensors)

    def error(replaced: Mapping[str, Tensor]) -> float:
        return max(problem.errors(problem.held_out, replaced))

    parts = [
        NetworkPart(name, None, (tensors[name],), tuple(map(Matrix, to_matrices(tensors[name]))), False)
        for name in result.tensors
        if tensors[name].ndim > 1
    ]
    knob = Knob(PEERS["quantization_entropy"], parts, False, error)
    k = knob.coarsest_within(settings.tol)
    assert k is not None
    return knob.nbytes(k)


@pytest.mark.parametrize("tol", [1e-1, 1e-2])
def test_convolutions_are_smaller_than_by_entropy_coded_quantisation(tol: float, tmp_path: Path) -> None:
    result = compressed("convolutions", images(), tmp_path, tol=tol)
    assert 0.85 * tol < result.record.error <= tol
    settings = settings_for("convolutions", images(), tmp_path, tol=tol)
    assert layer_bytes(result) < 0.75 * entropy_coded_bytes(result, tmp_path, settings)


def test_complex_weights_and_outputs_take_part(tmp_path: Path) -> None:
    source = saved(tmp_path, foreign_networks.spectral().state_dict()).path
    settings = settings_for("spectral", smooth(512, 32), tmp_path)
    report = hmcompress.compress(source, tmp_path / "model.hmc.safetensors", settings=settings)
    assert report.network is not None and 0.85e-2 < report.network.error <= 1e-2
    assert "modes" in {layer.name for layer in report.layers}
    modes = hmcompress.load_state_dict(tmp_path / "model.hmc.safetensors")["modes"]
    assert modes.dtype == torch.complex64 and hmcompress.verify(tmp_path / "model.hmc.safetensors", source).passed


def test_modules_that_change_their_inputs_compress_as_others(tmp_path: Path) -> None:
    """What is noted on the way through a network is not what later steps make of it."""
    changing, other = (compressed(name, points(), tmp_path) for name in ("in_place", "out_of_place"))
    assert [layer.payload for layer in changing.layers] == [layer.payload for layer in other.layers]
    assert [row.local_error for row in changing.record.layers] == [row.local_error for row in other.record.layers]


def test_random_outputs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match=r"from one call to the next.*dropout"):
        compressed("random", points(), tmp_path)


@pytest.mark.parametrize("name", ["without_gradients", "repeated"])
def test_networks_without_gradients_or_with_repeated_layers_use_the_tolerance(name: str, tmp_path: Path) -> None:
    result = compressed(name, points(), tmp_path)
    assert 0.7e-2 < result.record.error <= 1e-2
    assert len(result.layers) == {"without_gradients": 3, "repeated": 4}[name]  # a repeated layer and its bias


@pytest.mark.parametrize("name", ["masked", "added", "doubled"])
def test_only_what_is_a_dense_layer_is_taken_for_one(name: str, tmp_path: Path) -> None:
    result = compressed(name, points(), tmp_path)
    dense = {layer.name for layer in result.record.layers}
    products = set() if name == "masked" else {"0.weight", "2.weight"}  # with the weights as they are
    added = {f"{k}.{part}.weight" for k in (0, 2) for part in ("down", "up")} if name == "added" else set()
    assert dense == {"4.weight"} | products | added
    assert {"0.weight", "2.weight", "4.weight"} <= {layer.row.name for layer in result.layers}
    assert (0.6e-2 if name == "added" else 0.7e-2) < result.record.error <= 1e-2


def test_masks_come_back_bit_for_bit_and_masked_weights_take_few_bytes(tmp_path: Path) -> None:
    state = foreign_networks.masked().state_dict()
    source = saved(tmp_path, state).path
    settings = settings_for("masked", points(), tmp_path)
    hmcompress.compress(source, tmp_path / "small.hmc.safetensors", settings=settings)
    decoded = hmcompress.load_state_dict(tmp_path / "small.hmc.safetensors")
    assert all(torch.equal(decoded[name], t) for name, t in state.items() if name.endswith("mask"))
    result = compressed("masked", points(), tmp_path)
    assert layer_bytes(result) < 0.75 * entropy_coded_bytes(result, tmp_path, settings)


def test_modules_that_print_leave_stdout_to_the_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "x.npy", points())
    saved(tmp_path, foreign_networks.talkative().state_dict())
    options = ["--metric", "outputs", "--network", f"{HELPERS}:talkative", "--inputs", str(tmp_path / "x.npy")]
    capsys.readouterr()
    code = run(["compress", str(tmp_path / "model.pt"), *options, "--tol", "1e-2", "--effort", "fast", "--json"])
    shown = capsys.readouterr()
    assert code == 0 and json.loads(shown.out)["network"]["error"] <= 1e-2 and "building" in shown.err


@pytest.mark.parametrize("tol", [1e-2, 1e-3])
def test_a_basis_of_few_smooth_modes_is_coded_by_its_structure(tol: float, tmp_path: Path) -> None:
    result = compressed("modes", points(), tmp_path, tol=tol)
    size = next(len(layer.payload) for layer in result.layers if layer.row.name == "modes")
    assert result.record.error <= tol and 8 * size < 3 * 12 * 400  # bits a number; one by one they take 5 and more


def test_tokens_that_were_not_seen_keep_their_precision(tmp_path: Path) -> None:
    """Each token occurs about once among the calibration samples, so a third of those held out does not."""
    result = compressed("tokens", np.random.default_rng(0).integers(0, 800, (400, 4)), tmp_path)
    table = foreign_networks.tokens().state_dict()["table.weight"]
    payload = next(layer.payload for layer in result.layers if layer.row.name == "table.weight")
    decoded = decode_layer(payload, [tuple(table.shape)], table.dtype)[0]
    errors = (decoded - table).norm(dim=1) / table.norm(dim=1)
    assert float(errors.max()) < 5 * float(errors.median()) and result.record.error <= 1e-2


def test_nobody_is_told_that_archives_are_deprecated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Newer releases of torch warn whoever loads one; the user has one, and a command's stderr is for its errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(torch.nn.Linear(2, 20)).save(tmp_path / "model.pt")
    load = torch.jit.load

    def warning(*args: str, **options: str) -> torch.nn.Module:
        warnings.warn("deprecated", FutureWarning, stacklevel=1)
        return load(*args, **options)

    monkeypatch.setattr(torch.jit, "load", warning)
    np.save(tmp_path / "x.npy", points())
    archive = tmp_path / "model.pt"
    settings = outputs_settings(network={"torchscript": True}, calibration={"inputs": str(tmp_path / "x.npy")})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pose(settings, load_tensors(open_checkpoint(archive)), archive)


def test_an_archive_that_takes_more_than_tensors_is_told_how_to_be_called(tmp_path: Path) -> None:
    class Rated(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(2, 20)

        def forward(self, x: Tensor, rate: int) -> Tensor:
            return self.layer(x) * rate

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, its archives are not gone
        torch.jit.script(Rated()).save(tmp_path / "model.pt")
    np.save(tmp_path / "x.npy", points())
    with pytest.raises(NetworkError, match=r"'rate'.*or give a factory whose module adds the constants"):
        hmcompress.compress(
            tmp_path / "model.pt",
            metric="outputs",
            network={"torchscript": True},
            calibration={"inputs": str(tmp_path / "x.npy")},
        )


@pytest.mark.parametrize("text", ["import sys\nsys.exit(0)", "import sys\ndef build(): sys.exit(0)"])
def test_a_factory_that_exits_is_an_error_and_no_success(text: str, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(text)
    np.save(tmp_path / "x.npy", points())
    saved(tmp_path, {"0.weight": torch.ones(20, 2)})
    options = ["--metric", "outputs", "--network", f"{tmp_path / 'net.py'}:build", "--inputs", str(tmp_path / "x.npy")]
    assert run(["compress", str(tmp_path / "model.pt"), *options]) == 2
    assert not (tmp_path / "model.hmc.safetensors").exists()


def renamed(name: str) -> dict[str, Tensor]:
    """The state of a factory's module with names for which no usual prefix is known."""
    state = getattr(foreign_networks, name)().state_dict()
    return {key.replace("first.", "entry."): t for key, t in state.items()}


def test_verify_with_another_factory_keeps_prefixes_seed_and_derivatives(tmp_path: Path) -> None:
    source = saved(tmp_path, renamed("out_of_place")).path
    network = {"factory": f"{HELPERS}:out_of_place", "prefix": {"entry.": "first.", "last.": "last."}}
    calibration = {"derivatives": 1, "samples": 64, "held_out": 64, "seed": 3}
    settings = outputs_settings(network=network, calibration=calibration)
    report = hmcompress.compress(source, tmp_path / "small.hmc.safetensors", settings=settings)
    np.save(tmp_path / "x.npy", points())
    factory = f"{HELPERS}:out_of_place"
    verdict = hmcompress.verify(tmp_path / "small.hmc.safetensors", source, network=factory)
    assert verdict.network is not None and report.network is not None
    assert verdict.network.error == pytest.approx(report.network.error)
    file, inputs = tmp_path / "small.hmc.safetensors", str(tmp_path / "x.npy")
    given = network_settings(CompressedFile.open(file), source, None, factory, inputs)
    assert given is not None and given.calibration is not None
    assert (given.calibration.derivatives, given.calibration.seed, given.calibration.held_out) == (1, 3, 64)


def test_another_factory_on_the_command_line_keeps_the_prefixes_of_the_yaml(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("metric: outputs\nnetwork: {factory: 'a:b', prefix: {'x.': 'y.'}}\n")
    given = {"network": {"factory": "c:d"}, "calibration": {"domain": {"x": [0, 1]}}}
    assert load_settings(tmp_path / "c.yaml", given).to_json()["network"] == {"factory": "c:d", "prefix": {"x.": "y."}}
    mlp = {"network": {"mlp": {"activation": "tanh"}}, "calibration": {"domain": {"x": [0, 1]}}}
    assert load_settings(tmp_path / "c.yaml", mlp).to_json()["network"] == mlp["network"]


def test_a_network_that_takes_one_dict_is_told_how_to_be_called(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=points(), b=points())
    settings = outputs_settings(
        network={"factory": f"{HELPERS}:one_dict"}, calibration={"inputs": str(tmp_path / "x.npz")}
    )
    with pytest.raises(NetworkError, match="give a factory whose module makes a dict or a list of them"):
        pose(settings, foreign_networks.one_dict().state_dict())
