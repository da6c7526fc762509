"""Claims about products with a module's own parameters: they are dense layers, and all else stays as it was."""

from functools import partial
from pathlib import Path

import product_networks
import pytest
import torch
from posing import BOUND, error, posed_in, settings_in
from small_networks import saved

import hmcompress.network.driver as driver
from hmcompress import compress, load_model, load_state_dict, verify
from hmcompress.commands.encoding import Each
from hmcompress.network import compress_network, pose
from hmcompress.network.alone import smaller_alone
from hmcompress.network.model.links import with_stacks
from hmcompress.network.model.network import in_double
from hmcompress.network.model.products import canonical, with_products
from hmcompress.pipeline import compare

STYLES = ["Own", "Added", "InPlace", "Addmm", "Linear", "Turned", "Columns", "Kernels", "Summed", "Dotted"]


settings_of, posed = partial(settings_in, product_networks), partial(posed_in, product_networks)


@pytest.mark.parametrize("name", STYLES)
def test_products_are_layers_in_a_chain_with_their_biases(name: str) -> None:
    problem, network = posed(name)
    assert not network.others and len(network.layers) == 3 and all(layer.bias for layer in network.layers)
    assert [network.shape(layer) for layer in network.layers] == [(24, 2), (24, 24), (1, 24)]
    points = problem.calibration.points
    torch.testing.assert_close(network.run(points.tensors), problem.calibration.blocks[0].to(network.dtype))
    (stack,) = with_stacks(network, points).stacks
    assert stack == network.layers


@pytest.mark.parametrize("name", STYLES)
def test_the_file_has_the_parameters_of_the_module(name: str, tmp_path: Path) -> None:
    module = getattr(product_networks, name)().eval()
    checkpoint = saved(tmp_path, module.state_dict())
    report = compress(checkpoint.path, tmp_path / "f", settings=settings_of(name))
    assert verify(tmp_path / "f", against=checkpoint.path).passed
    other = getattr(product_networks, name)().eval()
    other.load_state_dict(load_state_dict(tmp_path / "f"))
    assert 0.3 * BOUND < error(module, other) <= 1.1 * BOUND
    assert sum(layer.stored_bytes for layer in report.layers) < 220


