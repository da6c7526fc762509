"""Modules with skip connections, gates and graphs: groups of neurons, of which a small network has few."""

from dataclasses import replace
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import web_networks
from small_networks import check_jacobian, outputs_settings, saved, stack
from torch import nn

import hmcompress.network.bound.ntk as ntk
import hmcompress.network.joint.form_search as form_search
import hmcompress.network.joint.groups as groups_module
import hmcompress.network.joint.smallest as joint_module
import hmcompress.network.joint.symmetries as symmetries_module
import hmcompress.network.joint.web as web_module
import hmcompress.network.layerwise.budget as budget
import hmcompress.network.model.links as links
import hmcompress.network.stages as stages
from hmcompress.hmatrix.codecs import COMPACT
from hmcompress.network import NetworkResult, compress_network, pose
from hmcompress.network.bound.ntk import RateLimit, tangent_kernel
from hmcompress.network.bound.problem import Problem
from hmcompress.network.joint.distil import chains_of, learning_data, with_outputs
from hmcompress.network.joint.groups import groups_in
from hmcompress.network.joint.ordering import embedded, reordered
from hmcompress.network.joint.quantise import LayerKnobs, Quantised, quantised
from hmcompress.network.joint.small import Data
from hmcompress.network.joint.small_web import SmallWeb
from hmcompress.network.joint.vectors import coded
from hmcompress.network.joint.web import Web
from hmcompress.network.joint.web_tracing import changed, evened, fresh_web, web_of
from hmcompress.network.layerwise.propagate import tensors_of
from hmcompress.network.model.inputs import Points
from hmcompress.network.model.links import probed
from hmcompress.network.model.network import Network, own_tensors

NETWORKS = Path(web_networks.__file__)
WIDER = {"Ring": 15, "Attending": 20, "Recurrent": 15, "Rounds": 15, "Heads": 15}  # coordinates
GROUPS = {  # neurons of each, and layers whose rows and columns they are
    "Residual": [(16, [0, 1, 2], [1, 2, 3])],
    "Gated": [(16, [0], [1]), (16, [1, 2, 3], [4])],
    "Beside": [(16, [0], [1, 2]), (8, [1], [2])],
    "Fused": [(16, [0, 0, 0, 1], [1, 2])],
    "Fixed": [(16, [0, 2], [1, 3]), (16, [1], [2])],
    "Named": [(16, [0, 2], [1, 3]), (16, [1], [2])],
    "Ring": [(16, [0, 1], [1, 1, 2])],
    "Scaled": [(16, [0, 2], [1, 3]), (16, [1], [2])],
    "Forces": [(16, [0, 1], [1, 2])],
    "Velocity": [(16, [0], [1]), (16, [1], [2])],
    "InPlace": [(16, [0, 2], [1, 3]), (16, [1], [2])],
    "Solved": [(16, [0], [1]), (16, [1], [2])],
    "Recurrent": [(16, [0, 0, 0, 1, 1, 1], [0, 2])],
    "Apart": [(16, [0], [1]), (16, [1], [2])],
    "Deep": [(16, [0, 1], [1, 2])],
    "Rounds": [(16, [0, 1], [1, 1, 2])],
    "Shared": [(16, [0, 1], [1, 2])],
    "Overwriting": [(16, [0, 1], [1, 2])],
    "Counting": None,
    "Towers": [(16, [0, 1], [1, 2]), (16, [2, 4], []), (16, [3], [4])],
    "Heads": [(16, [0, 2], [1, 3]), (16, [1, 1], []), (16, [1], [2])],
    "Norm": [(16, [0, 2], [1, 3]), (16, [1], [2])],
    "Distance": [(16, [0], [1]), (16, [1], [])],
    "Normalised": [(16, [0, 1, 2], [1, 2, 3])],
    "Detached": None,
}
REPEATED = ["Solved", "Recurrent", "Apart", "Deep", "Rounds", "Overwriting"]  # layers that are called more than once
NORM = ("weight", "bias", "running_mean", "running_var")
ALIKE = ["Towers", "Heads", "Norm", "Distance", "Normalised"]  # rows whose order nothing sees
FIXED = ("Fixed", "Recurrent", "Heads", "Norm", "Normalised")
SLICED = {name: name not in FIXED for name, groups in GROUPS.items() if groups}
VECTORS = {  # along groups, and the first layer whose rows are those groups' neurons
    "Named": {"factors": 0},
    "Norm": {f"norms.{k}.{n}": 0 for k in range(2) for n in ("weight", "bias")},
    "Scaled": {"slope.weight": 0, "scale": 1, **{f"norm.{n}": 1 for n in NORM}},
}


