"""Where no pass keeps the bound, or takes much: the original weights, as coarse as the bound allows, or lossless."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial

from torch import Tensor

from hmcompress.network.layerwise.coded import Coded, Engine, lossless
from hmcompress.network.layerwise.propagate import Knobs, Parts
from hmcompress.network.layerwise.trial import LIMIT, Measure, Trial
from hmcompress.network.model.network import Network

_FINER = 4.0  # from one relative error of the weights to the next
_FINEST = 1e-7
_MUCH = 0.4  # of the weights' own bytes, from which they may take less without loss


def nearest_weights(
    network: Network, tensors: Mapping[str, Tensor], engine: Engine, measured: Measure, tol: float
) -> Trial | None:
    """The first of finer and finer roundings of the weights that holds, at last they without loss, or None."""
    for parts in _finer_and_finer(network, tensors, engine, tol):
        error = measured(parts)
        if error <= LIMIT * tol:
            return _trial(parts, error)
    return None


def smaller_without_loss(network: Network, tensors: Mapping[str, Tensor], nbytes: int) -> Trial | None:
    """The weights without loss where that takes fewer than so many bytes, as those of 16 bits may; else None."""
    own = (tensors[name].nbytes for x in network.layers for name in (x.weight, x.bias) if name is not None)
    if nbytes < _MUCH * (sum(own) + sum(tensors[name].nbytes for name in network.others)):
        return None
    exact = _trial(_every(network, tensors, lambda name, w: lossless(w)), 0.0)
    return exact if exact.nbytes < nbytes else None


def _trial(parts: Parts, error: float) -> Trial:
    return Trial(Knobs(0.0), parts, sum(len(part.payload(False)) for part in parts.values()), error)


def _finer_and_finer(network: Network, tensors: Mapping[str, Tensor], engine: Engine, tol: float) -> Iterator[Parts]:
    level = tol
    while level > _FINEST:
        yield _every(network, tensors, partial(engine.tensor, tol=level))
        level /= _FINER
    yield _every(network, tensors, lambda name, w: lossless(w))


def _every(network: Network, tensors: Mapping[str, Tensor], code: Callable[[str, Tensor], Coded]) -> Parts:
    """Every layer with its bias, and every other weight."""
    parts = {name: code(name, tensors[name]) for name in network.others}
    for layer in network.layers:
        parts[layer.weight] = code(layer.weight, layer.matrix_of(tensors))
    return parts
