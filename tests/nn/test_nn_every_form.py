"""Claims about every network that can be built from its file: slim, ONNX and torch.export compute what it computes."""

import io
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import hmcompress
from hmcompress.commands.exporting import held_out_inputs
from hmcompress.commands.slimming import write_slim
from hmcompress.network.model.modules import ACTIVATIONS
from hmcompress.nn.load import load

WIDTHS = (2, 12, 10, 1)


def layers(widths: tuple[int, ...], prefix: str = "", bias: bool = True) -> dict[str, Tensor]:
    """Layers whose hidden ones have neurons that nothing reads, constant ones, and both."""
    tensors = {}
    for k, (n, m) in enumerate(pairwise(widths)):
        w = torch.randn(m, n) / n**0.5
        if k > 0:
            w[:, :3] = 0
        if k + 2 < len(widths):
            w[2:5] = 0
        tensors[f"{prefix}{2 * k}.weight"] = w
        if bias:
            tensors[f"{prefix}{2 * k}.bias"] = torch.randn(m)
    return tensors


def mlp(**settings: object) -> tuple[dict, dict]:
    return layers(WIDTHS), {"mlp": settings}


def constant() -> tuple[dict, dict]:
    tensors = layers(WIDTHS)
    tensors["2.weight"].zero_()
    return tensors, {"mlp": {"activation": "tanh"}}


def silent() -> tuple[dict, dict]:
    tensors = layers((2, 12, 10, 3))
    tensors["4.weight"][1] = 0
    tensors["4.bias"][1] = 0
    return tensors, {"mlp": {"activation": "tanh"}}


def fourier() -> tuple[dict, dict]:
    return {"B": torch.randn(2, 6), **layers((12, 12, 10, 1))}, {"mlp": {"activation": "silu", "fourier": "B"}}


def normalised() -> tuple[dict, dict]:
    tensors = {"mean": torch.randn(2), "std": torch.rand(2) + 0.5, **layers(WIDTHS)}
    return tensors, {"mlp": {"activation": "tanh", "input_mean": "mean", "input_std": "std"}}


def sloped(activation: str, one_each: bool) -> tuple[dict, dict]:
    slopes = {f"slope.{k}": torch.rand((n,) if one_each else ()) + 0.5 for k, n in enumerate(WIDTHS[1:-1])}
    return {**layers(WIDTHS), **slopes}, {"mlp": {"activation": activation, "slopes": ["slope.*"]}}


def deeponet(cartesian: bool) -> tuple[dict, dict]:
    stacks = {name: {"activation": "tanh", "layers": [f"{name}.*"]} for name in ("branch", "trunk")}
    tensors = {**layers((4, 12, 8), "branch."), **layers((2, 12, 8), "trunk."), "b": torch.randn(1)}
    return tensors, {"deeponet": {**stacks, "bias": "b", "cartesian": cartesian}}


def linear() -> tuple[dict, dict]:
    return {"weight": torch.randn(20, 30), "bias": torch.randn(20)}, {"linear": {}}


FORMS = {
    **{name: lambda name=name: mlp(activation=name) for name in ACTIVATIONS if name != "identity"},
    "without biases": lambda: (layers(WIDTHS, bias=False), {"mlp": {"activation": "tanh"}}),
    "activation after the last": lambda: mlp(activation="tanh", activation_after_last=True),
    "constant layer": constant,
    "zero output": silent,
    "fourier": fourier,
    "normalised": normalised,
    "swish with a slope": lambda: sloped("swish", False),
    "swish with slopes": lambda: sloped("swish", True),
    "tanh with slopes": lambda: sloped("tanh", True),
    "deeponet": lambda: deeponet(False),
    "deeponet, cartesian": lambda: deeponet(True),
    "linear": linear,
}


@pytest.fixture(scope="module", params=FORMS)
def file(request, tmp_path_factory) -> Path:
    """A compressed network; its small layers are stored without loss."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("form")
    tensors, network = FORMS[request.param]()
    torch.save(tensors, folder / "m.pt")
    hmcompress.compress(folder / "m.pt", folder / "m.hmc.safetensors", tol=1e-5, network=network)
    return folder / "m.hmc.safetensors"


def both(file: Path) -> tuple[nn.Module, nn.Module, tuple[Tensor, ...]]:
    """The network without its dead neurons, the whole one, and held-out points."""
    slim, whole = load(file, slack=0), load(file, slack=0, slim=False)
    return slim.module, whole.module, held_out_inputs(file, slim)


def neurons(module: nn.Module) -> int:
    return sum(layer.out_features for layer in module.modules() if isinstance(layer, nn.Linear))


def test_the_slim_network_is_smaller_and_the_same(file):
    slim, whole, x = both(file)
    torch.testing.assert_close(slim(*x), whole(*x), rtol=1e-5, atol=1e-5)
    assert neurons(slim) < neurons(whole) or neurons(whole) == 20


def test_its_checkpoint_loads_in_torch_and_has_its_sizes(file, tmp_path):
    write_slim(file, tmp_path / "small.pt")
    saved, (slim, _, _) = torch.load(tmp_path / "small.pt", weights_only=True), both(file)
    found = sorted(tuple(tensor.shape) for name, tensor in saved["state_dict"].items() if name.endswith("weight"))
    assert found == sorted(tuple(m.weight.shape) for m in slim.modules() if isinstance(m, nn.Linear))
    sizes = saved["layer_sizes"]
    for chain in sizes.values() if isinstance(sizes, dict) else [sizes]:
        assert all((n, m) in [shape[::-1] for shape in found] for n, m in pairwise(chain))


def test_programs_compute_the_same_elsewhere(file, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    hmcompress.export(file, onnx=tmp_path / "m.onnx", torch=tmp_path / "m.pt2")
    slim, _, x = both(file)
    y = slim(*x).detach()
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    (found,) = session.run(
        None, {entry.name: part.numpy() for entry, part in zip(session.get_inputs(), x, strict=True)}
    )
    assert (torch.from_numpy(found) - y).abs().max() <= 1e-5 * y.abs().max()
    program = torch.export.load(io.BytesIO((tmp_path / "m.pt2").read_bytes())).module()
    torch.testing.assert_close(program(*x), y, rtol=1e-5, atol=1e-5)
