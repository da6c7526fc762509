"""Networks of the user's own around chains of dense layers; each a factory of its own."""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional


def dense(*sizes: int) -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(n, m) for n, m in itertools.pairwise(sizes))


def through(layers: nn.ModuleList, x: Tensor, function: Callable[[Tensor], Tensor] = torch.tanh) -> Tensor:
    for layer in layers[:-1]:
        x = function(layer(x))
    return layers[-1](x)


class Plain(nn.Module):
    """Layers of a list, functions in the code."""

    function = staticmethod(torch.tanh)

    def __init__(self) -> None:
        super().__init__()
        self.net = dense(2, 16, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return through(self.net, x, self.function)


class Siren(Plain):
    function = staticmethod(lambda z: torch.sin(3.7 * z))


class Swish(Plain):
    function = staticmethod(lambda z: z * torch.sigmoid(1.3 * z))


class Softplus(Plain):
    function = staticmethod(functional.softplus)


class Condition(nn.Module):
    """A boundary condition in the code, inputs one by one, scaled."""

    def __init__(self) -> None:
        super().__init__()
        self.net = dense(2, 16, 16, 1)
        self.register_buffer("high", torch.tensor([2.0, 3.0]))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        u = through(self.net, torch.cat([x, t], 1) / self.high)
        return torch.sin(3 * x) + t * (1 - x.square()) * u


class Positive(Plain):
    """A function of the output that is not linear."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.exp(super().forward(x))


class Two(nn.Module):
    """Two networks in one module."""

    def __init__(self) -> None:
        super().__init__()
        self.u, self.v = dense(2, 16, 16, 1), dense(2, 8, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"u": 2 * through(self.u, x) + 1, "v": through(self.v, x)}


class Product(nn.Module):
    """A DeepONet, its trunk with a function at the end, its output scaled."""

    def __init__(self) -> None:
        super().__init__()
        self.branch, self.trunk, self.b = dense(3, 16, 8), dense(1, 16, 8), nn.Parameter(torch.tensor(0.3))

    def forward(self, u: Tensor, y: Tensor) -> Tensor:
        product = (through(self.branch, u) * torch.tanh(through(self.trunk, y))).sum(1, keepdim=True)
        return 1.5 * (product + self.b)


class Mixture(nn.Module):
    """Two networks, and a third that says how much of each."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.a, self.b = dense(2, 2), dense(2, 16, 1), dense(2, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        share = torch.softmax(through(self.gate, x), 1)
        return share[:, :1] * through(self.a, x) + share[:, 1:] * through(self.b, x)


class Modes(nn.Module):
    """Coefficients of many fixed modes."""

    def __init__(self) -> None:
        super().__init__()
        self.net = dense(2, 32, 32, 3)
        self.modes = torch.randn(3, 40, generator=torch.Generator().manual_seed(0))

    def forward(self, x: Tensor) -> Tensor:
        return through(self.net, x) @ self.modes.to(x) + 0.5


class Heads(nn.Module):
    """Several layers read the same neurons."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.mean, self.spread = dense(2, 16, 16), nn.Linear(16, 2), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(through(self.trunk, x))
        return self.mean(h), functional.softplus(self.spread(h))


class Skip(Plain):
    """What enters is added to what comes out, and the second layer's output too."""

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.net[0](x))
        z = self.net[1](h)
        return self.net[2](torch.tanh(z)) + z[:, :1]


class Gated(nn.Module):
    """The input of a layer depends on two others."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(2, 16), nn.Linear(2, 16), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.tanh(self.a(x)) * torch.sigmoid(self.b(x)))


class Normed(nn.Module):
    """A normalisation between layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(2, 16), nn.LayerNorm(16), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.norm(self.a(x))))


class Convolved(nn.Module):
    """Most numbers are those of a convolution before the dense layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.net = nn.Conv1d(1, 128, 5, padding=2), dense(128, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return through(self.net, torch.tanh(self.conv(x[:, None])).mean(2))


class Tokens(Plain):
    """Layers see several rows of a sample."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.stack([x, x + 1], 1)).sum(1)


class Basis(nn.Module):
    """Modes that the checkpoint holds."""

    def __init__(self) -> None:
        super().__init__()
        self.net = dense(2, 16, 16, 3)
        self.register_buffer("modes", torch.randn(3, 40, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: Tensor) -> Tensor:
        return through(self.net, x) @ self.modes
