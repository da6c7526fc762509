"""A module may hold a layer twice, as an attribute and in a list: both are names of one layer, in the file as well."""

from pathlib import Path

import pytest
import torch
from small_networks import outputs_settings, saved, stack
from torch import Tensor

import hmcompress
from hmcompress.errors import NetworkError
from hmcompress.network import compress_network
from hmcompress.network.model.build import build_network

SIZES = [2, 16, 16, 1]


def held_twice(state: dict[str, Tensor], first: bool = True) -> dict[str, Tensor]:
    again = {name.replace("net", "listed"): tensor for name, tensor in state.items()}
    return state | again if first else again | state


@pytest.mark.parametrize("first", [True, False])
def test_layers_that_are_held_twice_are_read_once(first: bool) -> None:
    state, x = stack(SIZES), torch.rand(20, 2, dtype=torch.float64)
    settings = outputs_settings()
    once, twice = build_network(settings, state), build_network(settings, held_twice(state, first))
    assert len(twice.layers) == 3
    assert torch.equal(once.run((x,)), twice.run((x,)))


def test_a_layer_that_comes_again_in_a_chain_is_read_each_time() -> None:
    state = stack([2, 16, 16, 16, 1])
    state["net.4.weight"] = state["net.2.weight"]
    assert len(build_network(outputs_settings(), state).layers) == 4


def test_copies_that_share_no_memory_are_other_layers() -> None:
    state = held_twice(stack(SIZES))
    with pytest.raises(NetworkError, match=r"takes 2 inputs but .* gives 1"):
        build_network(outputs_settings(), {name: t.clone() for name, t in state.items()})


def test_they_are_compressed_once_and_the_file_keeps_its_bound(tmp_path: Path) -> None:
    """The bias of a single output among them, which a view of the decoded layer must not replace."""
    state = held_twice(stack(SIZES))
    result = compress_network(saved(tmp_path, state), outputs_settings())
    assert {layer.row.name for layer in result.layers} == {"net.0.weight", "net.2.weight", "net.4.weight"}
    source, file = tmp_path / "model.pt", tmp_path / "model.hmc.safetensors"
    hmcompress.compress(source, file, settings=outputs_settings())
    loaded = hmcompress.load_state_dict(file)
    for name in stack(SIZES):
        again = loaded[name.replace("net", "listed")]
        assert torch.equal(loaded[name], again) and loaded[name].data_ptr() == again.data_ptr()
    assert hmcompress.verify(file, against=source).passed
    x = torch.stack([2 * torch.rand(500) - 1, torch.rand(500)], 1)
    y = build_network(outputs_settings(), state).run((x.double(),))
    with torch.no_grad():
        error = hmcompress.load_model(file)(x).double() - y
    assert error.norm() < 1.2 * result.record.tol * y.norm()
