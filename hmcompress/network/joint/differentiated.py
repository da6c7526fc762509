"""Products with the Jacobian of a small network, which is never written out."""

from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor

Weights = list[Tensor]  # a matrix (m, n) or (m, n + 1) for each layer


class Linearised(Protocol):
    """A small network at some weights, whatever becomes of it."""

    inputs: list[Tensor]  # (N, n) of each layer, with a column of ones where there is a bias
    outputs: Tensor  # (N, k), scaled

    def forward(self, v: Weights) -> Tensor:
        """J v, (N, k)."""

    def backward(self, u: Tensor) -> Weights:
        """J^T u."""

    def sensitivities(self, u: Tensor) -> list[Tensor]:
        """What u sends back to what leaves each layer, (N, m); where layers do more than that, about."""


@dataclass(frozen=True)
class Differentiated(Linearised):
    """As torch knows it: `forward` is the derivative, by u, of what u sends back."""

    inputs: list[Tensor]
    outputs: Tensor
    scaled: Tensor  # the outputs, with what they were made of
    weights: list[Tensor]  # that they were made of
    leaving: list[list[Tensor]]  # of each layer, each time that it is called
    u: Tensor
    sent_back: Weights  # by u

    @classmethod
    def of(cls, y: Tensor, weights: list[Tensor], inputs: list[Tensor], leaving: list[list[Tensor]]) -> Self:
        """y: scaled outputs that were made of the weights."""
        with torch.enable_grad():
            u = torch.zeros_like(y).requires_grad_()
            sent = torch.autograd.grad(y, weights, u, create_graph=True, materialize_grads=True)
        return cls(inputs, y.detach(), y, weights, leaving, u, list(sent))

    def forward(self, v: Weights) -> Tensor:
        with torch.enable_grad():
            along = torch.stack([(g * dw).sum() for g, dw in zip(self.sent_back, v, strict=True)]).sum()
        return torch.autograd.grad(along, self.u, retain_graph=True)[0]

    def backward(self, u: Tensor) -> Weights:
        return self._back(u, self.weights)

    def sensitivities(self, u: Tensor) -> list[Tensor]:
        sent = iter(self._back(u, [z for zs in self.leaving for z in zs]))
        return [torch.cat([rows_of(next(sent)) for _ in zs]) for zs in self.leaving]

    def _back(self, u: Tensor, to: list[Tensor]) -> list[Tensor]:
        return list(torch.autograd.grad(self.scaled, to, u, retain_graph=True, materialize_grads=True))


def rows_of(t: Tensor) -> Tensor:
    """(N, ..., n) as (N ..., n)."""
    return t.reshape(-1, t.shape[-1])
