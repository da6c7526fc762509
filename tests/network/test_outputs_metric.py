"""The outputs metric keeps its bounds, uses them, and says what it did."""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small_networks import build_mixed, forward, outputs_settings, saved, stack

import hmcompress
import hmcompress.network.layerwise.ways as all_ways
from hmcompress.container.payload import decode_layer
from hmcompress.errors import NetworkError
from hmcompress.hmatrix.codecs import WEIGHTED
from hmcompress.network import NetworkResult, compress_network, load_tensors, pose
from hmcompress.network.layerwise.propagate import Parts
from hmcompress.network.layerwise.search import Search, search
from hmcompress.network.layerwise.trial import Trial
from hmcompress.settings.config import load_settings
from hmcompress.work.progress import silent

HELPERS = Path(__file__).parent / "small_networks.py"
SIZES = [2, 32, 32, 1]


def layer_bytes(result: NetworkResult) -> int:
    return sum(len(layer.payload) for layer in result.layers)


def source_bytes(result: NetworkResult) -> int:
    return sum(4 * int(np.prod(shape)) for layer in result.layers for shape in layer.shapes)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> NetworkResult:
    checkpoint = saved(tmp_path_factory.mktemp("plain"), stack(SIZES))
    return compress_network(checkpoint, outputs_settings(tol=1e-3))


def test_error_keeps_and_uses_the_tolerance(plain: NetworkResult) -> None:
    assert 0.85e-3 < plain.record.error <= 1e-3


def test_network_is_much_smaller_than_its_weights(plain: NetworkResult) -> None:
    assert layer_bytes(plain) < source_bytes(plain) / 8


def test_record_names_every_layer_with_its_dead_neurons(plain: NetworkResult) -> None:
    layers = plain.record.layers
    assert [layer.name for layer in layers] == ["net.0.weight", "net.2.weight", "net.4.weight"]
    assert all(layer.dead_rows == after.zero_columns for layer, after in itertools.pairwise(layers))
    assert plain.record.rate_limit_bytes is not None and plain.record.rate_limit_bytes < layer_bytes(plain)


def test_same_input_gives_the_same_bytes(plain: NetworkResult, tmp_path: Path) -> None:
    again = compress_network(saved(tmp_path, stack(SIZES)), outputs_settings(tol=1e-3))
    assert [layer.payload for layer in again.layers] == [layer.payload for layer in plain.layers]


