"""Claims about slim networks: the same function, fewer neurons; what is written is an ordinary checkpoint."""

import numpy as np
import pytest
import torch
from nn_cases import dead, mlp_file, surrogate_file
from safetensors import safe_open
from torch import nn

import hmcompress
from hmcompress import cli
from hmcompress.errors import NetworkError
from hmcompress.network.model.build import build_network
from hmcompress.nn import slim_module
from hmcompress.nn.memory import resident_bytes
from hmcompress.settings.config import Settings
from hmcompress.settings.problem_settings import MLP, DeepONet, DeepONetNetwork


def network(activation=nn.Tanh, bias: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(2, 30, bias), activation(), nn.Linear(30, 20, bias), activation(), nn.Linear(20, 1, bias)
    ).double()


def sizes(model: nn.Module) -> list[int]:
    return [m.out_features for m in model.modules() if isinstance(m, nn.Linear)]


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU, nn.SiLU, nn.Sigmoid, nn.Softplus])
@pytest.mark.parametrize("bias", [True, False])
def test_dead_and_constant_neurons_go_and_the_function_stays(activation, bias):
    model, x = network(activation, bias), torch.randn(50, 2, dtype=torch.float64)
    dead(model[2].weight, [0, 3, 29])
    dead(model[4].weight, [5])
    with torch.no_grad():
        model[0].weight[[7, 8]] = 0  # constant, but for their bias
        model[2].weight[[1, 2]] = 0
    before = model(x)
    found = slim_module(model)
    torch.testing.assert_close(model(x), before, rtol=1e-12, atol=1e-12)
    foldable = bias or activation in (nn.Tanh, nn.ReLU, nn.SiLU)
    assert sizes(model) == ([25, 17, 1] if foldable else [27, 19, 1])
    assert found[0].before == (2, 30, 20, 1) and found[0].after == (2, *sizes(model))


def test_a_neuron_that_only_dead_neurons_read_is_dead():
    model = network()
    dead(model[4].weight, list(range(10, 20)))
    with torch.no_grad():
        model[2].weight[:10, 15:] = 0
    slim_module(model)
    assert sizes(model) == [15, 10, 1]


def test_a_network_without_dead_neurons_stays_as_it_is():
    model = network()
    weights = [p.clone() for p in model.parameters()]
    slim_module(model)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), weights, strict=True))


def test_what_stays_takes_no_more_memory_than_its_numbers():
    """Weight and bias are decoded as one matrix, of which each is a part."""
    model = network()
    dead(model[2].weight, list(range(25)))
    dead(model[4].weight, list(range(15)))
    for layer in (model[0], model[2], model[4]):
        joint = torch.cat([layer.weight, layer.bias[:, None]], 1).detach()
        layer.weight, layer.bias = nn.Parameter(joint[:, :-1]), nn.Parameter(joint[:, -1])
    slim_module(model)
    assert sizes(model) == [5, 5, 1]
    assert resident_bytes(model) == 8 * sum(p.numel() for p in model.parameters())
    assert all(p.requires_grad for p in model.parameters())


def test_an_all_dead_layer_keeps_one_neuron():
    model, x = network(), torch.randn(5, 2, dtype=torch.float64)
    dead(model[4].weight, list(range(20)))
    before = model(x)
    slim_module(model)
    torch.testing.assert_close(model(x), before)
    assert sizes(model)[-1] == 1 and min(sizes(model)) == 1


def test_layers_that_something_else_reads_are_left_alone():
    """A normalisation between two layers sees all neurons: no chain goes across it."""
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))
    dead(model[2].weight, [0, 1])
    slim_module(model)
    assert sizes(model) == [8, 2]


def test_chains_inside_a_larger_module_are_found():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 4))

        def forward(self, x):
            return x + self.body(x)

    model, x = Residual().eval(), torch.randn(3, 4)
    dead(model.body[3].weight, [1, 2, 3])
    before = model(x)
    slim_module(model)
    torch.testing.assert_close(model(x), before)
    assert sizes(model) == [13, 4]


