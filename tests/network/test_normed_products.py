"""Claims about weights whose rows and their lengths are parameters apart: they are layers, and the file has both."""

from functools import partial
from pathlib import Path
from typing import Any

import normed_networks
import pytest
import torch
from posing import BOUND, error, posed_in, settings_in
from small_networks import saved

import hmcompress.network.driver as driver
from hmcompress import compress, load_model, load_state_dict, verify
from hmcompress.network import compress_network, pose
from hmcompress.network.model.links import with_stacks
from hmcompress.network.model.products import canonical, with_products

STYLES = [
    "Normed",
    "Normalised",
    "Columns",
    "Wrapped",
    pytest.param("Hooked", marks=pytest.mark.filterwarnings("ignore")),
]


settings_of, posed = partial(settings_in, normed_networks), partial(posed_in, normed_networks)


@pytest.mark.parametrize("name", STYLES)
def test_rows_in_their_lengths_are_layers_in_a_chain(name: str) -> None:
    problem, network = posed(name)
    assert not network.others and [network.shape(layer) for layer in network.layers] == [(24, 2), (24, 24), (1, 24)]
    points = problem.calibration.points
    torch.testing.assert_close(network.run(points.tensors), problem.calibration.blocks[0].to(network.dtype))
    assert with_stacks(network, points).stacks == (network.layers,)
    layers = canonical(network, getattr(normed_networks, name)().state_dict())
    assert layers.keys() == {name for x in network.layers for name in (x.weight, x.bias)}
    for layer in network.layers:
        assert torch.equal(layers[layer.weight], network.linear(layer).weight)


@pytest.mark.parametrize("name", STYLES)
def test_the_file_has_rows_and_lengths(name: str, tmp_path: Path) -> None:
    module = getattr(normed_networks, name)().eval()
    checkpoint = saved(tmp_path, module.state_dict())
    report = compress(checkpoint.path, tmp_path / "f", settings=settings_of(name))
    assert verify(tmp_path / "f", against=checkpoint.path).passed
    stored = load_state_dict(tmp_path / "f")
    assert {n: t.shape for n, t in stored.items()} == {n: t.shape for n, t in module.state_dict().items()}
    other = getattr(normed_networks, name)().eval()
    other.load_state_dict(stored)
    assert 0.3 * BOUND < error(module, other) <= 1.1 * BOUND
    assert len(report.layers) == 3 and sum(layer.stored_bytes for layer in report.layers) < 250


def test_they_take_a_part_of_what_other_weights_take(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    checkpoint, settings = saved(tmp_path, normed_networks.Normed().state_dict()), settings_of("Normed")
    results = [compress_network(checkpoint, settings)]
    monkeypatch.setattr(driver, "with_products", lambda network, *rest: network)
    results.append(compress_network(checkpoint, settings))
    ours, before = (sum(len(layer.payload) for layer in result.layers) for result in results)
    assert ours < 0.4 * before and all(result.record.error <= BOUND for result in results)


@pytest.mark.parametrize("name", ["Normed", "Wrapped", "Runs"])
def test_derivatives_go_through_them(name: str, tmp_path: Path) -> None:
    checkpoint = saved(tmp_path, getattr(normed_networks, name)().state_dict())
    result = compress_network(checkpoint, settings_of(name, calibration={"derivatives": 1}))
    assert max(result.record.error, *result.record.derivative_errors) <= BOUND
    assert {layer.row.tensors[1].split(".")[0] for layer in result.layers} <= {"lengths", "layers"}


def test_a_module_is_filled_from_the_file(tmp_path: Path) -> None:
    module = normed_networks.Wrapped().eval()
    checkpoint = saved(tmp_path, module.state_dict())
    compress(checkpoint.path, tmp_path / "f", settings=settings_of("Wrapped"))
    loaded = load_model(tmp_path / "f", normed_networks.Wrapped()).eval()
    assert 0.3 * BOUND < error(module, loaded) <= 1.1 * BOUND


def test_parameters_that_are_used_in_other_ways_stay_as_they_were() -> None:
    _, network = posed("Watched")
    assert [p.source for p in network.products] == ["rows.2"]
    assert {"rows.0", "lengths.0", "rows.1", "lengths.1"} <= set(network.others)


def test_lengths_of_two_weights_stay_as_they_were() -> None:
    assert [p.source for p in posed("SharedLengths")[1].products] == ["rows.2"]


@pytest.mark.parametrize("name", ["Scaled", "Runs", "Entries"])
def test_a_factor_goes_into_its_weight(name: str, tmp_path: Path) -> None:
    """One for each row, for runs of entries as splines have it, or for each entry."""
    _, network = posed(name)
    assert all(p.beside is not None and p.beside.is_factor for p in network.products) and not network.others
    module = getattr(normed_networks, name)().eval()
    checkpoint = saved(tmp_path, module.state_dict())
    compress(checkpoint.path, tmp_path / "f", settings=settings_of(name))
    stored = load_state_dict(tmp_path / "f")
    assert all((t == 1).all() for key, t in stored.items() if key.startswith("lengths"))
    other = getattr(normed_networks, name)().eval()
    other.load_state_dict(stored)
    assert 0 < error(module, other) <= 1.1 * BOUND


def test_a_factor_of_two_weights_stays_as_it_was() -> None:
    _, network = posed("SharedFactor")
    assert [p.beside is None for p in network.products] == [True, True, False]
    assert "lengths.0" in network.others


@pytest.mark.parametrize("name", ["rows.1", "lengths.1"])
@pytest.mark.parametrize("changes", [{"keep": True}, {"tol": 1e-3}])
def test_rules_are_for_the_parameters(name: str, changes: dict[str, Any], tmp_path: Path) -> None:
    """Which are kept without loss, or coded to a tolerance of their own."""
    module = normed_networks.Normed().eval()
    checkpoint = saved(tmp_path, module.state_dict())
    settings = settings_of("Normed", layers=[{"match": name, **changes}])
    compress(checkpoint.path, tmp_path / "f", settings=settings)
    assert verify(tmp_path / "f", against=checkpoint.path).passed
    stored, own = load_state_dict(tmp_path / "f"), module.state_dict()[name]
    assert (stored[name] - own).norm() <= changes.get("tol", 0) * own.norm()
    other = normed_networks.Normed().eval()
    other.load_state_dict(stored)
    assert 0 < error(module, other) <= 1.1 * BOUND


def test_a_bounded_kernel_is_that_of_the_parameters() -> None:
    """Which is another one than that of the weights made of them."""
    module = normed_networks.Normed()
    problem = pose(settings_of("Normed"), module.state_dict())
    network = with_products(problem.network, problem.calibration.points, lambda name, w: False, None)
    assert not network.products
