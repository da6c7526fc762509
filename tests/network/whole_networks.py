"""Small networks of numbers that no layer's inputs describe; each a factory of its own."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Forces(nn.Module):
    """The gradient of an energy: every weight acts on the way there and on the way back."""

    def __init__(self) -> None:
        super().__init__()
        self.energy = nn.Sequential(
            nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x if x.requires_grad else x.clone().requires_grad_()
            return torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)[0]


class Kinds(nn.Module):
    """A dense layer, positive weights, complex ones, and vectors of which one is not read."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.positive = nn.Linear(2, 8), nn.Parameter(torch.randn(8, 8))
        self.waves = nn.Parameter(torch.randn(8, 3, dtype=torch.cfloat))
        self.scales = nn.Parameter(1 + torch.rand(8))
        self.register_buffer("unread", torch.rand(9))

    def forward(self, x: Tensor) -> Tensor:
        h = functional.linear(torch.tanh(self.inner(x)), functional.softplus(self.positive)) * self.scales
        return h.to(self.waves.dtype) @ self.waves


class _Cube(torch.autograd.Function):
    """Its way back takes a gradient, as those of kernels that are built when they are needed do."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        with torch.enable_grad():
            x = ctx.saved_tensors[0].detach().requires_grad_()
            return torch.autograd.grad((g * x**3).sum(), x)[0]


class OneByOne(Kinds):
    """Its gradients cannot be found several at once."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(_Cube.apply(self.scales[0] * x))


def forces() -> nn.Module:
    torch.manual_seed(0)
    return Forces()


def kinds() -> nn.Module:
    torch.manual_seed(0)
    return Kinds()


def one_by_one() -> nn.Module:
    torch.manual_seed(0)
    return OneByOne()
