"""Quantities and samples that larger ones hide are told, whatever the form of the outputs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from small_networks import outputs_settings
from torch import Tensor, nn

from hmcompress.network import pose
from hmcompress.network.bound.problem import Problem
from hmcompress.network.bound.quantities import hidden

TOL = 1e-2
UNITS = torch.tensor([1.0, 2.0, 1e-4])  # metres, and something small


class Linear(nn.Module):
    """(N, 2) to three quantities at each of so many points."""

    points, units = 1, UNITS

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.net = nn.Linear(2, 3 * self.points, bias=False)
        weight = torch.randn(3, self.points, 2, generator=generator) * self.units[:, None, None]
        self.net.weight = nn.Parameter(weight.flatten(0, 1))

    def forward(self, x: Tensor) -> object:
        return self.net(x)


class Alike(Linear):
    units = torch.ones(3)


class Field(Linear):
    """Places of one field, on a line."""

    points = 20

    def forward(self, x: Tensor) -> object:
        return self.net(x)[:, None]


class Many(Linear):
    """A vector of so many numbers, a third of them small."""

    points = 20


class Channels(Field):
    def forward(self, x: Tensor) -> object:
        return self.net(x).reshape(-1, 3, 4, 5)


class Points(Field):
    def forward(self, x: Tensor) -> object:
        return self.net(x).reshape(-1, 3, 20).transpose(1, 2)


class Growing(Linear):
    """What is off by the same everywhere matters where outputs are small."""

    def forward(self, x: Tensor) -> object:
        return torch.exp(12 * x[:, :1]) + self.net(x)


class Tensors(Field):
    def forward(self, x: Tensor) -> object:
        return dict(zip("abc", self.net(x).split(20, 1), strict=True))


def posed(network: type[Linear], folder: Path, tolerance: str = "l2") -> Problem:
    np.save(folder / "x.npy", np.random.default_rng(0).uniform(-1, 1, (64, 2)).astype("f"))
    calibration = {"inputs": str(folder / "x.npy"), "samples": 32, "tolerance": tolerance}
    settings = outputs_settings(network={"factory": f"{__file__}:{network.__name__}"}, calibration=calibration)
    return pose(settings, network().state_dict())


def line(problem: Problem, off: float = 1e-2) -> str:
    """What is said where weights are off by so much."""
    weight = problem.network.module.get_parameter("net.weight").detach()
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    return hidden(problem, TOL, {"net.weight": weight + off * noise})[0] or ""


@pytest.mark.parametrize(
    ("network", "shown"),
    [
        (Linear, "outputs[:, 2] is off by"),
        (Many, "outputs[:, 5"),
        (Channels, "outputs[:, 2] is off by"),
        (Points, "outputs[..., 2] is off by"),
        (Tensors, "tensor 3 of the 3 that the network returns is off by"),
    ],
)
def test_a_small_quantity_that_is_lost_is_told(network: type[Linear], shown: str, tmp_path: Path) -> None:
    told = line(posed(network, tmp_path))
    assert told.startswith(shown) and "tolerance: each" in told


@pytest.mark.parametrize("network", [Alike, Field])
def test_quantities_of_one_size_and_places_of_a_field_are_not(network: type[Linear], tmp_path: Path) -> None:
    assert line(posed(network, tmp_path)) == ""


def test_nothing_is_told_where_each_is_bounded_or_little_is_off(tmp_path: Path) -> None:
    assert line(posed(Linear, tmp_path, "each")) == ""
    assert line(posed(Linear, tmp_path), 1e-6) == ""


@pytest.mark.parametrize(
    ("network", "off", "told"), [(Growing, 0.3, True), (Growing, 1e-3, False), (Linear, 1e-3, False)]
)
def test_samples_that_larger_ones_hide_are_told(network: type[Linear], off: float, told: bool, tmp_path: Path) -> None:
    problem = posed(network, tmp_path)
    weight = problem.network.module.get_parameter("net.weight").detach()
    decoded = {"net.weight": weight + off * torch.roll(weight, 1, 1)}
    assert max(problem.errors(problem.held_out, decoded)) < TOL
    line = hidden(problem, TOL, decoded)[1] or ""
    assert line.startswith("half of the held-out points are off by more than") == told


def test_places_where_a_field_is_small_are_no_quantities(tmp_path: Path) -> None:
    """A line of outputs that grow from nothing, as solutions do from a boundary."""
    calibration = {"domain": {"x": [-1, 1], "t": [-1, 1]}, "samples": 64}
    weight = torch.linspace(1e-5, 1, 20)[:, None] * torch.ones(20, 2)
    problem = pose(outputs_settings(network={"linear": {}}, calibration=calibration), {"weight": weight})
    assert hidden(problem, TOL, {"weight": weight + 1e-3})[0] is None
