"""Networks in what programs put around them: compilation, several devices, recomputation, classes of outputs."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def body() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 2))


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net: nn.Module = body()

    def forward(self, x: Tensor) -> Any:
        return self.net(x)


def compiled() -> Any:
    return torch.compile(Plain(), backend="eager")


def compiled_child() -> nn.Module:
    module = Plain()
    module.net = torch.compile(module.net, backend="eager")  # type: ignore[assignment]
    return module


def compiled_in_place() -> nn.Module:
    module = Plain()
    module.compile(backend="eager")
    return module


def parallel() -> nn.Module:
    return nn.DataParallel(Plain())


@dataclass
class Energies:
    """What some libraries return."""

    energy: Tensor
    step: int
    parts: Any


class Classed(Plain):
    def forward(self, x: Tensor) -> Any:
        y = self.net(x)
        return Energies(y[:, :1], 3, {"rest": y[:, 1:]})


class Pair(Plain):
    def forward(self, x: Tensor) -> Any:
        y = self.net(x)
        return y[:, :1], y[:, 1:].exp()


class Normal(Plain):
    """The same pair, as the parameters of a distribution."""

    def forward(self, x: Tensor) -> Any:
        y = self.net(x)
        return torch.distributions.Normal(y[:, :1], y[:, 1:].exp())


class Spaced(Plain):
    def forward(self, x: Tensor) -> Any:
        return SimpleNamespace(values=self.net(x), step=3)


class Opaque(Plain):
    """Outputs in a class of which nothing is known."""

    def forward(self, x: Tensor) -> Any:
        return Answer(self.net(x))


class Answer:
    def __init__(self, y: Tensor) -> None:
        self.y = y


class Recomputed(Plain):
    def forward(self, x: Tensor) -> Any:
        return checkpoint(self.net, x, use_reentrant=False)