def module_of(name: str) -> nn.Module:
    """With weights that a few neurons can stand for."""
    torch.manual_seed(0)
    module = getattr(web_networks, name)()
    state = module.state_dict()
    for k, (key, t) in enumerate(sorted(state.items())):
        if t.ndim == 2:
            state[key] = stack([t.shape[1], t.shape[0]], k, gain=1.0)["net.0.weight"]
    module.load_state_dict(state)
    return module.eval()


def settings_of(name: str, **changes: Any) -> Any:
    if name in WIDER:
        coordinates = {f"x{k}": [-1, 1] for k in range(WIDER[name])}
        changes["calibration"] = {"domain": coordinates, **changes.get("calibration", {})}
    return outputs_settings(network={"factory": f"{NETWORKS}:{name}"}, **changes)


def posed(name: str, **changes: Any) -> Problem:
    return pose(settings_of(name, **changes), module_of(name).state_dict())


def found(name: str, **changes: Any) -> tuple[Problem, Web]:
    problem = posed(name, **changes)
    web = web_of(problem)
    assert web is not None
    return problem, web


def small(name: str, **changes: Any) -> tuple[SmallWeb, Data]:
    problem, web = found(name, **changes)
    data, scale = learning_data(problem, web, 64)
    return fresh_web(web, data, scale, 3, 0), data


@pytest.mark.parametrize("name", GROUPS)
def test_groups_of_neurons_are_found(name: str) -> None:
    web, expected = web_of(posed(name)), GROUPS[name]
    assert name in (*REPEATED, "Counting", "Shared") or chains_of(posed(name)) is None
    if expected is None:
        assert web is None
        return
    assert web is not None
    groups = [(g.count, *([k for k, axis, _ in g.places if axis == own] for own in (0, 1))) for g in web.groups]
    assert sorted(groups) == sorted(expected)


