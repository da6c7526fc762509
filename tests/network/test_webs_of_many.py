"""Modules whose layers are no chains and whose outputs are many: a small network learns their modes."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import wide_webs
from few_forms import few_forms
from field_networks import POINTS
from small_networks import check_jacobian, decoded, layer_bytes, outputs_settings, saved
from torch import Tensor, nn
from wide_webs import Wide, filled

import hmcompress.network.joint.ends as ends
import hmcompress.network.joint.middle as middle
import hmcompress.network.joint.web_tracing as web_tracing
import hmcompress.network.joint.widening as widening
import hmcompress.network.stages as stages
from hmcompress.errors import NetworkError
from hmcompress.hmatrix.codecs import SMOOTH
from hmcompress.network import NetworkResult, compress_network, pose
from hmcompress.network.bound.problem import Problem
from hmcompress.network.joint.distil import learning_data
from hmcompress.network.joint.many import with_modes
from hmcompress.network.joint.small_web import SmallWeb
from hmcompress.network.joint.web import Web
from hmcompress.network.joint.web_tracing import fresh_web, web_of
from hmcompress.network.layerwise.coded import Smooth
from hmcompress.network.layerwise.original import prepare
from hmcompress.network.layerwise.propagate import Knobs, tensors_of
from hmcompress.network.model.links import probed
from hmcompress.network.model.network import Network, replaced
from hmcompress.network.model.until import call_until, run_until

TOL = 3e-2


def settings_of(name: str, **changes: Any) -> Any:
    factory = f"{wide_webs.__file__}:{name}"
    return outputs_settings(**{"network": {"factory": factory}, "effort": "default", "tol": TOL, **changes})


def module_of(name: str) -> nn.Module:
    return filled(getattr(wide_webs, name)())


def posed(name: str, **changes: Any) -> Problem:
    return pose(settings_of(name, **changes), module_of(name).state_dict())


def with_its_modes(name: str, tol: float) -> tuple[Problem, Web]:
    problem = posed(name)
    web = web_of(problem)
    found = None if web is None else with_modes(problem, web, tol)
    assert isinstance(found, Web)
    return problem, found


def compressed(name: str, folder: Path, **changes: Any) -> NetworkResult:
    return compress_network(saved(folder, module_of(name).state_dict()), settings_of(name, **changes))


@pytest.fixture(scope="module", autouse=True)
def _little_work() -> Iterator[None]:
    with few_forms():
        yield


def test_a_field_takes_a_fraction_of_layer_after_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = compressed("Gated", tmp_path)
    monkeypatch.setattr(stages, "origins_of", lambda problem: ())
    alone = compressed("Gated", tmp_path)
    codec = next(layer.payload[0] for layer in found.layers if layer.row.tensors[0] == "last.weight")
    assert codec == SMOOTH and 1.3 * layer_bytes(found) < layer_bytes(alone)


def test_the_bound_holds_for_all_outputs_on_decoded_values(tmp_path: Path) -> None:
    found, module = compressed("OnMesh", tmp_path), module_of("OnMesh")
    x = posed("OnMesh").held_out.points.tensors[0].float()
    with torch.no_grad():
        y, _ = module(x), module.load_state_dict(decoded(found))
        error = float((module(x) - y).norm() / y.norm())
    assert error == pytest.approx(found.record.error, rel=1e-3) and 0.5 * TOL < error <= TOL


def test_only_factors_and_offsets_may_follow() -> None:
    web = web_of(posed("OnMesh"))
    assert web is not None and web.too_many and web.rescaled(posed("OnMesh").calibration.points).scaled is not None
    scaled = web.rescaled(posed("OnMesh").calibration.points).scaled
    torch.testing.assert_close(scaled, torch.tensor([[-2.0], [5.0]]).double().expand(2, POINTS), rtol=1e-6, atol=1e-6)
    assert web_of(posed("Positive")) is None and web_of(posed("Skipping")) is None


@pytest.mark.parametrize("changes", [{"tolerance": "max"}, {"tolerance": "each"}, {"derivatives": 1}])
def test_modes_serve_where_all_outputs_count_together(changes: dict[str, Any]) -> None:
    assert web_of(posed("Wide", calibration=changes)) is None


def test_a_module_that_runs_at_its_own_width_alone_has_none() -> None:
    assert web_of(posed("Kept")) is None


def test_groups_are_not_looked_for_where_no_few_modes_tell_the_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = list[Network]()
    monkeypatch.setattr(web_tracing, "groups_in", lambda network, points: looked.append(network))
    monkeypatch.setattr(ends, "MOST_MODES", 2)
    assert web_of(posed("Wide")) is None and not looked
    monkeypatch.undo()
    assert web_of(posed("Wide")) is not None


def small(name: str, hidden: int = 3) -> tuple[SmallWeb, Any, Web, Problem]:
    problem, web = with_its_modes(name, 1e-3)
    data, scale = learning_data(problem, web, 64)
    return fresh_web(web, data, scale, hidden, 0), data, web, problem


@pytest.mark.parametrize("name", ["Wide", "OnMesh", "Gated"])
def test_slopes_are_those_of_what_makes_the_modes(name: str) -> None:
    network, data, _, _ = small(name)
    check_jacobian(network, data)


@pytest.mark.parametrize("name", ["Wide", "OnMesh"])
def test_a_network_of_modes_writes_all_outputs(name: str) -> None:
    network, data, web, problem = small(name)
    assert web.modes is not None and web.scaled is not None
    narrow = middle.as_middle(problem.network, network, web).network
    wanted = network.outputs(data) @ web.modes.T / float(network.scale[0]) + web.scaled[1]
    got = narrow.run((data.inputs[0].to(narrow.dtype),))
    torch.testing.assert_close(got.double(), wanted, rtol=1e-4, atol=1e-4)


def test_some_tens_of_neurons_learn_modes_and_passes_write_the_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middle, "MIDDLE_ROWS", 1024)
    monkeypatch.setattr(widening, "_ROWS", (512,))
    monkeypatch.setattr(middle, "_HIDDEN", (12,))
    monkeypatch.setattr(middle, "_WEIGHTS_PER_BYTE", (0.0, 0.0))
    problem, web = with_its_modes("Wide", 3e-3)
    found = middle.middle_network(problem, web, 3e-3, "default", lambda share: None)
    assert found is not None and found.error(problem) < 3e-3
    data = prepare(replace(problem, network=found.network), module_of("Wide").state_dict(), "default")
    parts = middle.compressed(problem.network, found, data, Knobs(1e-5))
    last = parts["last.weight"]
    assert isinstance(last, Smooth) and last.dense().shape == (POINTS, 33) and not last.dense()[:, 12:32].any()
    tensors = tensors_of(problem.network, {name: part.dense() for name, part in parts.items()})
    assert max(problem.errors(problem.held_out, tensors)) < 3e-3


class Counting(Wide):
    """It counts how often it gets past its last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.passed = 0

    def forward(self, x: Tensor) -> Tensor:
        z = super().forward(x)
        self.passed += 1
        return z


