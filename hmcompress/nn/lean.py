"""Built-in networks with little overhead: for one sample a small layer costs less than calling its module."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.nn import functional

from hmcompress.network.model.modules import ACTIVATIONS, OperatorNetwork, Stack

_CHUNK = 1024  # samples whose activations stay in a processor's cache


class LeanStack(Stack):
    """A Stack that calls the functions of its layers, not their modules, unless hooks wait on a layer.

    Same parameters, same names, same gradients.
    """

    @classmethod
    def of(cls, stack: Stack) -> "LeanStack":
        """The same network; parts are shared, not copied."""
        lean = cls.__new__(cls)
        nn.Module.__init__(lean)
        lean.__dict__.update({k: v for k, v in stack.__dict__.items() if k != "_modules"})
        lean._modules = dict(stack._modules)
        return lean

    def forward(self, x: Tensor) -> Tensor:
        """(N, d) to (N, outputs)."""
        if is_compiling():
            return super().forward(x)
        if len(x) > 2 * _CHUNK and x.device.type == "cpu" and not torch.is_grad_enabled():
            return torch.cat([self._run(part) for part in x.split(_CHUNK)])
        return self._run(x)

    def _run(self, x: Tensor) -> Tensor:
        parts = cast(dict[str, Any], self._modules)  # attributes of a module are looked up slowly
        features, activations = parts["features"], list(parts["activations"]._modules.values())
        if any(value is not None for value in features._buffers.values()):
            x = features(x)
        after = len(parts["layers"]._modules) - (not self.last)
        for k, layer in enumerate(parts["layers"]._modules.values()):
            x = _linear(layer, x)
            if k < after:
                x = _activated(activations[k], x)
        return x


def lean(module: nn.Module) -> nn.Module:
    """A built-in network with its stacks made lean; any other module as it is."""
    if isinstance(module, OperatorNetwork):
        module.branch, module.trunk = LeanStack.of(module.branch), LeanStack.of(module.trunk)
        return module
    return LeanStack.of(module) if isinstance(module, Stack) else module


def _linear(layer: Any, x: Tensor) -> Tensor:
    if type(layer) is not nn.Linear or layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks:
        return layer(x)
    held = layer._parameters
    return functional.linear(x, cast(Tensor, held["weight"]), held["bias"])


def _activated(activation: Any, x: Tensor) -> Tensor:
    if "slope" in activation._parameters:
        return activation(x)
    return ACTIVATIONS[activation.name](x)
