"""Runs of a module up to one of its layers."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hmcompress.errors import NetworkError
from hmcompress.network.model.network import DenseLayer, Inputs, Network


class _Reached(BaseException):  # so that a module that catches its own errors lets it pass
    """Ends a run with what the layer gives."""

    def __init__(self, z: Tensor) -> None:
        super().__init__()
        self.z = z


def call_until(
    network: Network, end: DenseLayer, inputs: Inputs, tensors: Mapping[str, Tensor] | None = None
) -> Tensor:
    """What a layer gives when it is first called, with gradients where the caller wants them; what follows is not run.

    Hooks that are there before see, and may change, it first. Raises NetworkError.
    """

    def reached(module: nn.Module, args: Any, z: Tensor) -> None:
        raise _Reached(z)

    handle = network.linear(end).register_forward_hook(reached)
    try:
        network.call(inputs, tensors)
    except _Reached as found:
        return found.z
    finally:
        handle.remove()
    raise NetworkError(f"the network does not come to {end.weight}")


def run_until(network: Network, end: DenseLayer, inputs: Inputs, tensors: Mapping[str, Tensor] | None = None) -> Tensor:
    """The same without gradients."""
    with torch.no_grad():
        return call_until(network, end, inputs, tensors).detach()
