"""Modules whose parameters hold several matrices, in every way that people write products with these."""

from itertools import pairwise

import torch
from torch import Tensor, nn

SIZES, COUNT = (2, 24, 24, 1), 3


class Stack(nn.Module):
    """Members of an ensemble side by side: weights (COUNT, n, m), biases (COUNT, 1, m)."""

    turned, bias = False, (COUNT, 1, -1)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for n, m in pairwise(SIZES):
            w = torch.randn(COUNT, n, 3) @ torch.randn(COUNT, 3, m) / (2 * n**0.5)
            self.weights.append(w.mT.contiguous() if self.turned else w)
            self.biases.append(0.3 * torch.randn(*[m if side < 0 else side for side in self.bias]))

    def product(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return x @ w + b

    def forward(self, x: Tensor) -> Tensor:
        for k, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = self.product(torch.tanh(x) if k else x, w, b)
        return x[..., 0].T


class Batched(Stack):
    def product(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return torch.baddbmm(b, x.expand(COUNT, -1, -1), w)


class Later(Stack):
    """As Batched, where the bias is none of the call's own."""

    def product(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return b + torch.bmm(x.expand(COUNT, -1, -1), w)


class Columns(Stack):
    """Samples stand side by side."""

    turned, bias = True, (COUNT, -1, 1)

    def product(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return w @ x + b

    def forward(self, x: Tensor) -> Tensor:
        x = x.T
        for k, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = self.product(torch.tanh(x) if k else x, w, b)
        return x[:, 0].T


class Named(Stack):
    """Sums over named axes, with members last but one."""

    bias = (COUNT, -1)

    def product(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        equation = "bn,enm->bem" if x.ndim == 2 else "ben,enm->bem"
        return torch.einsum(equation, x, w) + b

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).T


class Indexed(Stack):
    """One member after the other, each with its part of the parameters."""

    turned, bias = True, (COUNT, -1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.member(k, x) for k in range(COUNT)], 1)

    def member(self, k: int, x: Tensor) -> Tensor:
        for i, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = nn.functional.linear(torch.tanh(x) if i else x, w[k], b[k])
        return x


class Unbound(Indexed):
    """Parameters in two dimensions, which are cut before they are used."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList(w.flatten(0, 1) for w in self.weights)
        self.biases = nn.ParameterList(b.flatten() for b in self.biases)

    def member(self, k: int, x: Tensor) -> Tensor:
        for i, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            own, added = w.chunk(COUNT)[k], b.view(COUNT, -1).unbind()[k]
            x = torch.tanh(x) @ own.T + added if i else x @ own.T + added
        return x


class Heads(nn.Module):
    """Weights (2, 4, 6) and (4, 6, 1): the axes of heads, and within heads, are one for what follows."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Parameter(torch.randn(2, 4, 6)), nn.Parameter(torch.randn(4, 6, 1) / 5)
        self.between = nn.Parameter(torch.randn(24, 4, 6) / 5)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(torch.einsum("bn,nhk->bhk", x, self.first))
        h = torch.tanh(h.flatten(1) @ self.between.view(24, -1)).unflatten(1, (4, 6))
        return torch.einsum("bhk,hkm->bm", h, self.last)


class Little(Indexed):
    """Parameters of so few numbers that the headers of parts would be most of it."""

    def __init__(self) -> None:
        super().__init__()
        first, second, last = self.weights
        cut = [first[:, :4], second[:, :4, :4], last[..., :4]]
        self.weights = nn.ParameterList(w.contiguous() for w in cut)
        self.biases = nn.ParameterList(b[:, :4].contiguous() for b in self.biases)


class Shared(Stack):
    """One bias is that of two products, and one weight is squared too."""

    def forward(self, x: Tensor) -> Tensor:
        first, second, last = self.weights
        h = torch.tanh(x @ first + self.biases[0])
        h = torch.tanh(h @ second + self.biases[0])
        return (h @ last + self.biases[2] + 0.01 * last.square().sum())[..., 0].T


class Partly(Indexed):
    """A part of each parameter is not used."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.member(k, x) for k in range(COUNT - 1)], 1)


class Twice(Indexed):
    """One member is used twice."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([super().forward(x), self.member(0, x.flip(1))], 1)
