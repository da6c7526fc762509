"""What a small network is made for: chains of dense layers, or a module as a whole."""

from torch import Tensor

from hmcompress.network.bound.problem import Problem
from hmcompress.network.joint import distil
from hmcompress.network.joint.chains import Chains
from hmcompress.network.joint.small import Data, SmallNetwork
from hmcompress.network.joint.web import Web
from hmcompress.network.joint.web_tracing import fresh_web, web_of

Origin = Chains | Web


def origin_of(problem: Problem) -> Origin | None:
    """The chains of a network, or else its groups of neurons, where it has any."""
    chains = distil.chains_of(problem)
    return web_of(problem) if chains is None else chains


def fresh(origin: Origin, data: Data, scale: Tensor, hidden: int, seed: int, everything: bool = False) -> SmallNetwork:
    """A small network of so many neurons in each hidden layer, with random weights.

    It reads a few of the features, where there are any, or everything.
    """
    if isinstance(origin, Web):
        return fresh_web(origin, data, scale, hidden, seed, everything)
    return distil.fresh(origin, data, scale, distil.widths_of(origin, hidden), seed, everything)


def widths_of(origin: Origin, hidden: int) -> tuple[tuple[int, ...], ...]:
    """Neurons of each hidden layer, or group, of which there are no more than in the original."""
    return origin.widths(hidden) if isinstance(origin, Web) else distil.widths_of(origin, hidden)


def inner_weights(origin: Origin, hidden: int) -> int:
    """Weights of a small network of this width, not counting more plain inputs than a layer has neurons."""
    return origin.inner_weights(hidden) if isinstance(origin, Web) else distil.inner_weights(origin, hidden)
