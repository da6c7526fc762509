"""Between the joint stage and the passes: functions that few neurons cannot carry are often carried by some tens. A
network of that width learns the original's outputs, the passes compress it, and it takes the first neurons' places."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import nn

from hmcompress.errors import NetworkError
from hmcompress.network.bound.problem import Problem
from hmcompress.network.joint.chains import stacks_in
from hmcompress.network.joint.distil import Origin, in_places, learning_data
from hmcompress.network.joint.krylov import descend
from hmcompress.network.joint.many import with_all_outputs
from hmcompress.network.joint.origin import fresh
from hmcompress.network.joint.small import Data, SmallNetwork
from hmcompress.network.joint.small_web import SmallWeb
from hmcompress.network.joint.stacks import SmallStacks
from hmcompress.network.joint.web import Web
from hmcompress.network.joint.widening import narrow_learned, widened
from hmcompress.network.layerwise.coded import Coded, Smooth, Weighted
from hmcompress.network.layerwise.original import Original
from hmcompress.network.layerwise.propagate import Knobs, Parts, run_pass
from hmcompress.network.model.build import filled
from hmcompress.network.model.modules import Activation, Stack
from hmcompress.network.model.network import DenseLayer, Network, in_precision, own_tensors

_HIDDEN = (12, 16, 20, 24, 32, 40, 48, 64, 96, 128)  # neurons of a hidden layer
_WEIGHTS_PER_BYTE = (3.5, 2.0)  # of the linearised rate, at first; of a web, where neurons do more
_POWER = (2.0, 1.2)  # of the weights, by which errors fall, about; of a web
_AIMED = 0.9  # error over the tolerance that is aimed at
_LEAST_GROWTH, _MOST_GROWTH = 1.3, 2.5  # of the weights, from one width to the next
_LARGER = 1.1  # times the error of the width before, with which no further one is tried
_FAR = 1.6  # times the weights of the widest, of which it is not tried any more
MIDDLE_ROWS, _LEAST_ROWS = 16384, 0.5  # samples, and how many for each weight at least
_WORK = {"default": 4e8, "max": 4e9}  # weights times samples at most, by effort
_RUNS = 4  # times as many multiplications of a module that is run on all samples
_PRODUCTS = 80
_FIRST = ((4096, 40, 1e-2), (8192, 20, 1e-5))  # samples, steps at most and damping, until it is learned
_STEPS, _DAMPING = 20, 1e-6  # on all samples, with a price on the weights, until it holds on held-out points
_ROUNDS, _MORE, _NEARLY = 3, 3, 1.08  # of these, and further ones where the error over the tolerance comes near enough
_HOPELESS = ((5.0, 1.6), (2.0, 1.3))  # error over the tolerance after the first steps; of a web, which takes long
_BY_HEART = 1.5  # held-out error over that of the samples, above which there are too few of these
_AHEAD = 1.3  # the same after the first steps, where the held-out error is hopeless: it hardly falls with the other
_SHARE = 0.5  # of the squared tolerance that the price counts on
_ENOUGH = 0.7  # of the tolerance, to which the first steps go
_FITS = 0.93  # of the tolerance


@dataclass(frozen=True)
class Middle:
    """A narrower network, and where the rows and columns of its layers, by their weights, stand in the original's."""

    network: Network
    places: Mapping[str, tuple[np.ndarray, np.ndarray]]
    small: SmallNetwork  # the same, in units of the tolerance's norm on so many samples

    def error(self, problem: Problem) -> float:
        """Of the outputs on held-out points."""
        return max(replace(problem, network=self.network).errors(problem.held_out, {}))

    def holds(self, problem: Problem, tol: float) -> bool:
        """With something left for its weights to be coded in."""
        return self.error(problem) < _FITS * tol


def middle_network(
    problem: Problem, origin: Origin, tol: float, effort: str, tick: Callable[[float], None]
) -> Middle | None:
    """A narrower network whose outputs are the original's to well within the tolerance, or None.

    tick: told which share of the work is done.
    """
    learner = _Learner(problem, origin, tol, _WORK[effort], tick)
    try:
        return _of_growing_width(learner)
    except (NetworkError, RuntimeError):  # in single precision, or twice differentiated, not all modules run
        return None


