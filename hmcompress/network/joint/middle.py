"""Between the joint stage and the passes: functions that few neurons cannot carry are often carried by some tens. A
network of that width learns the original's outputs, the passes compress it, and it takes the first neurons' places."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace

from torch import nn

from hmcompress.network.bound.ntk import LIMIT_ROWS, rate_limit_bytes
from hmcompress.network.bound.problem import Problem
from hmcompress.network.joint.chains import Chains
from hmcompress.network.joint.distil import first_neurons, fresh, inner_weights, learning_data, widths_of
from hmcompress.network.joint.krylov import descend
from hmcompress.network.joint.stacks import SmallStacks
from hmcompress.network.layerwise.coded import Weighted
from hmcompress.network.layerwise.original import Original
from hmcompress.network.layerwise.propagate import Knobs, Parts, run_pass
from hmcompress.network.model.build import filled
from hmcompress.network.model.modules import Activation, Stack
from hmcompress.network.model.network import Network

_HIDDEN = (12, 16, 20, 24, 32, 40, 48, 64, 96, 128)  # neurons of a hidden layer
_WEIGHTS_PER_BYTE = (5.0, 11.0)  # of the linearised rate: how many learn the function, and where they do not, how many
_ROWS, _LEAST_ROWS = 16384, 0.5  # samples, and how many for each weight at least
_WORK = {"default": 4e8, "max": 4e9}  # weights times samples at most, by effort
_PRODUCTS = 80
_FIRST = ((4096, 40, 1.0), (8192, 20, 1e-5))  # samples, steps at most and damping, until it is learned
_STEPS, _DAMPING = (20, 20, 20), 1e-6  # on all samples, with a price on the weights, until it holds on held-out points
_HOPELESS = 2.5  # error over the tolerance after the first steps
_SHARE = 0.5  # of the squared tolerance that the price counts on
_ENOUGH = 0.7  # of the tolerance, to which the first steps go
_FITS = 0.93  # of the tolerance


def middle_network(
    problem: Problem, chains: Chains, tol: float, effort: str, tick: Callable[[float], None]
) -> Network | None:
    """A narrower network whose outputs are the original's to well within the tolerance, or None.

    tick: told which share of the work is done.
    """
    for hidden in _widths(problem, chains, tol):
        network = _learned(problem, chains, tol, hidden, _WORK[effort], tick)
        if network is not None:
            return network
    return None


def _learned(
    problem: Problem, chains: Chains, tol: float, hidden: int, work: float, tick: Callable[[float], None]
) -> Network | None:
    """A network of some width, unless it does not learn the outputs or would take too long."""
    data, scale = learning_data(problem, chains, _ROWS)
    small = fresh(chains, data, scale, widths_of(chains, hidden), 0, everything=True)
    size = len(data) * data.outputs.shape[1]
    if _LEAST_ROWS * small.weights() > size or size * small.weights() > work:
        return None
    error, goal = math.inf, (_ENOUGH * tol) ** 2
    for k, (rows, steps, damping) in enumerate(_FIRST):
        error = descend(small, data.first(rows), steps, _PRODUCTS, damping=damping, goal=goal)
        tick((k + 1) / 4)
    if error > (_HOPELESS * tol) ** 2:
        return None
    for steps in _STEPS:
        descend(small, data, steps, _PRODUCTS, level=_SHARE * tol**2 / small.weights(), damping=_DAMPING)
        network = as_network(problem.network, small)
        if max(replace(problem, network=network).errors(problem.held_out, {})) < _FITS * tol:
            return network
    return None


def _widths(problem: Problem, chains: Chains, tol: float) -> list[int]:
    """Neurons of a hidden layer: as many as the linearised rate asks for, where that is half of the original's."""
    if len(chains.parts) > 1:
        return []
    points = problem.calibration.points.pairs(LIMIT_ROWS)
    rate = rate_limit_bytes(problem.network, points, tol)
    most = min(chains.sizes[0][1:-1], default=0) // 2
    weights = {hidden: inner_weights(chains, hidden) for hidden in _HIDDEN if hidden <= most}
    found = (next((h for h, w in weights.items() if w >= each * rate), None) for each in _WEIGHTS_PER_BYTE)
    return sorted({hidden for hidden in found if hidden is not None})


def as_network(network: Network, small: SmallStacks) -> Network:
    """The network with the weights of a small one in place of its chain's, under the same names."""
    module = copy.deepcopy(network.module)
    for k, layer in enumerate(small.layers):
        for own, rows in layer.parts():
            bias = layer.matrix[rows, -1] if layer.has_bias else layer.offset
            linear = filled(layer.weight()[rows].to(network.dtype), None if bias is None else bias.to(network.dtype))
            module.set_submodule(own.path, linear)
        if isinstance(module, Stack) and k < len(module.activations):
            module.activations[k] = _narrower(module.activations[k], len(layer.matrix))
    return replace(network, module=module)


def _narrower(function: nn.Module, neurons: int) -> nn.Module:
    """For the first neurons alone, where each has a slope of its own."""
    slope = function.slope if isinstance(function, Activation) else None
    if not isinstance(function, Activation) or slope is None or slope.numel() == 1:
        return function
    return Activation(function.name, slope.reshape(-1)[:neurons])


def compressed(original: Network, middle: Network, data: Original, knobs: Knobs) -> Parts:
    """A pass over the middle network, its layers in the first neurons of the original's."""
    parts = run_pass(middle, data, knobs)
    grids = {layer: part.grid for layer in original.layers if isinstance(part := parts[layer.weight], Weighted)}
    placings = {layer.weight: Weighted(first_neurons(original, layer, grid)) for layer, grid in grids.items()}
    return parts | placings
