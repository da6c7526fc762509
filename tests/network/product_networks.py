"""Modules that multiply by parameters of their own, in every way that people write it."""

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

SIZES = (2, 24, 24, 1)


def parameters(turned: bool, *bias: int) -> tuple[list[Tensor], list[Tensor]]:
    """Weights (m, n), or (n, m) where turned, of few directions; biases whose shape is `bias`, with -1 for m."""
    torch.manual_seed(0)
    weights, biases = [], []
    for n, m in pairwise(SIZES):
        w = torch.randn(m, 3) @ torch.randn(3, n) / (2 * n**0.5)
        weights.append(w.T.contiguous() if turned else w)
        biases.append(0.3 * torch.randn(*[m if side < 0 else side for side in bias]))
    return weights, biases


class Own(nn.Module):
    """Weights and biases in lists."""

    turned, bias = True, (-1,)

    def __init__(self) -> None:
        super().__init__()
        weights, biases = parameters(self.turned, *self.bias)
        self.weights, self.biases = nn.ParameterList(weights), nn.ParameterList(biases)

    def product(self, x: Tensor, w: Tensor, b: Tensor) -> Any:
        return x @ w + b

    def forward(self, x: Tensor) -> Any:
        for k, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = self.product(torch.tanh(x) if k else x, w, b)
        return x


class Added(Own):
    bias = 1, -1

    def product(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return torch.add(torch.matmul(x, w), b)


class InPlace(Own):
    def product(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        z = torch.mm(x, w)
        z += b
        return z


class Addmm(Own):
    def product(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return torch.addmm(b, x, w)


class Linear(Own):
    turned = False

    def product(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return functional.linear(x, w, b)


class Turned(Own):
    turned = False

    def product(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return b + x @ w.t()


class Summed(Own):
    """Sums over named axes: each sample's numbers lie between two other axes, and so do the biases."""

    bias = 1, -1, 1

    def product(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return torch.einsum("sn...,nm->sm...", x, w) + b

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[..., None].expand(-1, -1, 2))[..., 0]


class Dotted(Own):
    turned = False

    def product(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return torch.tensordot(x, w, dims=([-1], [1])) + b


class Scaled(Own):
    """Weights are kept in other units than they are used in: by a number, a learned one, one for each row or column."""

    turned = False

    def __init__(self) -> None:
        super().__init__()
        self.gain, self.rows, self.cols = (nn.Parameter(1 + torch.rand(n)) for n in (1, 24, 24))

    def product(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        if w is self.weights[0]:
            return functional.linear(x, 1.5 * (w / 1.25), b)
        if w is self.weights[1]:
            return x @ (self.rows[:, None] * w / self.cols).T + b
        return functional.linear(x, w * self.gain, b)


class Masked(Own):
    """Weights of which some entries count more."""

    def product(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return x @ (w * torch.ones_like(w).triu(1)) + b if len(w) == len(w.T) else x @ w + b


class Methods(nn.Module):
    """Its layers lie in a plain list, their tensors in a part called as a method is, where no attribute leads."""

    def __init__(self) -> None:
        super().__init__()
        weights, biases = parameters(False, -1)
        self.layers = [nn.Linear(*w.shape[::-1]) for w in weights]
        for layer, w, b in zip(self.layers, weights, biases, strict=True):
            layer.load_state_dict({"weight": w, "bias": b})
        tensors = [t for layer in self.layers for t in (layer.weight, layer.bias)]
        self._modules["parameters"] = nn.ParameterList(tensors)

    def forward(self, x: Tensor) -> Any:
        first, second, last = self.layers
        return last(torch.tanh(second(torch.tanh(first(x)))))


class Columns(Own):
    """Samples stand side by side."""

    turned, bias = False, (-1, 1)

    def product(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return w @ x + b

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.T).T


class Kernels(nn.Module):
    """Convolutions that see one place each."""

    def __init__(self) -> None:
        super().__init__()
        weights, biases = parameters(False, -1)
        self.layers = nn.ModuleList(nn.Conv1d(w.shape[1], w.shape[0], 1) for w in weights)
        for layer, w, b in zip(self.layers, weights, biases, strict=True):
            layer.load_state_dict({"weight": w[..., None], "bias": b})

    def forward(self, x: Tensor) -> Tensor:
        x = x[..., None].expand(-1, -1, 2)
        for k, layer in enumerate(self.layers):
            x = layer(torch.tanh(x) if k else x)
        return x.view(len(x), -1)


class SharedKernels(Kernels):
    """Two convolutions add the same bias, which stays by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.layers[0].bias = None
        self.layers[0].padding = "same"

    def forward(self, x: Tensor) -> Tensor:
        x = x[..., None].expand(-1, -1, 24)
        first, second, last = self.layers
        x = torch.tanh(functional.conv1d(x, first.weight, second.bias))
        return last(torch.tanh(second(x)) + torch.tanh(first(x[:, :2]))).mean(-1)


class Shared(Added):
    """One weight is used otherwise as well, one bias twice."""

    bias = (-1,)

    def forward(self, x: Tensor) -> Tensor:
        first, second, last = self.weights
        x = torch.tanh(torch.tanh(x @ first + self.biases[0]) @ second + self.biases[0])
        return (x @ last + self.biases[2]) * (1 + second.square().mean()) + 0 * self.biases[1].sum()


class Later(Own):
    """Uses a weight otherwise as well where there are many samples."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y if len(x) < 8 else y + 3 * self.weights[1].square().sum()


class Named(nn.Module):
    """A part has the name of one of torch's methods, so that no attribute leads to it."""

    def __init__(self) -> None:
        super().__init__()
        weights, biases = parameters(True, -1)
        self.parts = nn.ParameterList([weights[0], *weights[2:]])
        self.parameters = nn.ParameterList([weights[1], *biases])

    def forward(self, x: Tensor) -> Tensor:
        own = self._modules["parameters"]
        assert isinstance(own, nn.ParameterList)
        return torch.tanh(torch.tanh(x @ self.parts[0] + own[1]) @ own[0] + own[2]) @ self.parts[1] + own[3]


class Children(Own):
    """Asks how many parameters there are."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * len(list(self.parameters()))


class Constant(nn.Module):
    """One weight is made of two, another turns what no sample changes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.left, self.right, self.last = (nn.Parameter(torch.randn(n, m)) for n, m in ((2, 16), (16, 24), (24, 1)))
        self.queries, self.turn = nn.Parameter(torch.randn(3, 16)), nn.Linear(16, 24)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(x @ (self.left @ self.right)) + self.turn(self.queries).mean(0)
        return hidden @ self.last


class Recurrent(nn.Module):
    """Products that are taken several times."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.read, self.turn, self.last = (nn.Parameter(torch.randn(*s) / 4) for s in ((2, 16), (16, 16), (16, 1)))
        self.bias = nn.Parameter(torch.randn(1, 16))

    def forward(self, x: Tensor) -> Tensor:
        state = torch.tanh(x @ self.read)
        for _ in range(3):
            state = torch.tanh(x @ self.read + (state @ self.turn + self.bias))
        return state @ self.last


class Mapped(Added):
    """Sample by sample."""

    def forward(self, x: Tensor) -> Any:
        return torch.func.vmap(lambda one: super(Mapped, self).forward(one[None])[0])(x)


class Forces(Added):
    """The derivative of an energy."""

    def forward(self, x: Tensor) -> Any:
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            return torch.autograd.grad(super().forward(x).sum(), x, create_graph=True)[0]
