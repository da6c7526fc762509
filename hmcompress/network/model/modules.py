"""The built-in networks as torch modules, without parameters of their own: build.py fills them from a checkpoint."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import zip_longest
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "sin": torch.sin,
    "silu": functional.silu,
    "swish": functional.silu,
    "gelu": functional.gelu,
    "relu": torch.relu,
    "identity": lambda x: x,
}
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {  # what else networks of the user's own have between layers
    "identity": ACTIVATIONS["identity"],
    **ACTIVATIONS,
    "gelu_tanh": partial(functional.gelu, approximate="tanh"),
    "softplus": functional.softplus,
    "sigmoid": torch.sigmoid,
    "elu": functional.elu,
    "selu": functional.selu,
    "celu": functional.celu,
    "leaky_relu": functional.leaky_relu,
    "relu6": functional.relu6,
    "mish": functional.mish,
    "hardtanh": functional.hardtanh,
    "hardswish": functional.hardswish,
    "softsign": functional.softsign,
    "logsigmoid": functional.logsigmoid,
    "atan": torch.atan,
    "cos": torch.cos,
}


class Activation(nn.Module):
    """One elementwise function f by name; with slopes b it is x * sigmoid(b x) for swish, f(b x) for any other."""

    def __init__(self, name: str, slope: Tensor | None = None) -> None:
        super().__init__()
        self.name = name
        self.slope = None if slope is None else nn.Parameter(slope, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.slope is not None and self.name in ("swish", "silu"):
            return x * torch.sigmoid(self.slope * x)
        if self.slope is not None:
            x = self.slope * x
        return FUNCTIONS[self.name](x)


ELEMENTWISE = (
    nn.Identity, nn.Dropout, nn.Tanh, nn.ReLU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.ELU, nn.SELU, nn.CELU, nn.LeakyReLU,
    nn.Softplus, nn.Softsign, nn.Mish, nn.Hardtanh, nn.ReLU6, nn.LogSigmoid, nn.Tanhshrink, nn.Hardswish,
    nn.Hardsigmoid, Activation,
)  # fmt: skip


class Features(nn.Module):
    """Input normalisation (x - mean) / std, then Fourier features [sin(x B), cos(x B)], each where given."""

    mean: Tensor | None
    std: Tensor | None
    frequencies: Tensor | None

    def __init__(self, mean: Tensor | None, std: Tensor | None, frequencies: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.register_buffer("frequencies", frequencies)

    def forward(self, x: Tensor) -> Tensor:
        if self.mean is not None:
            x = x - self.mean
        if self.std is not None:
            x = x / self.std
        if self.frequencies is not None:
            phase = x @ self.frequencies
            x = torch.cat([torch.sin(phase), torch.cos(phase)], dim=-1)
        return x


class Stack(nn.Module):
    """Dense layers with an activation between them; x is (N, d)."""

    features: Features

    def __init__(
        self, features: Features, layers: Sequence[nn.Linear], activations: Sequence[Activation], last: bool
    ) -> None:
        super().__init__()
        self.features = features
        self.layers = nn.ModuleList(layers)
        self.activations = nn.ModuleList(activations)
        self.last = last  # whether an activation follows the last layer

    @property
    def width(self) -> int:
        """Coordinates of the input."""
        frequencies = self.features.frequencies
        return cast(nn.Linear, self.layers[0]).in_features if frequencies is None else frequencies.shape[0]

    def steps(self) -> Iterator[nn.Module]:
        """Layers, and the activation after each, in the order of computation."""
        return (step for pair in zip_longest(self.layers, self.activations) for step in pair if step is not None)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        for k, layer in enumerate(self.layers):
            x = layer(x)
            if k + 1 < len(self.layers) or self.last:
                x = self.activations[k](x)
        return x


class OperatorNetwork(nn.Module):
    """DeepONet: branch(u) . trunk(y) + bias; cartesian: every u (N, .) with every y (M, .) to (N, M)."""

    def __init__(self, branch: Stack, trunk: Stack, bias: Tensor | None, cartesian: bool) -> None:
        super().__init__()
        self.branch = branch
        self.trunk = trunk
        self.register_buffer("bias", bias)
        self.cartesian = cartesian

    def forward(self, u: Tensor, y: Tensor) -> Tensor:
        b, t = self.branch(u), self.trunk(y)
        out = b @ t.T if self.cartesian else (b * t).sum(-1, keepdim=True)
        return out if self.bias is None else out + self.bias