def test_progress_ends_at_its_total(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    compress_network(
        saved(tmp_path, stack([2, 16, 1])), outputs_settings(), lambda _, done, total: told.append((done, total))
    )
    assert told[-1][0] == told[-1][1] and all(done <= total for done, total in told)


@pytest.mark.parametrize("kind", ["max", "each"])
def test_other_kinds_of_tolerance_hold(tmp_path: Path, kind: str) -> None:
    state = stack([2, 24, 24, 3])
    settings = outputs_settings(calibration={"tolerance": kind})
    checkpoint = saved(tmp_path, state)
    result = compress_network(checkpoint, settings)
    problem = pose(settings, load_tensors(checkpoint))
    x = problem.held_out.points.tensors[0]
    decoded = decode(result)
    y, z = forward(state, x, torch.tanh), forward(decoded, x, torch.tanh)
    if kind == "max":
        assert float((y - z).abs().max() / y.abs().max()) <= 1e-2
    else:
        assert float(((y - z).norm(dim=0) / y.norm(dim=0)).max()) <= 1e-2


def decode(result: NetworkResult) -> dict[str, torch.Tensor]:
    tensors = {}
    for layer in result.layers:
        tensors |= dict(zip(layer.row.tensors, decode_layer(layer.payload, layer.shapes, layer.dtype), strict=True))
    return tensors


@pytest.mark.parametrize("order", [1, 2])
def test_derivatives_keep_the_tolerance(tmp_path: Path, order: int) -> None:
    state = stack([2, 16, 16, 1])
    settings = outputs_settings(calibration={"derivatives": order, "samples": 256, "held_out": 256})
    result = compress_network(saved(tmp_path, state), settings)
    assert len(result.record.derivative_errors) == 2 * order
    x = pose(settings, state).held_out.points.tensors[0].requires_grad_()
    slopes = [torch.autograd.grad(forward(tensors, x, torch.tanh).sum(), x)[0] for tensors in (state, decode(result))]
    errors = ((slopes[1] - slopes[0]).norm(dim=0) / slopes[0].norm(dim=0)).tolist()
    assert errors == pytest.approx(list(result.record.derivative_errors[:2]), rel=1e-6)
    assert max(errors) <= 1e-2
    alone = result.record.function_error
    assert alone is not None and result.record.error == max(alone, *result.record.derivative_errors)


def test_kernel_bound_holds_and_costs_bytes(plain: NetworkResult, tmp_path: Path) -> None:
    settings = outputs_settings(tol=1e-3, ntk={"tol": 0.01, "samples": 64})
    result = compress_network(saved(tmp_path, stack(SIZES)), settings)
    assert result.record.ntk is not None and result.record.ntk.error <= 0.01 and result.record.error <= 1e-3
    assert result.record.ntk.min_eigenvalue > -1e-6
    assert layer_bytes(result) > layer_bytes(plain)


def test_function_alone_is_searched_in_the_kernels_way_too(
    plain: NetworkResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ways: dict[bool, float] = {}

    def noted(*args: Any, **options: Any) -> Trial | None:
        trial = search(*args, **options)
        ways[args[-1].firm] = math.inf if trial is None else trial.nbytes
        return trial

    monkeypatch.setattr(all_ways, "search", noted)
    result = compress_network(saved(tmp_path, stack(SIZES)), outputs_settings(tol=1e-3))
    assert set(ways) == {False, True} and layer_bytes(result) <= min(ways.values())


def test_kernel_is_bounded_by_default_for_built_in_networks(tmp_path: Path) -> None:
    settings = outputs_settings(ntk=None)
    result = compress_network(saved(tmp_path, stack([2, 16, 16, 1])), settings)
    assert result.record.ntk is not None and result.record.ntk.tol == 0.1 and result.record.ntk.error <= 0.1


def test_operator_is_coded_by_the_engine(tmp_path: Path) -> None:
    n = 96
    x = (torch.arange(n) + 0.5) / n
    weight = torch.minimum(x[:, None], x) * (1 - torch.maximum(x[:, None], x))
    forcings = torch.randn(64, n, generator=torch.Generator().manual_seed(0)).cumsum(1)
    save_file({"x": forcings}, tmp_path / "f.safetensors")
    settings = load_settings(
        None,
        {
            "metric": "outputs",
            "tol": 1e-3,
            "network": {"linear": {}},
            "calibration": {"inputs": str(tmp_path / "f.safetensors")},
            "ntk": False,
            "effort": "default",
        },
    )
    result = compress_network(saved(tmp_path, {"weight": weight}), settings)
    assert result.record.error <= 1e-3 and result.layers[0].payload[0] != WEIGHTED
    assert layer_bytes(result) < source_bytes(result) / 250


def test_modules_that_cannot_be_weighted_join(tmp_path: Path) -> None:
    np.savez(tmp_path / "i.npz", i=np.random.default_rng(0).integers(0, 30, (200, 8)))
    settings = outputs_settings(
        network={"factory": f"{HELPERS}:build_mixed"},
        calibration={"inputs": str(tmp_path / "i.npz"), "samples": 100},
    )
    model = build_mixed()
    result = compress_network(saved(tmp_path, model.state_dict()), settings)
    coded = {layer.row.name for layer in result.layers}
    assert {"embedding.weight", "attention.in_proj_weight", "convolution.weight", "feed.0.weight"} <= coded
    assert result.record.error <= 1e-2 and layer_bytes(result) < source_bytes(result) / 4
    assert result.record.noisy_error is None  # whole numbers have no noise


def test_torchscript_runs_itself(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(2, 32), torch.nn.Tanh(), torch.nn.Linear(32, 2))
    torch.jit.script(net).save(tmp_path / "net.pt")
    settings = outputs_settings(network={"torchscript": True})
    report = hmcompress.compress(tmp_path / "net.pt", tmp_path / "net.hmc.safetensors", settings=settings)
    assert report.network is not None and report.network.error <= 1e-2
    small = hmcompress.load_model(tmp_path / "net.hmc.safetensors", torch.jit.load(tmp_path / "net.pt"))
    small.save(tmp_path / "small.pt")  # type: ignore[operator]
    x = torch.rand(2000, 2) * torch.tensor([2.0, 1.0]) - torch.tensor([1.0, 0.0])
    with torch.no_grad():
        y, again = net(x), torch.jit.load(tmp_path / "small.pt")(x)
    assert torch.equal(small(x), again) and 1e-3 < float((again - y).norm() / y.norm()) < 1.2e-2


def test_file_verifies_against_its_source_on_fresh_points(tmp_path: Path) -> None:
    saved(tmp_path, stack([2, 24, 24, 1]))
    source, target = tmp_path / "model.pt", tmp_path / "model.hmc.safetensors"
    report = hmcompress.compress(source, target, settings=outputs_settings())
    verified = hmcompress.verify(target, against=source)
    assert report.network is not None and verified.network is not None and verified.passed
    assert verified.network.error == pytest.approx(report.network.error)
    assert verified.network.fresh_error == pytest.approx(report.network.error, rel=0.3)
    tight = hmcompress.verify(target, against=source, tol=1e-5)
    assert not tight.passed and tight.network is not None and tight.network.largest_growth


def test_too_few_samples_are_said(tmp_path: Path) -> None:
    settings = outputs_settings(tol=1e-3, calibration={"samples": 24, "held_out": 512})
    result = compress_network(saved(tmp_path, stack([2, 48, 48, 1], gain=2.5)), settings)
    assert result.record.error <= 1e-3
    if result.record.error > 1.3 * result.record.calibration_error:
        assert any("raise calibration samples above 24" in note for note in result.notes)


def test_tied_weights_are_coded_once(tmp_path: Path) -> None:
    state = stack([2, 16, 16, 1])
    state["alias.weight"] = state["net.2.weight"]
    settings = outputs_settings(network={"mlp": {"activation": "tanh", "layers": "net.*"}})
    checkpoint = saved(tmp_path, state)
    result = compress_network(checkpoint, settings)
    assert result.record.error <= 1e-2
    assert (
        sum("net.2.weight" in layer.row.tensors or "alias.weight" in layer.row.tensors for layer in result.layers) == 1
    )


def test_half_precision_weights_keep_their_dtype(tmp_path: Path) -> None:
    state = {name: t.half() for name, t in stack([2, 24, 24, 1]).items()}
    result = compress_network(saved(tmp_path, state), outputs_settings())
    assert all(layer.dtype == torch.float16 for layer in result.layers) and result.record.error <= 1e-2


def test_search_keeps_what_holds_and_refines_what_does_not() -> None:
    class Part:
        def __init__(self, nbytes: int) -> None:
            self.nbytes = nbytes

        def payload(self, thorough: bool) -> bytes:
            return bytes(self.nbytes)

    def run(knobs):
        return {"w": Part(int(1000 / knobs.delta**0.3))}

    errors = iter(range(10**6))
    trial = search(run, lambda parts: 50 * (1000 / parts["w"].nbytes) ** (1 / 0.3), 1e-2, 20, lambda n: next(errors))
    assert trial is not None and 0.85e-2 < trial.error <= 1e-2
    assert isinstance(Search(run, lambda parts: 1.0, 1e-2, 5, lambda n: None).holding(), list)


@pytest.mark.parametrize("preferred", [0, 1, 99])
def test_search_takes_the_smallest_that_is_preferred_or_the_smallest(preferred: int) -> None:
    class Bytes(int):
        def payload(self, thorough: bool) -> bytes:
            return bytes(self)

    sizes, holding = iter(range(1000, 0, -1)), [982, 983, 984, 985]  # what twenty passes leave

    def prefer(parts: Parts) -> bool:
        return preferred < 99 and parts["w"] == holding[preferred]  # type: ignore[comparison-overlap]

    trial = search(
        lambda knobs: {"w": Bytes(next(sizes))},  # type: ignore[dict-item]
        lambda parts: 9.8e-4,
        1e-3,
        19,
        lambda done: None,
        prefer=prefer,
    )
    assert trial is not None and trial.nbytes == holding[preferred % 99]


def test_search_gives_up_where_its_first_passes_need_too_many_bytes() -> None:
    class Bytes:
        def payload(self, thorough: bool) -> bytes:
            return bytes(1000)

    def found(worth: float) -> tuple[bool, int]:
        tried: list[int] = []
        trial = search(lambda knobs: {"w": Bytes()}, lambda parts: 9e-4, 1e-3, 40, tried.append, worth=worth)  # type: ignore[dict-item,return-value]
        return trial is None, len(tried)

    assert found(100.0) == (True, 1)
    given_up, passes = found(2000.0)
    assert not given_up and passes > 30


def test_network_errors_are_raised_before_anything_is_written(tmp_path: Path) -> None:
    saved(tmp_path, stack([2, 16, 1]))
    settings = outputs_settings(calibration={"domain": {"x": [0, 1]}})
    with pytest.raises(NetworkError):
        hmcompress.compress(tmp_path / "model.pt", tmp_path / "out.hmc.safetensors", settings=settings, progress=silent)
    assert not (tmp_path / "out.hmc.safetensors").exists()


def test_rules_keep_layers_lossless(tmp_path: Path) -> None:
    state = stack([2, 24, 24, 1])
    settings = outputs_settings(layers=[{"match": "net.2.*", "keep": True}])
    hmcompress.compress(saved(tmp_path, state).path, tmp_path / "out.hmc.safetensors", settings=settings)
    restored = hmcompress.load_state_dict(tmp_path / "out.hmc.safetensors")
    assert torch.equal(restored["net.2.weight"], state["net.2.weight"])
    assert not torch.equal(restored["net.0.weight"], state["net.0.weight"])
