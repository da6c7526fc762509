"""Operations that torch has no derivatives of, experts that see no sample, names of torch's own methods."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign_networks import WithoutGradients
from small_networks import outputs_settings, saved
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from hmcompress.errors import NetworkError
from hmcompress.network import NetworkResult, compress_network
from hmcompress.network.bound.ntk import RateLimit, tangent_kernel
from hmcompress.network.bound.outcome import outputs_that_jump
from hmcompress.network.bound.problem import pose
from hmcompress.network.model.factory import adopt
from hmcompress.network.model.inputs import Points
from hmcompress.network.model.order import in_order_of_computation
from hmcompress.network.model.routed import with_routed
from hmcompress.report.records import NetworkRecord


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 2 * g * ctx.saved_tensors[0]


class _Never(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.tanh(x)


class Forces(nn.Module):
    """Of an energy of distances or squares, whose second derivative torch does not have."""

    def __init__(self, distances: bool) -> None:
        super().__init__()
        self.first, self.last, self.distances = nn.Linear(4, 16), nn.Linear(16, 1), distances

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            seen = torch.cdist(x.reshape(-1, 2, 2), x.new_ones(len(x), 2, 2)).reshape(-1, 4) if self.distances else x
            h = self.first(seen)
            energy = self.last(torch.tanh(h) if self.distances else _Once.apply(h))
            return torch.autograd.grad(energy.sum(), x, create_graph=True)[0]


class Inference(nn.Module):
    """An operation without any derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(_Never.apply(self.first(x)))


class Experts(nn.Module):
    """Each sample goes to one of three; none to the last."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2)) for _ in range(3))
        nn.init.constant_(self.gate[2].bias, 0.0)
        with torch.no_grad():
            self.gate[2].bias[2] = -99.0

    def forward(self, x: Tensor) -> Tensor:
        chosen, y = self.gate(x).argmax(1), x.new_zeros(len(x), 2)
        for k, expert in enumerate(self.experts):
            y[chosen == k] = 5 + expert(x[chosen == k])
        return y


class NamedAsAMethod(nn.Module):
    """`parameters` is a module of it, which no attribute leads to."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2))
        self.add_module("_", nn.Identity())
        self._modules["parameters"] = nn.ParameterList(list(self.body.parameters()))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def cdist() -> nn.Module:
    return Forces(distances=True)


def once() -> nn.Module:
    return Forces(distances=False)


def compressed(build: Any, folder: Path) -> NetworkResult:
    torch.manual_seed(0)
    np.save(folder / "x.npy", np.random.default_rng(0).standard_normal((384, 4)))
    calibration = {"inputs": str(folder / "x.npy"), "samples": 256, "held_out": 96}
    settings = outputs_settings(network={"factory": f"{__file__}:{build.__name__}"}, calibration=calibration, tol=3e-2)
    return compress_network(saved(folder, build().state_dict()), settings)


def test_layers_that_see_some_samples_only_are_found() -> None:
    torch.manual_seed(0)
    network, points = adopt(Experts(), Experts().state_dict(), {}, "factory", "x"), torch.randn(64, 4)
    network = with_routed(in_order_of_computation(network, (points,)), (points,))
    assert network.routed == {f"experts.{k}.{part}.weight" for k in (0, 1) for part in (0, 2)}


def test_a_network_without_gradients_asks_for_no_bytes_and_has_no_kernel(tmp_path: Path) -> None:
    """The joint stage of chains asks for the rate at effort default; a traceback was the answer."""
    network = adopt(WithoutGradients(), WithoutGradients().state_dict(), {}, "factory", "x")
    assert RateLimit.of(network, Points((torch.randn(16, 2),))).nbytes(1e-2) == 0
    with pytest.raises(NetworkError, match=r"gives no gradients by its weights .* leave ntk off"):
        tangent_kernel(network, Points((torch.randn(16, 2),)))


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("build", [cdist, once, Inference, Experts, NamedAsAMethod])
def test_the_bound_holds_for_modules_with_operations_of_their_own(build: Any, tmp_path: Path) -> None:
    result = compressed(build, tmp_path)
    assert result.record.error <= 3e-2
    assert any("as experts do" in note for note in result.notes) == (build is Experts)


class Codes(nn.Module):
    """What a codec with scalar quantisation restores: of each number the nearest whole one, times a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.Parameter(torch.ones(16))
        self.last = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.round(self.steps * x))


@pytest.mark.parametrize(("change", "told"), [(1.02, True), (1.0, False)])
def test_a_note_tells_of_outputs_that_jump_under_noise(tmp_path: Path, change: float, told: bool) -> None:
    x = np.random.default_rng(0).integers(-3, 4, (1600, 16)) * 1.0
    x[::16, 0] = 0.47  # near to where its code becomes another one
    np.save(tmp_path / "x.npy", x)
    calibration = {"inputs": str(tmp_path / "x.npy"), "samples": 400, "held_out": 400}
    state = Codes().state_dict()
    problem = pose(outputs_settings(network={"factory": f"{__file__}:Codes"}, calibration=calibration), state)
    decoded = {"steps": change * state["steps"]}
    assert problem.errors(problem.held_out, decoded)[0] == 0
    noisy = problem.errors(problem.reference_noisy(), decoded)[0]
    record = NetworkRecord(tol=1e-4, error=0.0, calibration_error=0.0, samples=400, seed=0, noisy_error=noisy)
    assert (outputs_that_jump(problem, record, decoded) is not None) == told
