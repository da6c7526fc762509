"""Networks that torch cannot differentiate by their weights, as where distances give forces."""

from dataclasses import replace

import torch

from hmcompress.errors import NetworkError
from hmcompress.network.model.network import Inputs, Network

# The last one: its forward has taken gradients itself, after which none are left for its outputs.
_NOT_THERE = ("not implemented", "once_differentiable", "implement either the backward", "graph a second time")


def without_unknown_gradients(network: Network, inputs: Inputs) -> Network:
    """The network as it is, or as one that gives no gradients, where an operation in it has none."""
    own = [t for t in network.module.parameters() if (t.is_floating_point() or t.is_complex()) and t.is_leaf]
    asked = [t.requires_grad for t in own]
    try:
        for t in own:
            t.requires_grad_(True)
        with torch.enable_grad():
            y = network.call(inputs)
            if y.requires_grad:
                torch.autograd.grad(y.sum(), own, allow_unused=True)
    except NetworkError:  # it changes its own, say, which it must not where gradients are wanted
        return network
    except RuntimeError as error:  # of which NotImplementedError is one
        return replace(network, sealed=True) if any(text in str(error) for text in _NOT_THERE) else network
    finally:
        for t, before in zip(own, asked, strict=True):
            t.requires_grad_(before)
    return network
