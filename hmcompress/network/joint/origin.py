"""What a small network is made for: chains of dense layers, or a module as a whole."""

from collections.abc import Iterator

from torch import Tensor

from hmcompress.network.bound.problem import Problem
from hmcompress.network.joint import distil
from hmcompress.network.joint.distil import Origin
from hmcompress.network.joint.small import Data, SmallNetwork
from hmcompress.network.joint.web import Web
from hmcompress.network.joint.web_tracing import fresh_web, web_of

_PATIENCE, _HURRIED = 3.0, 1.0  # times the work allowed


def origins_of(problem: Problem) -> Iterator[Origin]:
    """The chains of a network, or else its groups of neurons, where it has any.

    These first where layers are called more than once, which chains leave as they are.
    """
    again = bool(problem.network.repeated)
    if again and (web := web_of(problem)) is not None:
        yield web
    if (chains := distil.chains_of(problem)) is not None:
        yield chains
    elif not again and (web := web_of(problem)) is not None:
        yield web


def fresh(origin: Origin, data: Data, scale: Tensor, hidden: int, seed: int, everything: bool = False) -> SmallNetwork:
    """A small network of so many neurons in each hidden layer, with random weights.

    It reads a few of the features, where there are any, or everything.
    """
    if isinstance(origin, Web):
        return fresh_web(origin, data, scale, hidden, seed, everything)
    return distil.fresh(origin, data, scale, hidden, seed, everything)


def patience(origin: Origin) -> float:
    """Times the work allowed as long as nothing fits: a module that runs at its own width takes longer than it says."""
    return _HURRIED if isinstance(origin, Web) and not origin.sliced else _PATIENCE