def _of_growing_width(learner: "_Learner") -> Middle | None:
    """Each width is told by the error that the one before has left, unless that was larger than its own before."""
    per_byte = _WEIGHTS_PER_BYTE[isinstance(learner.origin, Web)]
    weights, wanted = _weights(learner.origin), per_byte * learner.problem.rate_limit.nbytes(learner.tol)
    most = max(weights.values(), default=0)
    if wanted > _FAR * most:
        return None
    before = math.inf
    while (hidden := next((h for h, w in weights.items() if w >= min(wanted, most)), None)) is not None:
        found = learner.learned(hidden)
        if found is not None or weights[hidden] == most or learner.error > _LARGER * before:
            return found
        before = learner.error
        needed = weights[hidden] * (learner.error / _AIMED) ** (1 / _POWER[isinstance(learner.origin, Web)])
        if needed > _FAR * most:
            return None
        wanted = min(max(needed, _LEAST_GROWTH * weights[hidden]), _MOST_GROWTH * weights[hidden])
    return None


@dataclass
class _Learner:
    """Networks of some width that learn the outputs."""

    problem: Problem
    origin: Origin
    tol: float
    work: float  # samples times weights
    tick: Callable[[float], None]
    error: float = math.inf  # over the tolerance, that the first steps of the last one left
    last: SmallNetwork | None = None  # with which the next one begins

    def __post_init__(self) -> None:
        self.data, self.scale = learning_data(self.problem, self.origin, MIDDLE_ROWS)

    def learned(self, hidden: int) -> Middle | None:
        """A network of some width, unless it does not learn the outputs or would take too long."""
        small = fresh(self.origin, self.data, self.scale, hidden, 0, everything=True)
        data = self._affordable(small)
        size, goal = len(data) * data.outputs.shape[1], (_ENOUGH * self.tol) ** 2
        if _LEAST_ROWS * small.weights() > size or len(data) * small.weights() > self.work:
            self.error = math.inf
            return None
        narrow = self.last or narrow_learned(self.origin, data, self.scale, hidden, self.tol)
        small = self.last = small if narrow is None else widened(narrow, small)
        for k, (rows, steps, damping) in enumerate(_FIRST):
            hopeless = _HOPELESS[isinstance(small, SmallWeb)][k]
            far = (hopeless * self.tol) ** 2
            tick = partial(self._part, k)
            error = descend(small, data.first(rows), steps, _PRODUCTS, damping=damping, goal=goal, far=far, tick=tick)
            self.error = error**0.5 / self.tol
            if self.error > hopeless:
                return None
            held = as_middle(self.problem.network, small, self.origin).error(self.problem) / self.tol
            if held > max(hopeless, _AHEAD * self.error):
                self.error = math.inf
                return None
        tick = partial(self._part, len(_FIRST))
        found, self.error = _holding(self.problem, small, data, self.tol, tick, self.origin)
        return found

    def _part(self, parts: int, share: float) -> None:
        """Some of the four parts are done, and a share of the next one: the first steps, and then rounds."""
        self.tick((parts + share) / (len(_FIRST) + 2))

    def _affordable(self, small: SmallNetwork) -> Data:
        """As many samples as a module is run with in the time."""
        if not isinstance(self.origin, Web):
            return self.data
        return self.data.first(min(len(self.data), self.origin.at_once(1), int(_RUNS * self.work / small.each)))


def _holding(
    problem: Problem,
    small: SmallNetwork,
    data: Data,
    tol: float,
    tick: Callable[[float], None] = lambda share: None,
    origin: Origin | None = None,
) -> tuple[Middle | None, float]:
    """What holds on held-out points, of small weights, or how far it is from that: without end, where it is much nearer
    on the samples that it learned from."""
    held, learned = math.inf, 0.0
    for k in range(_ROUNDS + _MORE):
        error = descend(small, data, _STEPS, _PRODUCTS, level=_SHARE * tol**2 / small.weights(), damping=_DAMPING)
        tick(min((k + 1) / 2, 1.0))
        middle = as_middle(problem.network, small, origin)
        held, learned = middle.error(problem) / tol, error**0.5 / tol
        if held < _FITS:
            return middle, held
        if held > (_HOPELESS[isinstance(small, SmallWeb)][-1] if k + 1 < _ROUNDS else _NEARLY):
            break
    return None, math.inf if held > _BY_HEART * learned else held


