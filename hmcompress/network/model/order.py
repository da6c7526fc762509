"""In which order a network calls its dense layers, and which of them no single input describes."""

import math
from dataclasses import replace

from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor

from hmcompress.errors import NetworkError
from hmcompress.network.model.network import DenseLayer, Inputs, Network, replaced

_NO_GRADIENT = "does not require grad"  # what torch says where gradients are taken that are not kept


def in_order_of_computation(network: Network, inputs: Inputs) -> Network:
    """The same network with its layers in the order in which a forward pass calls them.

    Layers whose module is not called (their weights may be used or ignored), or more than once, so that no single input
    describes them, become other weights; so do those inside torch.func transforms, whose inputs cannot be kept. Which
    are called more than once is kept. A network that takes gradients itself is found here, as it fails without.
    """
    try:
        calls = _calls(network, inputs)
    except NetworkError as error:
        if network.own_gradients or _NO_GRADIENT not in str(error.__cause__):
            raise
        return in_order_of_computation(replace(network, own_gradients=True), inputs)
    once = tuple(layer for layer, count in calls.items() if count == 1)
    repeated = tuple(layer for layer, count in calls.items() if 1 < count < math.inf)
    left = (layer for layer in network.layers if layer not in once)
    rest = tuple(name for layer in left for name in (layer.weight, layer.bias) if name is not None)
    stacks = tuple(stack for stack in network.stacks if all(layer in once for layer in stack))
    return replace(network, layers=once, others=(*network.others, *rest), stacks=stacks, repeated=repeated)


def _calls(network: Network, inputs: Inputs) -> dict[DenseLayer, float]:
    """How often a forward pass calls each layer, in the order of first calls; inf inside torch.func transforms."""
    calls: dict[DenseLayer, float] = {}

    def note(layer: DenseLayer, x: Tensor, z: Tensor) -> None:
        calls[layer] = calls.get(layer, 0) + (math.inf if is_functorch_wrapped_tensor(z) else 1)

    with replaced(network, note):
        network.run(inputs)
    return calls
