"""A checkpoint becomes the network it was, or one clear line says why not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small_networks import build_idle, forward, outputs_settings, saved, stack

import hmcompress
from hmcompress.errors import NetworkError, SettingsError
from hmcompress.network import compress_network, load_tensors, pose
from hmcompress.network.layerwise.others import _patterns
from hmcompress.network.model.build import build_network
from hmcompress.network.model.factory import adopt

HERE = Path(__file__).parent
HELPERS = HERE / "small_networks.py"


def settings(network: dict, **changes):
    return outputs_settings(network=network, **changes)


@pytest.mark.parametrize("name", ["tanh", "sin", "silu", "gelu", "relu", "identity"])
def test_mlp_computes_what_the_layers_say(name: str) -> None:
    functions = {
        "tanh": torch.tanh,
        "sin": torch.sin,
        "silu": torch.nn.functional.silu,
        "gelu": torch.nn.functional.gelu,
        "relu": torch.relu,
        "identity": lambda x: x,
    }
    state, x = stack([2, 16, 16, 3]), torch.rand(50, 2, dtype=torch.float64)
    network = build_network(settings({"mlp": {"activation": name}}), state)
    assert torch.allclose(network.run((x,)), forward(state, x, functions[name]))


def test_swish_takes_its_learned_slopes() -> None:
    state = stack([2, 16, 16, 1]) | {"slope.0": torch.tensor(1.5), "slope.1": torch.full((16,), 0.5)}
    network = build_network(settings({"mlp": {"activation": "swish", "layers": "net.*", "slopes": "slope.*"}}), state)
    x = torch.rand(20, 2, dtype=torch.float64)
    z = x @ state["net.0.weight"].double().T + state["net.0.bias"].double()
    z = z * torch.sigmoid(1.5 * z)
    z = z @ state["net.2.weight"].double().T + state["net.2.bias"].double()
    z = z * torch.sigmoid(0.5 * z)
    expected = z @ state["net.4.weight"].double().T + state["net.4.bias"].double()
    assert torch.allclose(network.run((x,)), expected)


def test_other_activations_are_stretched_by_their_learned_slopes() -> None:
    """Locally adaptive activations: tanh(b x)."""
    state = stack([2, 16, 1]) | {"slope": torch.tensor(1.5)}
    network = build_network(settings({"mlp": {"activation": "tanh", "layers": "net.*", "slopes": "slope"}}), state)
    x = torch.rand(20, 2, dtype=torch.float64)
    z = torch.tanh(1.5 * (x @ state["net.0.weight"].double().T + state["net.0.bias"].double()))
    assert torch.allclose(network.run((x,)), z @ state["net.2.weight"].double().T + state["net.2.bias"].double())


def test_features_come_first() -> None:
    state = stack([10, 16, 1]) | {"B": torch.randn(2, 5), "mean": torch.ones(2), "std": torch.full((2,), 2.0)}
    mlp = {"activation": "tanh", "layers": "net.*", "fourier": "B", "input_mean": "mean", "input_std": "std"}
    network = build_network(settings({"mlp": mlp}), state)
    x = torch.rand(20, 2, dtype=torch.float64)
    phase = ((x - 1) / 2) @ state["B"].double()
    features = torch.cat([torch.sin(phase), torch.cos(phase)], 1)
    nets = {name: t for name, t in state.items() if name.startswith("net")}
    assert torch.allclose(network.run((x,)), forward(nets, features, torch.tanh))


def test_deeponet_is_an_inner_product() -> None:
    branch = {f"branch.{k}": t for k, t in stack([7, 16, 8], 1).items()}
    trunk = {f"trunk.{k}": t for k, t in stack([1, 16, 8], 2).items()}
    kind = {
        "branch": {"activation": "tanh"},
        "trunk": {"activation": "tanh", "activation_after_last": True},
        "bias": "b",
        "cartesian": True,
    }
    network = build_network(settings({"deeponet": kind}), branch | trunk | {"b": torch.tensor([0.5])})
    u, y = torch.rand(6, 7, dtype=torch.float64), torch.rand(9, 1, dtype=torch.float64)
    left = forward(dict(branch.items()), u, torch.tanh)
    right = torch.tanh(forward(dict(trunk.items()), y, torch.tanh))
    assert torch.allclose(network.run((u, y)), left @ right.T + 0.5)
    assert torch.allclose(network.paired().run((u, y[:6])), ((left * right[:6]).sum(1, keepdim=True)) + 0.5)


def fails(text: str, network: dict, state: dict, **changes) -> None:
    with pytest.raises(NetworkError, match=text) as caught:
        pose(settings(network, **changes), state)
    assert "\n" not in str(caught.value)


def test_missing_layer_is_named() -> None:
    state = stack([2, 16, 24, 1])
    del state["net.2.weight"], state["net.2.bias"]
    fails(r"net\.4\.weight takes 24 inputs but net\.0\.weight gives 16", {"mlp": {"activation": "tanh"}}, state)


@pytest.mark.parametrize("key", ["layers", "slopes"])
def test_a_pattern_that_is_no_regular_expression_is_named(key: str) -> None:
    network = {"mlp": {"activation": "tanh", key: "re:("}}
    with pytest.raises(SettingsError, match=r"'re:\(' is not a regular expression"):
        pose(settings(network), stack([2, 16, 1]))


def test_left_over_tensors_are_named() -> None:
    state = stack([2, 16, 1]) | {"extra.scale": torch.ones(5)}
    fails(r"does not use extra\.scale", {"mlp": {"activation": "tanh"}}, state)


def test_domain_of_wrong_dimension_is_named() -> None:
    calibration = {"domain": {"x": [0, 1], "y": [0, 1], "t": [0, 1]}}
    fails("3 coordinates .*takes 2", {"mlp": {"activation": "tanh"}}, stack([2, 16, 1]), calibration=calibration)


def test_nan_outputs_are_reported() -> None:
    state = stack([2, 16, 1])
    state["net.2.weight"][0, 0] = float("nan")
    fails("nan or inf on 512 of 512", {"mlp": {"activation": "tanh"}}, state)


def test_wrong_activation_is_told_by_the_reference(tmp_path: Path) -> None:
    state = stack([2, 16, 16, 1], gain=3)
    x = torch.rand(64, 2)
    save_file({"x": x, "y": forward(state, x.double(), torch.tanh).float()}, tmp_path / "exact.safetensors")
    reference = str(tmp_path / "exact.safetensors")
    pose(settings({"mlp": {"activation": "tanh"}}, reference=reference), state)
    fails("is its activation right", {"mlp": {"activation": "relu"}}, state, reference=reference)


def test_factory_that_raises_is_one_line() -> None:
    fails("raises ValueError: no weights today", {"factory": f"{HELPERS}:build_broken"}, stack([2, 16, 1]))


def test_missing_factories_are_one_line() -> None:
    fails("has no function nothing", {"factory": f"{HELPERS}:nothing"}, stack([2, 16, 1]))
    fails("there is no file", {"factory": "nowhere.py:build"}, stack([2, 16, 1]))
    fails("cannot be imported", {"factory": "no_such_package.x:build"}, stack([2, 16, 1]))


def test_factory_of_another_network_lists_the_differences() -> None:
    fails("the checkpoint lacks .*embedding", {"factory": f"{HELPERS}:build_mixed"}, stack([2, 16, 1]))


def test_ignored_layers_are_named(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path, build_idle().state_dict())
    with pytest.raises(NetworkError, match=r"never uses idle\.weight: keep .* with --exclude 'idle\.\*' "):
        compress_network(checkpoint, settings({"factory": f"{HELPERS}:build_idle"}))


def test_patterns_take_in_no_weight_that_is_used() -> None:
    used = {"net.a.weight", "net.b.bias", "top.weight"}
    assert _patterns(["net.b.weight", "gan.d.0.weight", "gan.d.2.weight", "lone"], used) == [
        "net.b.weight",
        "gan.*",
        "lone",
    ]


def test_ignored_layers_may_have_a_bound_of_their_own(tmp_path: Path) -> None:
    """The other remedy: the weights from which a constrained layer was made, say."""
    torch.manual_seed(0)
    checkpoint, factory = saved(tmp_path, build_idle().state_dict()), {"factory": f"{HELPERS}:build_idle"}
    with pytest.raises(NetworkError, match=r"bound it by a rule with a tol of its own \(layers:\)"):
        compress_network(checkpoint, settings(factory))
    ruled = settings(factory, layers=[{"match": "idle.*", "tol": 0.1}])
    report = hmcompress.compress(tmp_path / "model.pt", settings=ruled)
    assert next(layer for layer in report.layers if layer.name == "idle.weight").error <= 0.1


def test_layers_that_are_excluded_may_be_ignored(tmp_path: Path) -> None:
    """The remedy that the message names: the discriminator beside a generator, say."""
    settings_without = outputs_settings(network={"factory": f"{HELPERS}:build_idle"}, exclude=["idle.*"])
    result = compress_network(saved(tmp_path, build_idle().state_dict()), settings_without)
    assert set(result.tensors) == {"used.weight", "used.bias"} and result.record.error <= 1e-2


def test_prefixes_of_training_wrappers_are_mapped() -> None:
    state = {f"model.module.{name}": t for name, t in build_idle().state_dict().items()}
    network = build_network(settings({"factory": f"{HELPERS}:build_idle"}), state)
    assert network.layers[0].weight == "model.module.used.weight"


def test_whole_numbers_for_a_network_of_floats_are_named() -> None:
    network = build_network(settings({"mlp": {"activation": "tanh"}}), stack([2, 16, 1]))
    with pytest.raises(NetworkError, match="some inputs are whole numbers: store them as floats"):
        network.run((torch.ones(4, 2, dtype=torch.int64),))


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({}, "2-24-24-1, tanh after each layer but the last"),
        ({"activation_after_last": True}, "2-24-24-1, tanh after each layer"),
        ({"fourier": "B"}, "[sin(x B), cos(x B)], 2-24-24-1, tanh after each layer but the last"),
    ],
)
def test_how_a_network_was_read_is_said_where_no_reference_checks_it(
    changes: dict[str, Any], shown: str, tmp_path: Path
) -> None:
    """It is no part of the file, which would grow by a tenth."""
    state = stack([2, 24, 24, 1]) | ({"B": torch.randn(2, 1)} if "fourier" in changes else {})
    source = saved(tmp_path, state).path
    settings = outputs_settings(network={"mlp": {"activation": "tanh", **changes}})
    report = hmcompress.compress(source, tmp_path / "small.hmc.safetensors", settings=settings)
    (note,) = (note for note in report.notes if note.startswith("network read as"))
    assert note.startswith(f"network read as {shown}; factors that are no weights (2 pi, w0, output transforms)")
    assert not hmcompress.read_report(tmp_path / "small.hmc.safetensors").notes
    x = torch.rand(100, 2, dtype=torch.float64)
    run = pose(settings, load_tensors(saved(tmp_path, state))).network.run((x,))
    np.savez(tmp_path / "r.npz", x=x.numpy(), y=run.numpy())
    checked = settings.model_copy(update={"reference": str(tmp_path / "r.npz")})
    assert not hmcompress.compress(source, dry_run=True, settings=checked).notes


@pytest.mark.parametrize(
    ("found", "wanted", "given", "advice"),
    [
        ("", "policy.", {}, '; prefix: {"": "policy."} fits'),
        ("net.body.", "policy.", {}, '; prefix: {"net.body.": "policy."} fits'),
        ("policy.", "policy.", {"net.": "x."}, "; without prefix: it fits"),
        ("policy.x", "policy.", {}, ""),
    ],
)
def test_a_prefix_that_would_fit_is_named(found: str, wanted: str, given: dict[str, str], advice: str) -> None:
    state = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 3)).state_dict()
    module = torch.nn.ModuleDict({wanted[:-1]: torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 3))})
    tensors = {found + name: t for name, t in state.items()}
    with pytest.raises(NetworkError, match="does not fit the checkpoint") as error:
        adopt(module, tensors, given, "factory", "f")
    assert str(error.value).endswith(advice) and ("prefix" in str(error.value)) == bool(advice)
    if "{" in advice:
        prefix = dict([tuple(part.strip('{}" ') for part in advice[10:-5].split(":"))])
        assert len(adopt(module, tensors, prefix, "factory", "f").places) == 4


@pytest.mark.parametrize(
    ("network", "meant"),
    [
        ({"mlp": {"activation": "tanh", "fourier": "B"}}, "did you mean 'features.B'"),
        ({"mlp": {"activation": "tanh", "input_mean": "shfit"}}, "did you mean 'shift'"),
        ({"mlp": {"activation": "tanh", "input_std": "nothing"}}, "there are net.0.weight, net.0.bias, net.2.weight"),
        ({"mlp": {"activation": "swish", "slopes": "slope"}}, "did you mean 'slope.0'"),
        ({"linear": {"weight": "net.0.wieght"}}, "did you mean 'net.0.weight'"),
        ({"linear": {"weight": "net.0.weight", "bias": "net.0.b"}}, "did you mean 'net.0.bias'"),
        (
            {
                "deeponet": {
                    "branch": {"activation": "tanh", "layers": "net.0.*"},
                    "trunk": {"activation": "tanh", "layers": "net.0.*"},
                    "bias": "model_state_dict.b",
                }
            },
            "did you mean 'model_state_dict.b.0'",
        ),
    ],
)
def test_a_tensor_that_is_not_there_is_answered_with_one_that_is(network: dict[str, Any], meant: str) -> None:
    more = ("features.B", "shift", "slope.0", "model_state_dict.b.0")
    state = stack([2, 16, 1]) | {name: torch.ones(()) for name in more}
    with pytest.raises(NetworkError, match=f": {meant}"):
        build_network(settings(network), state)


class Shelved(torch.nn.Module):
    """Layers in a plain dict in a list, which torch does not know of."""

    def __init__(self) -> None:
        super().__init__()
        self.last = torch.nn.Linear(4, 1)
        self.models = [{"first": torch.nn.Linear(2, 4)}]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.tanh(self.models[0]["first"](x)))


@pytest.mark.parametrize("prefix", ["", "net."])
def test_modules_in_plain_containers_get_the_weights_of_the_checkpoint(prefix: str) -> None:
    """Else the bound would be on a network that nobody saved."""
    saved_one, made = Shelved(), Shelved()
    hidden = {f"models.0.first.{name}": t for name, t in saved_one.models[0]["first"].state_dict().items()}
    tensors = {prefix + name: t for name, t in {**saved_one.state_dict(), **hidden}.items()}
    x = torch.rand(5, 2)
    assert torch.equal(adopt(made, tensors, {}, "factory", "it").run((x,)), saved_one(x))
