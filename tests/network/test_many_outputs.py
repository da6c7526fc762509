"""Networks of many outputs: a small one learns their modes, its last layer is smooth, the bound is of all outputs."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from few_forms import few_forms
from field_networks import POINTS, build, build_denormalised, build_positive, field_state
from small_networks import decoded, forward, layer_bytes, outputs_settings, saved, stack
from torch import Tensor

import hmcompress.network.joint.distil as distil
import hmcompress.network.joint.middle as middle
import hmcompress.network.joint.widening as widening
import hmcompress.network.stages as stages
from hmcompress.hmatrix.codecs import SMOOTH
from hmcompress.network import NetworkResult, compress_network, pose
from hmcompress.network.joint.chains import MOST_OUTPUTS
from hmcompress.network.joint.distil import chains_of, fresh, learning_data, with_outputs
from hmcompress.network.joint.many import with_modes
from hmcompress.network.layerwise.coded import Smooth
from hmcompress.network.layerwise.original import prepare
from hmcompress.network.layerwise.propagate import Knobs, tensors_of

TOL = 3e-2
FACTORY = str(Path(__file__).parent / "field_networks.py") + ":build"


def many_settings(**changes: Any) -> Any:
    return outputs_settings(**{"effort": "default", "tol": TOL, **changes})


@pytest.fixture(scope="module", autouse=True)
def _little_work() -> Iterator[None]:
    with few_forms():
        yield


def head(result: NetworkResult) -> int:
    """The codec of the last layer."""
    return next(layer.payload[0] for layer in result.layers if layer.row.tensors[0] == "net.4.weight")


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> NetworkResult:
    return compress_network(saved(tmp_path_factory.mktemp("field"), field_state()), many_settings())


def test_a_field_takes_a_fraction_of_layer_after_layer(
    field: NetworkResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "origins_of", lambda problem: ())
    alone = compress_network(saved(tmp_path, field_state()), many_settings())
    assert head(field) == SMOOTH
    assert 1.5 * layer_bytes(field) < layer_bytes(alone)


def test_the_bound_holds_for_all_outputs_on_decoded_values(field: NetworkResult) -> None:
    x = pose(many_settings(), field_state()).held_out.points.tensors[0]
    y, z = forward(field_state(), x, torch.tanh), forward(decoded(field), x, torch.tanh)
    error = float((z - y).norm() / y.norm())
    assert error == pytest.approx(field.record.error, rel=1e-6) and 0.7 * TOL < error <= TOL


def test_a_module_of_the_users_own_has_modes_too(tmp_path: Path, field: NetworkResult) -> None:
    settings = many_settings(network={"factory": FACTORY})
    found = compress_network(saved(tmp_path, field_state()), settings)
    assert head(found) == SMOOTH and layer_bytes(found) < 1.3 * layer_bytes(field)


def test_outputs_in_units_of_their_own_have_modes(tmp_path: Path) -> None:
    module = build_denormalised()
    module.load_state_dict(field_state(), strict=False)
    settings = many_settings(network={"factory": f"{FACTORY}_denormalised"}, tol=1e-2)
    found = compress_network(saved(tmp_path, module.state_dict()), settings)
    assert head(found) == SMOOTH and 0.7e-2 < found.record.error <= 1e-2
    x = pose(settings, module.state_dict()).held_out.points.tensors[0].float()
    with torch.no_grad():
        y, _ = module(x), module.load_state_dict(decoded(found), strict=False)
        error = float((module(x) - y).norm() / y.norm())
    assert error == pytest.approx(found.record.error, rel=1e-3)


@pytest.mark.parametrize(("name", "linear"), [("", True), ("_denormalised", True), ("_positive", False)])
def test_only_factors_and_offsets_may_follow(name: str, linear: bool) -> None:
    module = {"": build, "_denormalised": build_denormalised, "_positive": build_positive}[name]()
    chains = chains_of(pose(many_settings(network={"factory": FACTORY + name}), module.state_dict()))
    assert (chains is not None) == linear
    if name == "_denormalised":
        assert chains is not None and chains.scaled is not None
        expected = torch.stack([module.deviation, module.mean]).double()
        torch.testing.assert_close(chains.scaled, expected, rtol=1e-6, atol=1e-6)


def test_slim_networks_count_what_the_last_layer_reads(tmp_path: Path, field: NetworkResult) -> None:
    slim = compress_network(saved(tmp_path, field_state()), many_settings(slim="prefer"))
    reads = [int((decoded(x)["net.4.weight"] != 0).any(0).sum()) for x in (slim, field)]
    assert reads[0] <= reads[1] < 16


def test_modes_leave_less_than_half_of_the_tolerance() -> None:
    problem = pose(many_settings(), field_state())
    chains = chains_of(problem)
    assert chains is not None and chains.too_many
    found = with_modes(problem, chains, 1e-2)
    assert found is not None and found.modes is not None and found.modes.shape == (POINTS, 4)
    y = problem.held_out.blocks[0]
    assert float((y - y @ found.modes @ found.modes.T).norm() / y.norm()) < 5e-3
    fewer = with_modes(problem, chains, 0.5)
    assert fewer is not None and fewer.modes is not None and fewer.modes.shape[1] < 4


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"calibration": {"tolerance": "max"}}, field_state()),
        ({"calibration": {"tolerance": "each"}}, field_state()),
        ({"calibration": {"derivatives": 1}}, {name: w.double() for name, w in field_state().items()}),
        ({}, stack([2, 32, 32, 2 * MOST_OUTPUTS], gain=6)),  # of more modes than can be learned
    ],
)
def test_where_modes_do_not_serve_there_are_none(changes: dict[str, Any], state: dict[str, Tensor]) -> None:
    problem = pose(many_settings(**changes), state)
    chains = chains_of(problem)
    assert chains is not None and with_modes(problem, chains, 1e-4) is None


def test_some_tens_of_neurons_learn_modes_and_passes_write_the_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middle, "MIDDLE_ROWS", 1024)
    monkeypatch.setattr(widening, "_ROWS", (512,))
    monkeypatch.setattr(middle, "_HIDDEN", (12,))
    monkeypatch.setattr(middle, "_WEIGHTS_PER_BYTE", (0.0, 0.0))
    problem = pose(many_settings(), field_state())
    chains = chains_of(problem)
    modes = None if chains is None else with_modes(problem, chains, 1e-3)
    assert modes is not None
    found = middle.middle_network(problem, modes, 1e-3, "default", lambda share: None)
    assert found is not None and found.error(problem) < 1e-3
    data = prepare(replace(problem, network=found.network), field_state(), "default")
    parts = middle.compressed(problem.network, found, data, Knobs(1e-5))
    last = parts["net.4.weight"]
    assert isinstance(last, Smooth) and last.dense().shape == (POINTS, 33) and not last.dense()[:, 12:32].any()
    tensors = tensors_of(problem.network, {name: part.dense() for name, part in parts.items()})
    assert max(problem.errors(problem.held_out, tensors)) < 1e-3


def test_modes_of_some_samples_after_others_are_those_of_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    module = build_denormalised()
    module.load_state_dict(field_state(), strict=False)
    problem = pose(many_settings(network={"factory": f"{FACTORY}_denormalised"}), module.state_dict())
    chains = chains_of(problem)
    modes = None if chains is None else with_modes(problem, chains, 1e-3)
    assert modes is not None
    (whole, scale), points = learning_data(problem, modes, 300), problem.held_out.points
    given, _ = with_outputs(problem, modes, points, scale)
    monkeypatch.setattr(distil, "_AT_ONCE", 70 * POINTS)
    parts, same = learning_data(problem, modes, 300)
    torch.testing.assert_close((parts.inputs, parts.outputs, same), (whole.inputs, whole.outputs, scale))
    torch.testing.assert_close(with_outputs(problem, modes, points, scale)[0].outputs, given.outputs)


def test_no_narrower_network_than_its_modes_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = pose(many_settings(), field_state())
    chains = chains_of(problem)
    assert chains is not None
    modes = replace(chains, modes=torch.eye(POINTS)[:, :14].double())
    tried: list[int] = []
    monkeypatch.setattr(middle, "_WEIGHTS_PER_BYTE", (0.0, 0.0))
    monkeypatch.setattr(middle._Learner, "learned", lambda learner, hidden: tried.append(hidden))
    middle.middle_network(problem, modes, 1e-2, "default", lambda share: None)
    assert tried == [16]


def test_a_network_of_modes_writes_all_outputs() -> None:
    problem = pose(many_settings(), field_state())
    chains = chains_of(problem)
    assert chains is not None
    modes = with_modes(problem, chains, 1e-3)
    assert modes is not None and modes.modes is not None
    data, scale = learning_data(problem, modes, 256)
    small = fresh(modes, data, scale, 8, 0)
    narrow = middle.as_middle(problem.network, small, modes).network
    wanted = small.outputs(data) @ modes.modes.T / scale
    got = narrow.run((data.inputs[0].to(narrow.dtype),))
    torch.testing.assert_close(got.double(), wanted, rtol=1e-4, atol=1e-4)