def _weights(origin: Origin) -> dict[int, int]:
    """Of networks of each width that is tried: not of fewer neurons than modes, which are sums of these."""
    least = 0 if origin.modes is None else origin.modes.shape[1]
    return {hidden: origin.inner_weights(hidden) for hidden in _HIDDEN if least <= hidden <= _most(origin)}


def _most(origin: Origin) -> int:
    """Neurons of a layer at most: half of the original's. Gradients of gradients take too long for what they gain."""
    if isinstance(origin, Web):
        return max(group.count for group in origin.groups) // 2 if origin.sliced and not origin.by_samples else 0
    return min((m for sizes in origin.sizes for m in sizes[1:-1]), default=0) // 2


def as_middle(network: Network, small: SmallNetwork, origin: Origin | None = None) -> Middle:
    """The network with the weights of a small one in place of its own, under the same names."""
    if origin is not None and origin.modes is not None:
        return replace(as_middle(network, with_all_outputs(small, origin)), small=small)
    places = {}
    for layer in small.layers:
        for own, rows in layer.parts():
            own_rows = np.arange(rows.stop - rows.start) if layer.rows is None else layer.rows.numpy()
            columns = np.arange(layer.inputs) if layer.columns is None else layer.columns.numpy()
            places[own.weight] = own_rows, columns
    if isinstance(small, SmallWeb):
        return Middle(_of_web(network, small), places, small)
    assert isinstance(small, SmallStacks)
    return Middle(_of_chain(network, small), places, small)


def _of_chain(network: Network, small: SmallStacks) -> Network:
    module = copy.deepcopy(network.module)
    for layer in small.layers:
        for own, rows in layer.parts():
            bias = layer.matrix[rows, -1] if layer.has_bias else layer.offset
            linear = filled(layer.weight()[rows].to(network.dtype), None if bias is None else bias.to(network.dtype))
            module.set_submodule(own.path, linear)
    if network.built_in:
        _narrow_slopes(stacks_in(module), small)
    return replace(network, module=module)


def _narrow_slopes(stacks: Sequence[Stack], small: SmallStacks) -> None:
    for stack, own in zip(stacks, small.stacks, strict=True):
        for k, layer in enumerate(own.layers[: len(stack.activations)]):
            stack.activations[k] = _narrower(stack.activations[k], len(layer.matrix))


def _of_web(network: Network, small: SmallWeb) -> Network:
    """With other weights as they are coded: only layers are left to code."""
    narrow = in_precision(small.web.network, network.dtype)
    own = own_tensors(narrow.module)
    with torch.no_grad():
        for name, t in small.tensors().items():
            own[narrow.places[name]].data = t.to(network.dtype)
    return replace(narrow, others=(), stacks=network.stacks)


def _narrower(function: nn.Module, neurons: int) -> nn.Module:
    """For the first neurons alone, where each has a slope of its own."""
    slope = function.slope if isinstance(function, Activation) else None
    if not isinstance(function, Activation) or slope is None or slope.numel() == 1:
        return function
    return Activation(function.name, slope.reshape(-1)[:neurons])


def compressed(original: Network, middle: Middle, data: Original, knobs: Knobs) -> Parts:
    """A pass over the middle network, its layers in the original's."""
    parts = run_pass(middle.network, data, knobs)
    return parts | {x.weight: _in_place(original, x, parts[x.weight], middle) for x in original.layers}


def _in_place(original: Network, layer: DenseLayer, part: Coded, middle: Middle) -> Coded:
    rows, columns = middle.places[layer.weight]
    if isinstance(part, Smooth | Weighted):
        return replace(part, grid=in_places(original, layer, part.grid, rows, columns))
    return part
