"""Modules whose weights are rows of a parameter in the lengths that another one has (Salimans and Kingma 2016)."""

from itertools import pairwise

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch.nn.utils import weight_norm
from torch.nn.utils.parametrizations import weight_norm as parametrised

SIZES = (2, 24, 24, 1)


class Normed(nn.Module):
    """Rows and lengths as plain parameters."""

    turned = False

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rows, self.lengths, self.biases = nn.ParameterList(), nn.ParameterList(), nn.ParameterList()
        for n, m in pairwise(SIZES):
            w = torch.randn(m, 3) @ torch.randn(3, n) / (2 * n**0.5)
            self.rows.append((3 * w).T.contiguous() if self.turned else 3 * w)
            self.lengths.append(w.norm(dim=1, keepdim=True).T if self.turned else w.norm(dim=1, keepdim=True))
            self.biases.append(0.3 * torch.randn(m))

    def product(self, x: Tensor, v: Tensor, g: Tensor, b: Tensor) -> Tensor:
        return functional.linear(x, g * v / v.norm(dim=1, p=2, keepdim=True), b)

    def forward(self, x: Tensor) -> Tensor:
        for k, (v, g, b) in enumerate(zip(self.rows, self.lengths, self.biases, strict=True)):
            x = self.product(torch.tanh(x) if k else x, v, g, b)
        return x


class Normalised(Normed):
    def product(self, x: Tensor, v: Tensor, g: Tensor, b: Tensor) -> Tensor:
        return x @ (functional.normalize(v, dim=-1) * g).T + b


class Columns(Normed):
    turned = True

    def product(self, x: Tensor, v: Tensor, g: Tensor, b: Tensor) -> Tensor:
        return x @ (v * (g / v.square().sum(0, keepdim=True).sqrt())) + b


class Wrapped(nn.Module):
    """By torch's own function."""

    def __init__(self) -> None:
        super().__init__()
        bare = Normed()
        layers: list[nn.Module] = []
        for v, g, b in zip(bare.rows, bare.lengths, bare.biases, strict=True):
            layer = nn.Linear(*v.shape[::-1])
            layer.load_state_dict({"weight": g * v / v.norm(dim=1, keepdim=True), "bias": b})
            layers += [self.wrapped(layer), nn.Tanh()]
        self.layers = nn.Sequential(*layers[:-1])

    def wrapped(self, layer: nn.Linear) -> nn.Module:
        return parametrised(layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Hooked(Wrapped):
    """By the one that torch had before."""

    def wrapped(self, layer: nn.Linear) -> nn.Module:
        return weight_norm(layer)


class Watched(Normed):
    """One parameter of rows and one of lengths are used in other ways as well."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1 + 0.01 * self.rows[0].square().mean() + 0.01 * self.lengths[1].mean())


class SharedLengths(Normed):
    """Two weights have the lengths of one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.lengths[1] = self.lengths[0]


class Scaled(Normed):
    """Rows have lengths of their own, and a factor each."""

    def product(self, x: Tensor, v: Tensor, g: Tensor, b: Tensor) -> Tensor:
        return functional.linear(x, g * v, b)


class SharedFactor(Scaled):
    """One parameter is the factor of two weights."""

    def __init__(self) -> None:
        super().__init__()
        self.lengths[1] = self.lengths[0]


class Runs(Scaled):
    """A factor for the two numbers of each pair of neurons: those of the neuron and of its square."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.ParameterList(torch.stack([v, v.flip(0) / 3], -1) for v in self.rows)
        self.lengths = nn.ParameterList(1 + torch.rand(v.shape[:2]) for v in self.rows)

    def product(self, x: Tensor, v: Tensor, g: Tensor, b: Tensor) -> Tensor:
        pairs = torch.stack([x, x.square()], -1)
        return functional.linear(pairs.view(len(x), -1), (v * g.unsqueeze(-1)).view(len(v), -1), b)


class Entries(Scaled):
    """A factor for each entry."""

    def __init__(self) -> None:
        super().__init__()
        self.lengths = nn.ParameterList(1 + torch.rand(v.shape) for v in self.rows)
