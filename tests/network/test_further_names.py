"""A module may hold a layer twice, as an attribute and in a list: both are names of one layer, in the file as well."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_networks import outputs_settings, saved, stack
from torch import Tensor, nn

import hmcompress
from hmcompress.errors import NetworkError
from hmcompress.network import compress_network, load_tensors
from hmcompress.network.model.build import build_network
from hmcompress.network.model.factory import adopt
from hmcompress.network.owned import owned

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


class Attributes(nn.Module):
    """Its layers as attributes, as they are called first in the checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(2, 16), nn.Linear(16, 16), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.second(torch.tanh(self.first(x)))))


class Listed(nn.Module):
    """The same in a list alone."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, 16), nn.Linear(16, 16), nn.Linear(16, 1)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = torch.tanh(layer(x))
        return self.layers[-1](x)


class Both(Attributes):
    """In both, which checkpoints are saved from."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([self.first, self.second, self.last])


def both() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return Both().state_dict()


@pytest.mark.parametrize("make", [Attributes, Listed, Both])
def test_a_module_that_knows_either_name_has_its_layers_compressed(make: type[nn.Module], tmp_path: Path) -> None:
    checkpoint = saved(tmp_path, both())
    network = owned(adopt(make(), load_tensors(checkpoint), {}, "factory", "it"), checkpoint)
    assert [layer.weight for layer in network.layers] == ["first.weight", "second.weight", "last.weight"]
    assert [layer.bias for layer in network.layers] == ["first.bias", "second.bias", "last.bias"]
    assert not network.others


@pytest.mark.parametrize("own", ["encoder", "decoder"])
def test_a_weight_that_is_tied_to_what_a_network_does_not_know_stays_near_itself(own: str, tmp_path: Path) -> None:
    """Another part of the model reads it too, so it is rounded, and not refitted."""
    weight = torch.randn(16, 2)
    parts = {"encoder.weight": weight, "encoder.bias": torch.randn(16)}
    parts |= {"decoder.weight": weight, "decoder.bias": torch.randn(16)}
    checkpoint, module = saved(tmp_path, parts), nn.Sequential(nn.Linear(2, 16))
    network = owned(adopt(module, load_tensors(checkpoint), {f"{own}.": "0."}, "factory", "it"), checkpoint)
    assert not network.layers and "encoder.weight" in network.others


def test_a_file_is_loaded_into_a_module_that_knows_further_names(tmp_path: Path) -> None:
    torch.save(both(), tmp_path / "model.pt")
    settings = outputs_settings(network={"factory": f"{__file__}:Listed"})
    source, file = tmp_path / "model.pt", tmp_path / "model.hmc.safetensors"
    report = hmcompress.compress(source, file, settings=settings)
    assert len(report.layers) == 3 and hmcompress.verify(file, against=source).passed
    assert hmcompress.load_model(file, Listed())(torch.rand(3, 2)).shape == (3, 1)


def square() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))


def oblong() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 24), nn.Tanh(), nn.Linear(24, 8), nn.Tanh(), nn.Linear(8, 1))


def tall() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 24), nn.Tanh(), nn.Linear(24, 12), nn.Tanh(), nn.Linear(12, 8))


def factory(make: Callable[[], nn.Module]) -> dict[str, Any]:
    return {"factory": f"{__file__}:{make.__name__}"}


MLP = {"mlp": {"activation": "tanh"}}
TIES = [  # module, network, and what of the first weight is another
    (square, factory(square), "2.weight", lambda w: w),
    (square, MLP, "2.weight", lambda w: w),
    (square, MLP, "2.weight", lambda w: w.T),
    (oblong, factory(oblong), "2.weight", lambda w: w.T),
    (tall, factory(tall), "4.weight", lambda w: w.reshape(-1)[12:108].reshape(8, 12)),
]


@pytest.mark.parametrize(("make", "network", "name", "view"), TIES)
@pytest.mark.parametrize("before", [{}, {"z.weight": None}], ids=["", "with a third name"])
def test_what_is_one_in_the_checkpoint_alone_is_bounded_at_all_its_places(
    make: Callable[[], nn.Module],
    network: dict[str, Any],
    name: str,
    view: Callable[[Tensor], Tensor],
    before: dict[str, None],
    tmp_path: Path,
) -> None:
    """The modules do not tie it themselves; it may also come first under a name that a factory's does not know."""
    torch.manual_seed(0)
    state, x = dict(make().state_dict()), torch.randn(2048, 8, generator=torch.Generator().manual_seed(0))
    state |= {name: view(state["0.weight"])}
    first = {} if network is MLP else dict.fromkeys(before, state["0.weight"])
    torch.save(first | state, tmp_path / "model.pt")
    np.save(tmp_path / "x.npy", x.numpy())
    settings = outputs_settings(network=network, calibration={"inputs": str(tmp_path / "x.npy"), "samples": 512})
    source, file = tmp_path / "model.pt", tmp_path / "model.hmc.safetensors"
    hmcompress.compress(source, file, settings=settings)
    assert hmcompress.verify(file, against=source).passed
    loaded, original, restored = hmcompress.load_state_dict(file), make(), make()
    original.load_state_dict(state)
    restored.load_state_dict({n: loaded[n] for n in state})
    with torch.no_grad():
        error = restored(x) - original(x)
    assert error.norm() <= 1.1 * settings.tol * original(x).norm()