@pytest.mark.parametrize("name", ["Residual", "Gated", "Ring", "Towers", "Heads"])
def test_groups_are_found_from_few_samples_where_a_network_writes_much(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, points, _ = probed(posed(name).network.with_repeated(), posed(name).calibration.points)
    counts, run = set[int](), links.run_with
    for module in (groups_module, symmetries_module):
        monkeypatch.setattr(module, "run_with", lambda n, p, *a, **k: counts.add(len(p)) or run(n, p, *a, **k))
    usual = groups_in(network, points)
    assert counts == {16}
    counts.clear()
    assert groups_in(replace(network, written=1e7), points) == usual
    assert counts == {4}


def test_the_rate_limit_takes_fewer_rows_where_layers_see_several_rows_of_a_sample(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ntk, "_WORK", 1e6)
    sequence, plain = posed("Ring", calibration={"samples": 600}), posed("Residual", calibration={"samples": 600})
    assert len(sequence.rate_limit.variances) == 256
    assert len(plain.rate_limit.variances) == 600
    monkeypatch.setattr(ntk, "_WORK", 1e11)
    every = RateLimit.of(sequence.network, sequence.calibration.points.pairs(1024))
    assert len(every.variances) == 600
    assert sequence.rate_limit.nbytes(1e-2) == pytest.approx(every.nbytes(1e-2), rel=0.2)


@pytest.mark.parametrize("name", SLICED)
def test_modules_run_with_small_layers_unless_their_width_is_fixed(name: str) -> None:
    _, web = found(name)
    assert web.sliced == SLICED[name]


@pytest.mark.parametrize(
    "name", ["Residual", "Gated", "Beside", "Ring", "Fused", "Forces", "Solved", "Rounds", "Shared"]
)
def test_small_layers_give_what_whole_ones_give(name: str) -> None:
    network, data = small(name)
    whole = replace(network, web=replace(network.web, sliced=False))
    torch.testing.assert_close(network.outputs(data), whole.outputs(data))
    torch.testing.assert_close(network.jacobian(data)[0], whole.jacobian(data)[0])


@pytest.mark.parametrize("name", SLICED)
def test_jacobian_is_the_derivative(name: str) -> None:
    network, data = small(name)
    check_jacobian(network, data)


@pytest.mark.parametrize("name", ["Residual", "Ring", "Named", *REPEATED])
def test_weights_of_single_samples_give_the_same_derivatives(name: str) -> None:
    network, data = small(name)
    other = replace(network, web=replace(network.web, by_samples=True))
    torch.testing.assert_close(other.jacobian(data), network.jacobian(data))


def test_what_reads_nothing_at_first_has_first_weights_too() -> None:
    network, data = small("Recurrent")
    assert not network.entering(data)[0][:, 0].any()
    assert all(bool(layer.weight().any(1).all()) for layer in network.layers)


@pytest.mark.parametrize("name", [name for name in REPEATED if name != "Overwriting"])
def test_the_kernel_of_layers_that_are_called_again_is_the_jacobian_product(name: str) -> None:
    network, points = found_web_network(name)
    names = [n for layer in network.layers for n in (layer.weight, layer.bias) if n is not None]
    own = own_tensors(network.module)

    def outputs(*tensors: torch.Tensor) -> torch.Tensor:
        y = network.call(points.tensors, dict(zip(names, tensors, strict=True)))
        return y.gather(1, (torch.arange(len(y)) % y.shape[1])[:, None])[:, 0]

    found = torch.autograd.functional.jacobian(outputs, tuple(own[network.places[n]].detach() for n in names))
    jacobian = torch.cat([j.flatten(1) for j in found], 1)
    torch.testing.assert_close(tangent_kernel(network, points).k, jacobian @ jacobian.T)


def found_web_network(name: str) -> tuple[Network, Points]:
    problem, web = found(name)
    return web.network, problem.calibration.points.to(torch.float64).take(slice(0, 8))


def test_gradients_of_gradients_need_weights_of_single_samples() -> None:
    slopes = {"Forces", "Velocity", "Shared"}
    assert {name for name in ("Residual", *slopes, *REPEATED) if found(name)[1].by_samples} == slopes


def test_jacobian_of_derivatives_is_the_derivative() -> None:
    check_jacobian(*small("Gated", calibration={"derivatives": 1}))


def test_samples_that_do_not_fit_at_once_run_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    network, data = small("Ring")
    y, (jacobian, again) = network.outputs(data), network.jacobian(data)
    monkeypatch.setattr("hmcompress.network.joint.web._ENTRIES", 1000)
    torch.testing.assert_close(network.outputs(data), y)
    torch.testing.assert_close(network.jacobian(data)[0], jacobian)
    torch.testing.assert_close(network.jacobian(data)[1], again)


def test_few_samples_run_at_once_where_points_look_at_all_others() -> None:
    _, web = found("Attending")
    assert web.groups[0].count == 16
    assert web.at_once(2) == web_module._ENTRIES // (2 * 20 * 20)


def test_neurons_with_factors_of_their_own_stay_where_they_are() -> None:
    assert found("Named")[1].exchangeable == (False, True)
    assert found("Residual")[1].exchangeable == (True,)


def test_signs_are_free_where_functions_are_odd() -> None:
    assert found("Residual")[1].odd == (True,)
    assert dict(zip((g.places[0][0] for g in found("Gated")[1].groups), found("Gated")[1].odd, strict=True)) == {
        0: True,
        1: False,
    }


@pytest.mark.parametrize("name", VECTORS)
def test_vectors_along_groups_are_found(name: str) -> None:
    _, web = found(name)
    assert {key: web.groups[k].places[0][0] for key, k in web.vectors} == VECTORS[name]


@pytest.mark.parametrize("name", VECTORS)
def test_neurons_may_change_places_where_vectors_are_even(name: str) -> None:
    problem, web = found(name)
    assert not all(web.exchangeable)
    tensors = module_of(name).state_dict()
    alike = evened(web, tensors, problem.calibration.points)
    assert list(alike) == [key for key, _ in web.vectors]
    zeros = {key for key, t in alike.items() if not t.any()}
    assert zeros <= {"norm.bias", "norm.running_mean", "slope.weight", "norms.0.bias", "norms.1.bias"}
    assert bool(zeros) == (name != "Named")
    for key, t in alike.items():
        torch.testing.assert_close(t, torch.zeros_like(t) if key in zeros else tensors[key].mean().expand(16))
        part = coded(t)
        assert len(part.payload(thorough=False)) < (3 if key in zeros else 16)
        torch.testing.assert_close(part.dense(), t.double())
    web = changed(web, alike, problem.calibration.points)
    assert all(web.exchangeable)
    assert web.sliced == (name not in FIXED)


@pytest.mark.parametrize("name", ["Residual", "Gated", "Beside", "Ring", "Named", "Fused"])
def test_the_weakest_neuron_is_dropped(name: str) -> None:
    network, data = small(name)
    places = [(k, first) for k, axis, first in network.web.groups[0].places if axis == 1]
    for k, first in places:
        second = network._at(k, 1, first, 3).start + 1
        network.layers[k].weight()[:, second] *= 1e-3
    before = network.outputs(data)
    assert network.drop_weakest(data)
    assert network._idle()[0].tolist() == [False, True, False]
    torch.testing.assert_close(network.outputs(data), before, rtol=0, atol=1e-2 * float(before.abs().max()))


def test_the_last_neuron_of_a_group_stays() -> None:
    network, data = small("Gated")
    for _ in range(sum(network.counts) - len(network.counts)):
        assert network.drop_weakest(data)
    assert not network.drop_weakest(data)


def leave_idle(network: SmallWeb, group: int) -> None:
    """The second neuron of a group."""
    for k, axis, first in network.web.groups[group].places:
        if axis == 1:
            second = network._at(k, axis, first, 3).start + 1
            network.layers[k].drop_columns(torch.arange(network.layers[k].inputs) == second)
    network.settle()


@pytest.mark.parametrize("name", ["Residual", "Gated", "Beside", "Ring", "Named", "Fused"])
def test_idle_neurons_are_taken_out(name: str) -> None:
    network, data = small(name)
    leave_idle(network, 0)
    before, weights = network.outputs(data), network.weights()
    network.compact()
    torch.testing.assert_close(network.outputs(data), before)
    assert network.weights() == weights
    assert network.counts[0] == (2 if network.web.exchangeable[0] else 3)


def test_idle_neurons_stay_where_parts_of_one_size_are_split_off() -> None:
    network, data = small("Conditioned")
    assert network.web.sliced and not network.web.uneven
    for group, left in enumerate((3, 2)):
        leave_idle(network, group)
        before = network.outputs(data)
        network.compact()
        assert network.counts == (left, left)
        torch.testing.assert_close(network.outputs(data), before)


@pytest.mark.parametrize("name", ["Residual", "Gated", "Beside", "Ring", "Fused", *REPEATED, *ALIKE])
def test_the_layers_in_the_file_compute_what_the_small_network_does(name: str) -> None:
    problem, web = found(name)
    data, scale = learning_data(problem, web, 256)
    network = fresh_web(web, data, scale, 3, 0)
    form = quantised(Quantised.of(network), data, 1e-6, [LayerKnobs(1e-8)] * len(network.layers), 1e9)
    assert form is not None
    for parts in (f(problem.network, form.network, form.grids) for f in (embedded, reordered)):
        own = tensors_of(problem.network, {name: part.dense().double() for name, part in parts.items()})
        y = web.network.run(problem.calibration.points.to(torch.float64).tensors, own)
        expected, _ = with_outputs(problem, web, problem.calibration.points, scale)
        torch.testing.assert_close(y, form.network.outputs(expected) / scale)


@pytest.mark.parametrize("name", ["Residual", "Gated", "Forces", "Aliased", "Towers"])
def test_few_neurons_take_the_place_of_all(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slopes = name == "Forces"  # which take longer
    monkeypatch.setattr(joint_module, "_WORK", {"default": 2e10 if slopes else 5e9})
    monkeypatch.setattr(joint_module, "_SEEDS", 2)
    monkeypatch.setattr(joint_module, "_WIDTHS", 1)
    monkeypatch.setattr(form_search, "_LEAST", 2)
    monkeypatch.setattr(budget, "_MOST", {"fast": 14, "default": 14})
    joint = compressed(name, tmp_path)
    assert 2e-3 < joint.record.error <= 1e-2
    assert all(layer.payload[:1] == bytes([COMPACT]) for layer in joint.layers)
    monkeypatch.setattr(stages, "origins_of", lambda problem: ())
    assert nbytes(joint) < (0.9 if slopes else 0.75) * nbytes(compressed(name, tmp_path))


def test_a_module_of_several_names_is_as_before_once_it_ran_with_other_weights() -> None:
    problem = posed("Aliased")
    network, inputs = problem.network, problem.calibration.points.tensors
    before = network.run(inputs)
    other = network.run(inputs, {"blocks.0.weight": torch.zeros(16, 16)})
    torch.testing.assert_close(network.run(inputs), before)
    torch.testing.assert_close(network.run(inputs, {"blocks.3.weight": torch.zeros(16, 16)}), other)
    assert not torch.allclose(other, before)


def compressed(name: str, folder: Path) -> NetworkResult:
    return compress_network(saved(folder, module_of(name).state_dict()), settings_of(name, effort="default"))


def nbytes(result: NetworkResult) -> int:
    return sum(len(layer.payload) for layer in result.layers)


@pytest.mark.parametrize(
    ("each", "error", "guarded", "goes_on"),
    [
        (1.0, 5e-3, inf, False),
        (1.0, 5e-3, 5e-3, True),
        (1.0, 9.9e-3, inf, True),
        (0.0, 5e-3, inf, True),
    ],
)
def test_a_slow_search_ends_where_its_first_forms_hold_by_chance_alone(
    each: float, error: float, guarded: float, goes_on: bool
) -> None:
    problem, web = found("Residual")
    stage = joint_module.JointStage(problem, web, 1e-2, 1e9)
    forms, settled = [SimpleNamespace(error=error)], list[int]()
    candidate: Any = SimpleNamespace(
        network=SimpleNamespace(each=each, weights=lambda: 9),
        begin=lambda: None,
        settle=lambda work: settled.append(1),
        embedded=lambda form: {},
        work=0.0,
        promise=1.0,
        forms=forms,
    )
    assert stage.settle([candidate], inf, lambda parts: guarded) == goes_on
    assert bool(settled) == goes_on


@pytest.mark.parametrize(("heavy", "rows"), [(0.0, 256), (1e9, 1024)])
def test_forms_see_fewer_samples_where_each_takes_long(
    heavy: float, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joint_module, "_HEAVY", heavy)
    monkeypatch.setattr(joint_module, "_ROUNDS", ((1, 0.0),))
    monkeypatch.setattr(joint_module, "_FORM_ROWS_PER_WEIGHT", 1)
    problem, web = found("Residual")
    stage = joint_module.JointStage(problem, web, 1e-2, 1e9)
    network = fresh_web(web, stage.data, stage.scale, 3, 0)
    search, _ = stage._candidate(joint_module.Fit(network, 0.5, 0.0))
    assert len(search.data) == rows


@pytest.mark.parametrize(("work", "dear"), [(1e9, True), (1e15, False)])
def test_forms_of_a_wary_fit_see_all_samples_unless_that_takes_all_of_the_work(
    work: float, dear: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joint_module, "_ROUNDS", ((1, 0.0),))
    problem, web = found("Residual")
    stage = joint_module.JointStage(problem, web, 1e-2, work)
    network = fresh_web(web, stage.data, stage.scale, 3, 0)
    search, _ = stage._candidate(joint_module.Fit(network, 0.5, 0.0, wary=True))
    assert (len(search.data) < len(stage.data)) == dear
    assert search.dear == dear