@pytest.mark.parametrize("after_last", [False, True])
def test_terms_of_a_deeponet_that_are_always_zero_go(after_last):
    torch.manual_seed(0)
    shapes = {"branch.0": (12, 6), "branch.1": (9, 12), "trunk.0": (10, 2), "trunk.1": (9, 10)}
    tensors = {f"{k}.weight": torch.randn(s) for k, s in shapes.items()}
    tensors |= {f"{k}.bias": torch.randn(s[0]) for k, s in shapes.items()} | {"b": torch.randn(1)}
    tensors["branch.1.weight"][2], tensors["branch.1.bias"][2] = 0, 0
    tensors["trunk.1.weight"][:, 4] = 0
    parts = {
        "branch": MLP(activation="tanh"),
        "trunk": MLP(activation="tanh", activation_after_last=after_last),
    }
    settings = Settings(network=DeepONetNetwork(deeponet=DeepONet(bias="b", **parts)))
    module = build_network(settings, tensors).module
    u, y = torch.randn(7, 6, dtype=torch.float64), torch.randn(7, 2, dtype=torch.float64)
    before = module(u, y)
    slim_module(module)
    torch.testing.assert_close(module(u, y), before)
    assert sizes(module) == [12, 8, 9, 8]


def test_decompress_slim_writes_an_ordinary_smaller_network(tmp_path, capsys):
    file, model = mlp_file(tmp_path)
    assert cli.run(["decompress", str(file), "--slim", "-o", str(tmp_path / "small.pt")]) == 0
    assert "2-40-40-1 -> 2-15-15-1" in capsys.readouterr().out
    saved = torch.load(tmp_path / "small.pt", weights_only=True)
    assert saved["layer_sizes"] == [2, 15, 15, 1]
    small = nn.Sequential(nn.Linear(2, 15), nn.Tanh(), nn.Linear(15, 15), nn.Tanh(), nn.Linear(15, 1))
    small.load_state_dict(saved["state_dict"])
    x = torch.rand(100, 2)
    torch.testing.assert_close(small(x), model(x), rtol=1e-3, atol=1e-3)


def test_decompress_slim_writes_safetensors_with_the_sizes_as_metadata(tmp_path):
    file, _ = mlp_file(tmp_path)
    hmcompress.decompress(file, tmp_path / "small.safetensors", slim=True)
    with safe_open(tmp_path / "small.safetensors", "pt") as saved:
        assert saved.metadata() == {"layer_sizes": "[2, 15, 15, 1]"}
        assert saved.get_tensor("2.weight").shape == (15, 15)


def test_a_linear_network_has_sizes_too(tmp_path):
    torch.save({"weight": torch.randn(20, 40)}, tmp_path / "linear.pt")
    file = tmp_path / "linear.hmc.safetensors"
    hmcompress.compress(tmp_path / "linear.pt", file, tol=1e-2, network={"linear": {}})
    hmcompress.decompress(file, tmp_path / "small.pt", slim=True)
    assert torch.load(tmp_path / "small.pt", weights_only=True)["layer_sizes"] == [40, 20]


def test_slim_needs_a_file_that_names_its_network(tmp_path, capsys):
    file, _ = surrogate_file(tmp_path, effort="fast")
    assert cli.run(["decompress", str(file), "--slim", "-o", str(tmp_path / "small.pt")]) == 2
    assert "does not say which network" in capsys.readouterr().err
    assert not (tmp_path / "small.pt").exists()
    with pytest.raises(NetworkError):
        hmcompress.load_model(file)


def test_a_network_from_a_factory_has_no_built_in_slim_form(tmp_path, capsys):
    code = "from torch import nn\n\ndef build():\n    return nn.Sequential(nn.Linear(2, 16), nn.Tanh())\n"
    (tmp_path / "nets.py").write_text(code)
    torch.save(nn.Sequential(nn.Linear(2, 16), nn.Tanh()).state_dict(), tmp_path / "net.pt")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((64, 2), np.float32))
    file, out = tmp_path / "net.hmc.safetensors", tmp_path / "small.pt"
    options = {"calibration": {"inputs": str(tmp_path / "x.npy")}, "effort": "fast"}
    factory = {"factory": f"{tmp_path / 'nets.py'}:build"}
    hmcompress.compress(tmp_path / "net.pt", file, metric="outputs", tol=1e-2, network=factory, **options)
    assert cli.run(["decompress", str(file), "--slim", "-o", str(out)]) == 2
    told = capsys.readouterr().err
    assert "network of your own" in told and "no built-in slim form" in told
    assert not out.exists()