def test_they_take_a_part_of_what_other_weights_take(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    checkpoint, settings = saved(tmp_path, product_networks.Own().state_dict()), settings_of("Own")
    results = [compress_network(checkpoint, settings)]
    monkeypatch.setattr(driver, "with_products", lambda network, *rest: network)
    results.append(compress_network(checkpoint, settings))
    ours, before = (sum(len(layer.payload) for layer in result.layers) for result in results)
    assert ours < 0.6 * before and all(result.record.error <= BOUND for result in results)


@pytest.mark.parametrize("name", STYLES)
def test_layers_take_weights_and_biases_of_any_shape(name: str) -> None:
    _, network = posed(name)
    layers = canonical(network, getattr(product_networks, name)().state_dict())
    for layer in network.layers:
        assert layers[layer.weight].shape == network.shape(layer) and layers[str(layer.bias)].ndim == 1


@pytest.mark.parametrize("name", ["Recurrent", "Mapped", "Forces", "Scaled"])
def test_the_file_holds_where_layers_are_called_in_other_ways(name: str, tmp_path: Path) -> None:
    """Several times, so that biases stand by themselves; inside of vmap, where no input can be kept; for gradients;
    with weights that are multiplied first."""
    module = getattr(product_networks, name)().eval()
    checkpoint, settings = saved(tmp_path, module.state_dict()), settings_of(name)
    compress(checkpoint.path, tmp_path / "f", settings=settings)
    assert verify(tmp_path / "f", against=checkpoint.path).passed
    _, network = posed(name)
    assert len(network.products) == {"Recurrent": 3, "Mapped": 0, "Forces": 3, "Scaled": 3}[name]


@pytest.mark.parametrize("name", ["Added", "Turned"])
def test_derivatives_go_through_them(name: str, tmp_path: Path) -> None:
    """And through views of weights, which torch.func wraps."""
    checkpoint = saved(tmp_path, getattr(product_networks, name)().state_dict())
    result = compress_network(checkpoint, settings_of(name, calibration={"derivatives": 1}))
    assert max(result.record.error, *result.record.derivative_errors) <= BOUND


def test_verify_measures_the_kernel_of_their_layers(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path, product_networks.Own().state_dict())
    settings = settings_of("Own", ntk={"tol": 0.3, "samples": 16})
    report = compress(checkpoint.path, tmp_path / "f", settings=settings)
    found = verify(tmp_path / "f", against=checkpoint.path).network
    assert report.network is not None and report.network.ntk is not None and found is not None
    assert found.ntk_error == pytest.approx(report.network.ntk.error, rel=1e-3)


def test_copies_in_another_precision_have_the_layers_too() -> None:
    problem, network = posed("Columns")
    points = problem.calibration.points.to(torch.float64)
    y = in_double(network).run(points.tensors)
    moved = {network.layers[1].weight: torch.zeros(24, 24).double()}
    assert y.dtype == torch.float64 and not torch.allclose(in_double(network).run(points.tensors, moved), y)


def test_a_weight_that_is_used_otherwise_stays_as_it_was() -> None:
    _, network = posed("Shared")
    assert {layer.weight: layer.bias for layer in network.layers} == {"weights.0": None, "weights.2": "biases.2"}
    assert {"weights.1", "biases.0"} <= set(network.others)
    assert not hasattr(network.module.weights, "1_as_dense")


def test_a_bias_of_two_convolutions_is_added_by_itself_along_their_channels() -> None:
    _, network = posed("SharedKernels")
    biases = {p.name: p.bias_name for p in network.products}
    assert biases == {"layers.0.weight": None, "layers.1.weight": None, "layers.2.weight": "layers.2.bias"}
    assert "layers.1.bias" in network.others


def test_a_weight_with_structure_may_be_left_to_the_engine() -> None:
    problem, _ = posed("Linear")
    network = with_products(problem.network, problem.calibration.points, lambda name, w: w.shape == (24, 24))
    assert [p.name for p in network.products] == ["weights.0", "weights.2"] and "weights.1" in network.others


def test_products_of_weights_are_left_to_the_module_and_what_sees_no_sample_is_no_expert() -> None:
    _, network = posed("Constant")
    assert [p.name for p in network.products] == ["last"] and not network.routed
    assert {layer.weight for layer in network.layers} == {"last", "turn.weight"}


def test_weights_may_be_multiplied_by_a_number_for_each_row_or_column() -> None:
    problem, network = posed("Scaled")
    assert [(p.name, p.bias_name) for p in network.products] == [
        ("weights.0", "biases.0"),
        ("weights.1", None),
        ("weights.2", "biases.2"),
    ]
    y = network.run(problem.calibration.points.tensors)
    torch.testing.assert_close(y, problem.calibration.blocks[0].to(network.dtype))


def test_parameters_may_lie_where_no_attribute_leads(tmp_path: Path) -> None:
    module = product_networks.Methods().eval()
    checkpoint = saved(tmp_path, module.state_dict())
    compress(checkpoint.path, tmp_path / "f", settings=settings_of("Methods", effort="fast"))
    loaded = load_model(tmp_path / "f", product_networks.Methods()).eval()
    x = torch.rand(500, 2, generator=torch.Generator().manual_seed(6))
    assert len(posed("Methods")[1].products) == 3
    assert 0.3 * BOUND < (loaded(x) - module(x)).norm() / module(x).norm() <= 1.5 * BOUND


def test_a_weight_under_a_mask_stays_as_it_was() -> None:
    _, network = posed("Masked")
    assert [p.name for p in network.products] == ["weights.0", "weights.2"] and "weights.1" in network.others


def test_a_module_that_minds_is_left_alone() -> None:
    problem, network = posed("Children")
    assert network is problem.network and len(list(network.module.modules())) == 3


def test_what_shows_with_many_samples_alone_is_found_on_the_module_itself(tmp_path: Path) -> None:
    module = product_networks.Later()
    checkpoint, settings = saved(tmp_path, module.state_dict()), settings_of("Later")
    assert posed("Later")[1].products
    result = compress_network(checkpoint, settings)
    compress(checkpoint.path, tmp_path / "f", settings=settings)
    problem = pose(settings, module.state_dict())
    assert max(problem.errors(problem.held_out, load_state_dict(tmp_path / "f"))) <= BOUND
    assert all(len(layer.shapes) == 1 for layer in result.layers)


def test_compare_counts_a_bias_with_its_product(tmp_path: Path) -> None:
    checkpoint, settings = saved(tmp_path, product_networks.Own().eval().state_dict()), settings_of("Own")
    stored = compress(checkpoint.path, dry_run=True, settings=settings)
    compared = compare(checkpoint.path, (BOUND,), settings=settings)
    ours = next(total for total in compared.totals if total.method == "hmatrix")
    assert ours.bytes == sum(layer.stored_bytes for layer in stored.layers)


def test_a_part_with_the_name_of_a_method_has_layers_too() -> None:
    problem, network = posed("Named")
    assert [layer.weight for layer in network.layers] == ["parts.0", "parameters.0", "parts.1"]
    assert network.run(problem.calibration.points.tensors)[0].shape[-1] == 1


@pytest.mark.parametrize("name", ["Own", "Linear", "Kernels"])
def test_weights_by_themselves_are_what_layers_take(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As they are turned once, and not twice, where these are what stays."""
    checkpoint, settings = saved(tmp_path, getattr(product_networks, name)().state_dict()), settings_of(name)
    monkeypatch.setattr(driver, "smaller_alone", lambda *given: smaller_alone(*given[:3], 10**6))
    result = compress_network(checkpoint, settings, metric=Each(checkpoint, settings))
    assert sum(len(layer.payload) for layer in result.layers) > 220  # of weights by themselves
    assert 0.1 * BOUND < result.record.error <= BOUND
    compress(checkpoint.path, tmp_path / "f", settings=settings)
    assert verify(tmp_path / "f", against=checkpoint.path).passed


@pytest.mark.parametrize("name", ["Own", "Kernels"])
def test_ties_of_the_checkpoint_count_in_what_is_reported(name: str, tmp_path: Path) -> None:
    """A bias that is a row of a weight there, and not in the module."""
    state = getattr(product_networks, name)().state_dict()
    weight, bias = [k for k in state if "weight" in k][1], next(k for k in state if "bias" in k)
    state[bias] = state[weight].reshape(24, 24)[0].reshape(state[bias].shape)
    checkpoint = saved(tmp_path, state)
    report = compress(checkpoint.path, tmp_path / "f", settings=settings_of(name))
    verdict = verify(tmp_path / "f", against=checkpoint.path)
    assert verdict.passed and verdict.network.error == report.network.error <= BOUND
    assert sum(layer.stored_bytes for layer in report.layers) < {"Own": 400, "Kernels": 200}[name]
