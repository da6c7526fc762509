"""Claims about parameters that hold several matrices: each is a dense layer, and the file has the parameters."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import stack_networks
import torch
from posing import BOUND, error, posed_in, settings_in
from small_networks import saved

import hmcompress.network.driver as driver
from hmcompress import compress, load_state_dict, verify
from hmcompress.network import compress_network
from hmcompress.network.alone import smaller_alone
from hmcompress.network.layerwise.subject import Subject
from hmcompress.network.model.links import with_stacks
from hmcompress.network.model.products import canonical

STYLES = ["Stack", "Batched", "Later", "Columns", "Named", "Indexed", "Unbound"]


settings_of, posed = partial(settings_in, stack_networks), partial(posed_in, stack_networks)


@pytest.mark.parametrize("name", STYLES)
def test_each_matrix_is_a_layer_in_the_chain_of_its_member_with_its_bias(name: str) -> None:
    problem, network = posed(name)
    assert not network.others and len(network.layers) == 9 and all(layer.bias for layer in network.layers)
    assert {network.shape(layer) for layer in network.layers} == {(24, 2), (24, 24), (1, 24)}
    points = problem.calibration.points
    torch.testing.assert_close(network.run(points.tensors), problem.calibration.blocks[0].to(network.dtype))
    stacks = with_stacks(network, points).stacks
    assert sorted([x.weight for x in stack] for stack in stacks) == [
        [f"weights.{i}[{k}]" for i in range(3)] for k in range(3)
    ]


@pytest.mark.parametrize("name", STYLES)
def test_layers_have_the_numbers_of_the_parameters(name: str) -> None:
    _, network = posed(name)
    state = getattr(stack_networks, name)().state_dict()
    layers = canonical(network, state)
    assert layers.keys() == {name for x in network.layers for name in (x.weight, x.bias)}
    for layer in network.layers:
        module = network.linear(layer)
        assert torch.equal(layers[layer.weight], module.weight) and torch.equal(layers[str(layer.bias)], module.bias)


@pytest.mark.parametrize("name", STYLES)
def test_the_file_has_the_parameters_of_the_module(name: str, tmp_path: Path) -> None:
    module = getattr(stack_networks, name)().eval()
    checkpoint = saved(tmp_path, module.state_dict())
    report = compress(checkpoint.path, tmp_path / "f", settings=settings_of(name))
    assert verify(tmp_path / "f", against=checkpoint.path).passed
    other = getattr(stack_networks, name)().eval()
    other.load_state_dict(load_state_dict(tmp_path / "f"))
    assert 0.3 * BOUND < error(module, other) <= 1.1 * BOUND
    assert {layer.name for layer in report.layers} == {f"weights.{i}" for i in range(3)}
    assert sum(layer.stored_bytes for layer in report.layers) < 300


def test_they_take_a_part_of_what_other_weights_take(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    checkpoint, settings = saved(tmp_path, stack_networks.Stack().state_dict()), settings_of("Stack")
    results = [compress_network(checkpoint, settings)]
    monkeypatch.setattr(driver, "with_products", lambda network, *rest: network)
    results.append(compress_network(checkpoint, settings))
    ours, before = (sum(len(layer.payload) for layer in result.layers) for result in results)
    assert ours < 0.7 * before and all(result.record.error <= BOUND for result in results)


def test_axes_that_a_sum_takes_together_are_one() -> None:
    problem, network = posed("Heads")
    assert [network.shape(layer) for layer in network.layers] == [(24, 2), (24, 24), (1, 24)] and not network.others
    y = network.run(problem.calibration.points.tensors)
    torch.testing.assert_close(y, problem.calibration.blocks[0].to(network.dtype))


def test_parameters_that_are_used_in_other_ways_stay_as_they_were() -> None:
    _, network = posed("Shared")
    assert {p.source: p.bias_source for p in network.products} == {"weights.0": None, "weights.1": None}
    assert {"weights.2", "biases.0", "biases.2"} <= set(network.others)


def test_parameters_of_few_numbers_stay_as_they_were() -> None:
    assert not posed("Little")[1].products


def test_a_parameter_of_which_a_part_is_not_used_stays_as_it_was() -> None:
    assert not posed("Partly")[1].products


def test_a_parameter_of_which_one_matrix_is_used_twice_stays_as_it_was() -> None:
    problem, network = posed("Twice")
    assert not network.products
    torch.testing.assert_close(
        network.run(problem.calibration.points.tensors), problem.calibration.blocks[0].to(torch.float32)
    )


@pytest.mark.parametrize("changes", [{"keep": True}, {"tol": 1e-3}])
def test_rules_are_for_the_parameters(changes: dict[str, Any], tmp_path: Path) -> None:
    """Which are kept without loss, or coded to a tolerance of their own."""
    module = stack_networks.Stack().eval()
    checkpoint = saved(tmp_path, module.state_dict())
    settings = settings_of("Stack", layers=[{"match": "weights.1", **changes}])
    compress(checkpoint.path, tmp_path / "f", settings=settings)
    assert verify(tmp_path / "f", against=checkpoint.path).passed
    stored, w = load_state_dict(tmp_path / "f"), module.weights[1]
    assert (stored["weights.1"] - w).norm() <= changes.get("tol", 0) * w.norm()
    other = stack_networks.Stack().eval()
    other.load_state_dict(stored)
    assert 0 < error(module, other) <= 1.1 * BOUND


def test_the_kernel_of_a_stack_is_bounded(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path, stack_networks.Stack().state_dict())
    report = compress(checkpoint.path, tmp_path / "f", settings=settings_of("Stack", ntk={"tol": 0.3, "samples": 16}))
    assert report.network is not None and report.network.ntk is not None and 0 < report.network.ntk.error <= 0.3


def test_weights_by_themselves_may_be_smaller(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is compared are the parameters as they are."""
    checkpoint, found = saved(tmp_path, stack_networks.Stack().state_dict()), []

    def smaller(subject: Subject, *rest: Any) -> Any:
        found.append(subject.problem.network)
        return smaller_alone(subject, *rest)

    monkeypatch.setattr(driver, "smaller_alone", smaller)
    compress(checkpoint.path, tmp_path / "f", settings=settings_of("Stack"))
    assert {f"weights.{k}" for k in range(3)} <= set(found[0].others) and not found[0].products
