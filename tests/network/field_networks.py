"""Networks that write fields on a mesh: smooth functions of where a point lies, of few modes."""

from functools import partial

import torch
from small_networks import stack
from torch import Tensor, nn

SIZES = [2, 32, 32]
MESH = (12, 16)
POINTS = MESH[0] * MESH[1]


def field_state(seed: int = 0, mesh: tuple[int, int] = MESH) -> dict[str, Tensor]:
    """State dict of a stack whose last layer's columns are polynomials on the mesh."""
    x, y = torch.meshgrid(*(torch.linspace(-1, 1, size) for size in mesh), indexing="ij")
    waves = torch.stack([x**i * y**j for i in range(3) for j in range(3)], -1).reshape(-1, 9)
    state, generator = stack(SIZES, seed), torch.Generator().manual_seed(seed + 1)
    last, bias = stack([32, 3], seed + 2), torch.randn(9, generator=generator)
    mix = torch.randn(9, 3, generator=generator)
    state["net.4.weight"] = waves @ mix @ last["net.0.weight"]
    state["net.4.bias"] = 0.3 * waves @ bias
    return state


class Field(nn.Module):
    """The same in a module of the user's own, which gives them their shape."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, POINTS))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).reshape(-1, *MESH)


class Denormalised(Field):
    """Outputs in units of their own, by buffers: of each point its mean, and one deviation for each half."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", 5 + torch.linspace(0, 1, POINTS))
        self.register_buffer("deviation", torch.ones(POINTS).index_fill(0, torch.arange(POINTS // 2), 3.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.mean + self.deviation * self.net(x)


class Positive(Field):
    """A function of the outputs that is not linear."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.softplus(self.net(x))


class Heads(nn.Module):
    """Outputs of two layers side by side, of the first in another order, or something else of that."""

    def __init__(self, first: str) -> None:
        super().__init__()
        self.a, self.b, self.first = nn.Linear(2, 40), nn.Linear(2, 24), first

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        if self.first == "relu":
            a = a.relu()
        elif self.first == "sums":
            a = a + a.roll(1, 1)
        elif self.first == "twice":
            a = torch.cat([a, a], 1)
        return torch.cat([self.b(x), -2 * a.flip(1)], 1)


build_flipped, build_relu, build_sums, build_twice = (partial(Heads, x) for x in ("flipped", "relu", "sums", "twice"))


def build_denormalised() -> nn.Module:
    return Denormalised()


def build_positive() -> nn.Module:
    return Positive()


def build() -> nn.Module:
    return Field()
