"""Neurons that nothing reads are left out where the network is only measured: it computes the same."""

from typing import Any

import pytest
import torch
from small_networks import outputs_settings, stack
from torch import Tensor, nn

from hmcompress.network.layerwise.subject import narrowed
from hmcompress.network.model.build import build_network
from hmcompress.network.model.network import DenseLayer, Network, in_place_of

X = torch.rand(50, 2, dtype=torch.float64)
MLP = {"activation": "tanh", "layers": "net.*"}


def with_idle_neurons(state: dict[str, Tensor], idle: int = 10) -> dict[str, Tensor]:
    """The same with some columns zero: the first neurons of every hidden layer are not read."""
    tensors = {name: t.clone() for name, t in state.items()}
    for name, t in tensors.items():
        if t.ndim == 2 and name != "net.0.weight":
            t[:, :idle] = 0
    return tensors


def mlp(state: dict[str, Tensor], **keys: Any) -> Network:
    return build_network(outputs_settings(network={"mlp": {**MLP, **keys}}), state)


def test_neurons_that_nothing_reads_are_left_out_and_the_outputs_stay() -> None:
    state = stack([2, 16, 16, 3])
    network, tensors = mlp(state), with_idle_neurons(state)
    narrow = narrowed(network, tensors)
    shapes = [tuple(narrow[name].shape) for name in ("net.0.weight", "net.0.bias", "net.2.weight", "net.4.weight")]
    assert shapes == [(6, 2), (6,), (6, 6), (3, 6)]
    assert torch.allclose(network.run((X,), narrow), network.run((X,), tensors))


@pytest.mark.parametrize("state", [stack([2, 16, 16, 3]), with_idle_neurons(stack([2, 16, 16, 3]), 2)])
def test_where_most_are_read_all_stay(state: dict[str, Tensor]) -> None:
    assert all(narrowed(mlp(state), state)[name] is t for name, t in state.items())


def test_slopes_of_single_neurons_keep_their_layer_wide() -> None:
    state = stack([2, 16, 12, 1])
    network = mlp(state | {"slope.0": torch.tensor(1.5), "slope.1": torch.full((12,), 0.5)}, slopes="slope.*")
    tensors = with_idle_neurons(state, 8)
    narrow = narrowed(network, tensors)
    assert narrow["net.0.weight"].shape == (8, 2) and narrow["net.2.weight"].shape == (12, 8)
    assert torch.allclose(network.run((X,), narrow), network.run((X,), tensors))


def test_layers_without_biases_become_narrow_too() -> None:
    state = {name: t for name, t in stack([2, 16, 16, 3]).items() if name.endswith("weight")}
    network, tensors = mlp(state), with_idle_neurons(state)
    assert narrowed(network, tensors)["net.0.weight"].shape == (6, 2)
    assert torch.allclose(network.run((X,), narrowed(network, tensors)), network.run((X,), tensors))


def test_what_stands_in_place_of_a_layer_is_called_instead_of_it_and_only_meanwhile() -> None:
    network = mlp(stack([2, 16, 3]))
    before, seen = network.run((X,)), []

    def zeros(layer: DenseLayer, x: Tensor) -> Tensor:
        seen.append(layer.weight)
        return x.new_zeros(*x.shape[:-1], network.shape(layer)[0])

    with in_place_of(network, zeros):
        assert not network.run((X,)).any()
    assert seen == ["net.0.weight", "net.2.weight"]
    assert torch.equal(network.run((X,)), before)
    assert all("forward" not in vars(module) for module in network.module.modules())


def test_a_forward_that_a_module_was_given_is_given_back() -> None:
    network = mlp(stack([2, 16, 3]))
    first = network.linear(network.layers[0])
    own = first.forward
    vars(first)["forward"] = lambda x: own(2 * x)
    before = network.run((X,))
    with pytest.raises(ZeroDivisionError), in_place_of(network, lambda layer, x: 1 / 0):  # type: ignore[arg-type]
        network.module(X)
    assert isinstance(network.module, nn.Module) and torch.equal(network.run((X,)), before)


def test_layers_of_a_transformer_whose_forward_does_without_their_calls_are_called() -> None:
    torch.manual_seed(0)
    block = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True).eval()
    layers = (DenseLayer("linear1", "linear1.weight", None), DenseLayer("linear2", "linear2.weight", None))
    network = Network(block, layers, {}, "factory", torch.float32)
    seen: list[str] = []

    def noted(layer: DenseLayer, x: Tensor) -> Tensor:
        seen.append(layer.path)
        return nn.functional.linear(x, network.linear(layer).weight, network.linear(layer).bias)

    x = torch.rand(3, 5, 8)
    before = network.run((x,))
    with in_place_of(network, noted):
        after = network.run((x,))
    assert seen == ["linear1", "linear2"] and torch.allclose(after, before, atol=1e-5)
