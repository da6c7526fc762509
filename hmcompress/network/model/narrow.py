"""A network without the neurons that nothing reads: it computes the same in a part of the time."""

from collections.abc import Mapping

from torch import Tensor

from hmcompress.network.model.network import DenseLayer, Network, own_tensors

_WORTH = 0.8  # share of living neurons from which leaving out the others gains nothing


def narrowed(network: Network, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors with only those rows and columns of layers that matter, as the modules built here take them.

    tensors: weights and biases by name. Those of other modules come back as they are: these may know their own widths.
    """
    narrow, fixed = dict(tensors), _fixed_widths(network)
    for first, second in network.feeding_pairs() if network.built_in else ():
        read = narrow[second.weight].ne(0).any(0) if {first.weight, second.weight} <= narrow.keys() else None
        if read is None or len(read) in fixed or int(read.sum()) > _WORTH * len(read):
            continue
        narrow[second.weight] = narrow[second.weight][:, read]
        narrow |= {name: narrow[name][read] for name in _names(first)}
    return narrow


def _names(layer: DenseLayer) -> tuple[str, ...]:
    return (layer.weight,) if layer.bias is None else (layer.weight, layer.bias)


def _fixed_widths(network: Network) -> set[int]:
    """Of what does not grow narrower with its layer: slopes of single neurons, biases that are not coded."""
    narrow = {network.places[name] for layer in network.layers for name in _names(layer)}
    return {t.shape[-1] for place, t in own_tensors(network.module).items() if t.ndim and place not in narrow}
