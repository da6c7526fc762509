"""Runs that end with the last dense layer, as nothing that follows is looked at."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

from torch import Tensor

from hmcompress.errors import HMCompressError
from hmcompress.network.model.network import DenseLayer, Network

Replacing = Callable[[Network, Callable[..., Any]], AbstractContextManager[None]]  # `replaced` or `in_place_of`


class _AllSeen(HMCompressError):
    """Ends a run: what follows is of no interest."""


@contextmanager
def until_all_are_seen(network: Network, replacing: Replacing, forward: Callable[..., Any]) -> Iterator[None]:
    """As `replacing`; a run ends with the last of the layers: a decoder's convolutions may follow."""
    left = {layer.path for layer in network.layers}

    def noted(layer: DenseLayer, *tensors: Tensor) -> Any:
        found = forward(layer, *tensors)
        left.discard(layer.path)
        if not left:
            raise _AllSeen
        return found

    with suppress(_AllSeen), replacing(network, noted):
        yield
