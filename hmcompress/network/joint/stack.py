"""Dense layers with elementwise functions between them, in the small: their outputs and the slopes of these."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hmcompress.network.joint.small import Layer
from hmcompress.network.model.modules import Activation


@dataclass
class SmallStack:
    """Layers with functions between them; one more after the last layer where there are as many as layers."""

    layers: list[Layer]
    functions: Sequence[Activation]

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Inputs of every layer, and the outputs."""
        xs = []
        for k, layer in enumerate(self.layers):
            xs.append(x)
            x = layer.forward(x)
            if k < len(self.functions):
                x = apply(self.functions[k], x)
        return xs, x

    def linearised(self, x: Tensor) -> tuple[list[Tensor], Tensor, list[Tensor | None]]:
        """As `forward` for inputs (n, N), with rows of ones where there are biases, and the derivative of the function
        after each layer, (m, N); None where there is none."""
        xs: list[Tensor] = []
        slopes: list[Tensor | None] = []
        for k, layer in enumerate(self.layers):
            xs.append(torch.cat([x, x.new_ones(1, x.shape[1])]) if layer.has_bias else x)
            x = layer.matrix @ xs[k]
            x = x if layer.offset is None else x + layer.offset[:, None]
            slopes.append(None)
            if k < len(self.functions):
                x, slopes[k] = (t.T for t in with_slope(self.functions[k], x.T))
        return xs, x, slopes


def apply(function: Activation, z: Tensor) -> Tensor:
    """The function on the first neurons of a layer: slopes (m,) belong to neurons."""
    if function.slope is not None and function.slope.numel() > 1:
        return Activation(function.name, function.slope.to(z.dtype).reshape(-1)[: z.shape[1]])(z)
    return function(z)


def with_slope(function: Activation, z: Tensor) -> tuple[Tensor, Tensor]:
    """An elementwise function at z, and its derivative."""
    y = apply(function, z)
    if function.slope is None and function.name in _SLOPES:
        return y, _SLOPES[function.name](z, y)
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        return y, torch.autograd.grad(apply(function, z).sum(), z)[0]


_SLOPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "tanh": lambda z, y: 1 - y.square(),
    "sin": lambda z, y: torch.cos(z),
}
