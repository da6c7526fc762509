"""What a small network is made for: chains of dense layers, or a module as a whole."""

from collections.abc import Iterator

from torch import Tensor

from hmcompress.network.bound.problem import Problem
from hmcompress.network.joint import distil
from hmcompress.network.joint.distil import Origin
from hmcompress.network.joint.small import Data, SmallNetwork
from hmcompress.network.joint.web import Web
from hmcompress.network.joint.web_tracing import fresh_web, web_of

_HIDDEN = (3, 4, 5, 6, 8, 10, 12, 15, 19, 24, 30)  # neurons of a hidden layer, tried in this order
_WEIGHTS_PER_BYTE = 1.3  # of the linearised rate: fewer never fitted
_OF_A_WEB = 0.4  # where neurons do more: sums and products carry them further, or they tell many outputs at once
_PATIENCE, _HURRIED = 3.0, 1.0  # times the work allowed


def origins_of(problem: Problem) -> Iterator[Origin]:
    """The chains of a network, or else its groups of neurons, where it has any.

    These first where layers are called more than once, which chains leave as they are. None where tensors are tied in
    the checkpoint alone: parts of one may be parts of another, and a narrower module has others.
    """
    if problem.network.ties:
        return
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


def numbers_of_neurons(origin: Origin) -> list[int]:
    """Of a hidden layer, that give different networks: not those above all of the original's."""
    return [h for k, h in enumerate(_HIDDEN) if not k or origin.widths(h) != origin.widths(_HIDDEN[k - 1])]


def narrowest(problem: Problem, origin: Origin, tol: float) -> float:
    """Neurons of a layer below which no fit is tried: with fewer weights than the linearised rate asks for."""
    wanted = problem.rate_limit.nbytes(tol)
    few = isinstance(origin, Web) or origin.modes is not None
    wanted *= _OF_A_WEB if few else _WEIGHTS_PER_BYTE
    return next((hidden for hidden in _HIDDEN if origin.inner_weights(hidden) >= wanted), _HIDDEN[-1])
