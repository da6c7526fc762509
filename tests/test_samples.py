"""The sample models are what sample_models/README.md says: sizes, layouts, errors against exact solutions."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from hmcompress.settings.config import load_settings

ROOT = Path(__file__).parent.parent
SAMPLES = ROOT / "sample_models"
NAMES = ("burgers", "helmholtz", "greens", "allen_cahn", "deeponet", "fourier", "poisson")
State = dict[str, Tensor]
Activation = Callable[[Tensor], Tensor]


def load(name: str) -> State:
    return torch.load(SAMPLES / f"{name}.pt", weights_only=True)


def exact(name: str) -> State:
    return load_file(SAMPLES / f"{name}_exact.safetensors")


def stack(state: State, prefix: str, x: Tensor, activation: Activation) -> Tensor:
    """Dense layers in the order of the state dict, with an activation between them."""
    weights = [name for name in state if name.startswith(prefix) and name.endswith("weight")]
    for k, name in enumerate(weights):
        x = x @ state[name].T + state[name.replace("weight", "bias")]
        x = activation(x) if k + 1 < len(weights) else x
    return x


def relative_l2(value: Tensor, target: Tensor) -> float:
    return ((value.double() - target.double()).norm() / target.double().norm()).item()


@pytest.mark.parametrize(
    ("name", "activation", "widths", "bound"),
    [
        ("burgers", torch.tanh, [2, 128, 128, 128, 128, 1], 2e-3),
        ("helmholtz", torch.sin, [2, 192, 192, 192, 192, 1], 1e-3),
        ("allen_cahn", torch.tanh, [2, 128, 128, 128, 128, 1], 1e-3),
    ],
)
def test_pinn_solves_its_equation(name: str, activation: Activation, widths: list[int], bound: float) -> None:
    state, reference = load(name), exact(name)
    shapes = [tuple(t.shape) for key, t in state.items() if key.endswith("weight")]
    assert shapes == [(m, n) for n, m in itertools.pairwise(widths)]
    assert relative_l2(stack(state, "net.", reference["x"], activation), reference["y"]) < bound


def test_fourier_features_fit_their_function() -> None:
    state, reference = load("fourier"), exact("fourier")
    phase = reference["x"] @ state["B"]
    features = torch.cat([torch.sin(phase), torch.cos(phase)], 1)
    assert relative_l2(stack(state, "net.", features, torch.nn.functional.silu), reference["y"]) < 5e-3


@pytest.mark.parametrize("name", ["greens", "poisson"])
def test_operator_maps_forcings_to_exact_solutions(name: str) -> None:
    weight, reference = load(name)["weight"], exact(name)
    assert weight.shape == (1024, 1024) and weight.dtype == torch.float32
    assert relative_l2(reference["x"] @ weight.T, reference["y"]) < 1e-4


def test_fit_noise_is_left_in_the_greens_operator() -> None:
    x = torch.arange(1, 1025, dtype=torch.float64) / 1025
    kernel = torch.minimum(x[:, None], x) * (1 - torch.maximum(x[:, None], x)) / 1025
    assert 8e-4 < relative_l2(load("greens")["weight"], kernel) < 1e-3


def test_deeponet_in_deepxde_layout_integrates() -> None:
    checkpoint, reference = load("deeponet"), exact("deeponet")
    assert set(checkpoint) == {"model_state_dict", "optimizer_state_dict"}
    state = checkpoint["model_state_dict"]
    branch = stack(state, "branch.", reference["branch"], torch.tanh)
    trunk = torch.tanh(stack(state, "trunk.", reference["trunk"], torch.tanh))
    assert relative_l2(branch @ trunk.T + state["b"], reference["y"]) < 1e-2


@pytest.mark.parametrize(("name", "file", "x"), [("deeponet", "functions", "branch"), ("poisson", "forcings", "x")])
def test_inputs_of_operators_are_drawn_from_the_field_that_is_stored(name: str, file: str, x: str) -> None:
    field, given = load_file(SAMPLES / f"{name}_{file}.safetensors"), exact(name)[x].double()
    factor = field["factor"].double()
    assert not field["mean"].any() and factor.shape[0] == given.shape[1]
    z = torch.linalg.lstsq(factor, given.T).solution
    assert relative_l2(factor @ z, given.T) < 1e-2
    assert 0.8 < z[:10].pow(2).mean().sqrt() < 1.2


@pytest.mark.parametrize("name", NAMES)
def test_settings_of_each_sample_are_valid_and_find_their_files(name: str) -> None:
    settings = load_settings(ROOT / "configs" / f"{name}.yaml")
    assert settings.metric == "outputs" and settings.reference is not None
    assert Path(settings.reference).resolve() == SAMPLES / f"{name}_exact.safetensors"


def test_samples_stay_small() -> None:
    sizes = [path.stat().st_size for path in SAMPLES.iterdir() if path.suffix in (".pt", ".safetensors")]
    assert max(sizes) < 5e6 and sum(sizes) < 12e6
