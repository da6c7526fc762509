"""Whether a network computes from the weights that it is given, and not from what it kept of an earlier call."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from hmcompress.errors import NetworkError
from hmcompress.network.model.kept import what_is_kept
from hmcompress.network.model.network import Inputs, Network, own_tensors

_MOVED, _DIGITS = 1e-3, 4  # relative change of each weight, and times the spacing of its numbers at least
_SAME = 1e-2  # of the change of the outputs: rounding differs by less
_CHANCE = 10  # times what outputs differ by from one call to the next


def computing_anew(network: Network, untouched: nn.Module, inputs: Inputs) -> Network:
    """The network, which forgets before each call what its module kept if it ran from that.

    untouched: a copy of the module from before any call. It is called with other weights first: if it then gives
    something else with its own than the module does, it runs from what it kept. inputs: of a few samples.

    Raises NetworkError where forgetting does not help.
    """
    kept = (*network.kept, *what_is_kept(network.module, untouched))
    copied = replace(network, module=untouched)
    before, first = network.run(inputs), _first(copied, inputs)
    if first is None or first.shape != before.shape or not torch.isfinite(first - before).all():
        return network
    allowed = _SAME * (first - before).norm() + _CHANCE * (network.run(inputs) - before).norm()

    def is_same(found: Tensor) -> bool:
        return bool((found - before).norm() <= allowed)

    if is_same(copied.run(inputs)):
        return network
    if is_same(replace(copied, kept=kept).run(inputs)):
        return replace(network, kept=kept)
    raise NetworkError(
        "the network runs from what it kept of an earlier call, not from the weights that it is given, so no bound can "
        "be measured: have the factory return a module that computes anew in each call"
    )


def _first(copied: Network, inputs: Inputs) -> Tensor | None:
    """What the copy gives with other weights; None where it takes no others, of which trials will tell."""
    try:
        return copied.run(inputs, _moved(copied))
    except NetworkError:
        return None


def _moved(network: Network) -> dict[str, Tensor]:
    """All that may be compressed, each number a little changed by a factor of its own: none leaves its range."""
    generator, own = torch.Generator().manual_seed(0), own_tensors(network.module)
    dense = (name for layer in network.layers for name in (layer.weight, layer.bias) if name is not None)
    weights = {name: own[network.places[name]].detach() for name in (*dense, *network.others)}
    moved = {}
    for name, w in weights.items():
        if not (w.is_floating_point() or w.is_complex()):  # a module may hold whole numbers where the file has others
            continue
        size = max(_MOVED, _DIGITS * torch.finfo(w.dtype).eps)  # numbers of 16 bits would be the same again
        moved[name] = w * (1 + size * torch.randn(w.shape, generator=generator, dtype=torch.float64)).to(w.dtype)
    return moved
