"""Runs that end with the last dense layer, as nothing that follows is looked at."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from torch import Tensor

from hmcompress.errors import HMCompressError
from hmcompress.network.model.network import DenseLayer, Network, replaced


class _AllSeen(HMCompressError):
    """Ends a run: what follows is of no interest."""


@contextmanager
def until_all_are_seen(
    network: Network, forward: Callable[[DenseLayer, Tensor, Tensor], Tensor | None]
) -> Iterator[None]:
    """As `replaced`; a run ends with the last of the layers: a decoder's convolutions may follow."""
    left = {layer.path for layer in network.layers}

    def noted(layer: DenseLayer, x: Tensor, z: Tensor) -> Tensor | None:
        found = forward(layer, x, z)
        left.discard(layer.path)
        if not left:
            raise _AllSeen
        return found

    with suppress(_AllSeen), replaced(network, noted):
        yield
