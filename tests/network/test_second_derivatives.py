"""Second derivatives of common networks are those of differences; where torch's are wrong, this is told."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_networks import BOX, outputs_settings, saved, stack
from torch import Tensor, nn
from torch.nn import functional

import hmcompress
from hmcompress.errors import NetworkError
from hmcompress.network import compress_network, load_tensors, pose
from hmcompress.network.bound.error import evaluate
from hmcompress.network.model.inputs import Points
from hmcompress.network.model.network import Network
from hmcompress.report.records import Report
from hmcompress.settings.config import Settings

SMOOTH = [nn.SiLU(), nn.Mish(), nn.GELU(), nn.GELU("tanh"), nn.Softplus(), nn.ELU(), nn.SELU(), nn.LogSigmoid()]
SMOOTH += [nn.GLU(), nn.LayerNorm(32), nn.Tanh(), nn.Hardswish(), nn.Hardsigmoid(), nn.LeakyReLU()]
KINKED = (nn.ELU, nn.Hardswish, nn.Hardsigmoid, nn.LeakyReLU, nn.SELU)


class Net(nn.Module):
    def __init__(self, between: Callable[[Tensor], Tensor], width: int = 32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.between, self.last = nn.Linear(2, 32), between, nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self.first(x)))


def network(module: nn.Module) -> Network:
    module = module.double().eval().requires_grad_(False)
    return Network(module, (), {}, "factory", torch.float64)


def archived(module: nn.Module, path: Path) -> None:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, its archives are not gone
        torch.jit.script(module).save(path)


def compress_archive(path: Path, order: int) -> Report:
    calibration = {"domain": BOX, "samples": 64, "held_out": 64, "derivatives": order}
    options: dict[str, Any] = {"metric": "outputs", "network": {"torchscript": True}, "effort": "fast", "tol": 1e-2}
    return hmcompress.compress(path, calibration=calibration, dry_run=True, **options)


def points_of_box(settings: Settings, state: dict[str, Tensor], folder: Path) -> Any:
    return pose(settings, load_tensors(saved(folder, state)), folder / "model.pt")


@pytest.mark.parametrize("function", SMOOTH, ids=lambda f: type(f).__name__)
def test_second_derivatives_are_those_of_differences(function: nn.Module) -> None:
    net = network(Net(function, 16 if isinstance(function, nn.GLU) else 32))
    x, step = torch.rand(200, 2, dtype=torch.float64), 1e-4
    _, _, _, second, _ = evaluate(net, Points((x,)), 2)
    around = [net.run((x + k * step * torch.tensor([1.0, 0.0]),)) for k in (-1, 0, 1)]
    difference = (around[0] - 2 * around[1] + around[2]) / step**2
    off = (second - difference).abs() > 1e-5 * (1 + difference.abs())
    assert off.double().mean() <= (0.05 if isinstance(function, KINKED) else 0.0)
    assert bool(second.any()) != isinstance(function, nn.LeakyReLU | nn.Hardsigmoid)


@pytest.mark.parametrize("activation", ["silu", "swish"])
def test_second_derivatives_of_silu_are_bounded(activation: str, tmp_path: Path) -> None:
    settings = outputs_settings(network={"mlp": {"activation": activation}}, calibration={"derivatives": 2})
    result = compress_network(saved(tmp_path, stack([2, 24, 24, 1])), settings)
    assert len(result.record.derivative_errors) == 4 and 0.5e-2 < result.record.error <= 1e-2


class Solving(nn.Module):
    """Its second derivatives are not torch's."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.tanh(self.first(x))
        return torch.linalg.solve(torch.eye(4, dtype=x.dtype) + y[:, :, None] * y[:, None], y)


def solving() -> nn.Module:
    torch.manual_seed(0)
    return Solving()


def torch_solves_wrongly() -> bool:
    """Whether this release of torch loses terms of the second derivatives; later ones do not."""
    module, x, v = solving().double(), torch.tensor([[0.3, -0.2]], dtype=torch.float64), torch.ones(1, 2).double()

    def slope(x: Tensor) -> Tensor:
        return torch.func.jvp(module, (x,), (v,))[1]

    second = torch.func.jvp(slope, (x,), (v,))[1]
    difference = (slope(x + 1e-5 * v) - slope(x - 1e-5 * v)) / 2e-5
    return float((second - difference).norm()) > 1e-3 * float(difference.norm())


def test_networks_with_wrong_second_derivatives_are_refused(tmp_path: Path) -> None:
    settings = outputs_settings(network={"factory": f"{__file__}:solving"}, calibration={"derivatives": 2})
    if not torch_solves_wrongly():
        points_of_box(settings, solving().state_dict(), tmp_path)
        return
    with pytest.raises(NetworkError, match=r"derivatives: 2: torch computes wrong second.*derivatives: 1"):
        points_of_box(settings, solving().state_dict(), tmp_path)


def test_layer_normalisation_in_an_archive_is_refused_with_second_derivatives(tmp_path: Path) -> None:
    """No formula reaches it there."""
    archived(nn.Sequential(nn.Linear(2, 20), nn.LayerNorm(20), nn.Linear(20, 1)), tmp_path / "model.pt")
    with pytest.raises(NetworkError, match=r"derivatives: 2: torch computes wrong"):
        compress_archive(tmp_path / "model.pt", 2)
    report = compress_archive(tmp_path / "model.pt", 1)
    assert report.network is not None and report.network.error <= 1e-2


def far() -> nn.Module:
    return Net(lambda x: torch.cdist(x[:, None], torch.linspace(-1, 1, 32 * 32).reshape(1, 32, 32).to(x))[:, 0])


def test_an_operation_without_derivatives_is_named(tmp_path: Path) -> None:
    settings = outputs_settings(network={"factory": f"{__file__}:far"}, calibration={"derivatives": 1})
    with pytest.raises(NetworkError, match=r"no such derivative of _euclidean_dist: use derivatives: 0"):
        points_of_box(settings, far().state_dict(), tmp_path)


def test_silu_in_an_archive_is_told_which_order_works(tmp_path: Path) -> None:
    archived(nn.Sequential(nn.Linear(2, 20), nn.SiLU(), nn.Linear(20, 1)), tmp_path / "model.pt")
    with pytest.raises(NetworkError, match=r"no such derivative of silu: derivatives: 1 works"):
        compress_archive(tmp_path / "model.pt", 2)


@pytest.mark.parametrize("activation", ["relu", "sin", "gelu"])
def test_right_second_derivatives_are_not_refused(activation: str, tmp_path: Path) -> None:
    settings = outputs_settings(network={"mlp": {"activation": activation}}, calibration={"derivatives": 2})
    assert points_of_box(settings, stack([2, 256, 256, 256, 1]), tmp_path).order == 2