def test_a_run_ends_with_the_layer_whose_output_is_asked_for() -> None:
    network, points, run = probed(posed("Wide").network, posed("Wide").calibration.points)
    module = filled(Counting()).double()
    network = replace(network, module=module)
    block, end = network.layers[1:]
    got = run_until(network, end, points.tensors)
    torch.testing.assert_close(got, run.outputs[end.weight])
    assert not module.passed and not got.requires_grad
    half = {block.weight: network.linear(block).weight.detach() / 2}
    assert not torch.equal(run_until(network, end, points.tensors, half), got)
    with replaced(network, lambda layer, x, z: 2 * z if layer is end else None):  # hooks that were there come first
        torch.testing.assert_close(call_until(network, end, points.tensors), 2 * got)
    network.run(points.tensors)
    assert module.passed == 1  # no hook is left


def test_a_run_that_does_not_come_to_the_layer_says_so() -> None:
    network, points, _ = probed(posed("Wide").network, posed("Wide").calibration.points)
    end = network.layers[-1]
    elsewhere = replace(network, module=nn.ModuleDict({"first": nn.Linear(2, 32), "last": nn.Linear(32, 3)}))
    elsewhere.module.forward = lambda x: elsewhere.module["first"](x)
    elsewhere.module.double()
    with pytest.raises(NetworkError, match=r"does not come to last\.weight"):
        call_until(elsewhere, end, points.tensors)
    with pytest.raises(NetworkError, match="the network fails on the inputs"):
        call_until(network, end, (points.tensors[0][:, :1],))
