"""The web of a user's own module, found by running it, and small networks with random weights in it."""

from dataclasses import replace

import torch
from torch import Tensor

from hmcompress.errors import NetworkError
from hmcompress.network.bound.problem import Problem
from hmcompress.network.joint.chains import MOST_OUTPUTS
from hmcompress.network.joint.features import leading
from hmcompress.network.joint.first_weights import random_layer
from hmcompress.network.joint.groups import ROWS, Group, groups_in
from hmcompress.network.joint.small import Data
from hmcompress.network.joint.small_web import SmallWeb, runs_sliced
from hmcompress.network.joint.web import FEATURES_FOR_EACH, Web
from hmcompress.network.model.inputs import Points
from hmcompress.network.model.links import probed, run_with, same
from hmcompress.network.model.network import Network, own_tensors

_MOST_OTHERS = 0.5  # numbers of other weights for each of the dense layers: more take most of the bytes anyhow
_LOOKED_AT = 512  # samples by which first weights are scaled
_TRIED = 3  # neurons of each group with which derivatives are tried
_STEP, _ROUGH = 1e-5, 1e-2  # of the weights; share of the derivatives that differences may miss


def web_of(problem: Problem) -> Web | None:
    """The web of a user's own module, where it runs in double precision and has groups of neurons."""
    if problem.network.kind != "factory" or (problem.order and problem.calibration.points.tensors[-1].ndim != 2):
        return None
    try:
        return found_web(problem.network, problem.calibration.points)
    except NetworkError:
        return None


def found_web(network: Network, points: Points) -> Web | None:
    """As web_of. Raises NetworkError."""
    dense = sum(network.matrix(layer).numel() for layer in network.layers)
    own = own_tensors(network.module)
    others = sum(own[network.places[name]].numel() for name in network.others)
    if not network.layers or not points.joint or others > _MOST_OTHERS * dense:
        return None
    network, points, run = probed(network, points)
    if any(z.ndim < 2 or len(z) != len(points) for z in run.outputs.values()) or len(run.y) != len(points):
        return None
    if run.y.shape[1] > MOST_OUTPUTS:
        return None
    groups = groups_in(network, points)
    if not groups:
        return None
    alike = [_stays(network, points, run.y, group, reverse=True) for group in groups]
    odd = [_stays(network, points, run.y, group, reverse=False) for group in groups]
    outputs = (run.outputs[layer.weight] for layer in network.layers)
    times = tuple(z[0].numel() // z.shape[-1] for z in outputs)
    web = Web(network, network, groups, tuple(alike), tuple(odd), times)
    web = replace(web, sliced=runs_sliced(web, points))
    return next((w for w in (web, replace(web, by_samples=True)) if _has_slopes(w, points)), None)


def _stays(network: Network, points: Points, y: Tensor, group: Group, reverse: bool) -> bool:
    """Whether the outputs stay where the neurons of a group stand in reverse, or else are the opposite."""
    tensors: dict[str, Tensor] = {}
    for k, axis, first in group.places:
        layer = network.layers[k]
        for name in (layer.weight, layer.bias) if axis == ROWS else (layer.weight,):
            if name is not None:
                t = tensors.get(name, own_tensors(network.module)[network.places[name]].detach()).clone()
                some = t.narrow(axis, first, group.count)
                some.copy_(some.flip(axis) if reverse else -some)
                tensors[name] = t
    try:
        return same(network.run(points.tensors, tensors), y)
    except NetworkError:
        return False


def _has_slopes(web: Web, points: Points) -> bool:
    """Whether the outputs' derivatives by the weights are what they do where all weights move a little."""
    y = web.network.run(points.tensors)
    data = Data(points.tensors, y)
    small = fresh_web(web, data, torch.ones(y.shape[1]).double(), _TRIED, 0)
    along = small.theta() * torch.randn(small.weights(), generator=torch.Generator().manual_seed(0)).double()
    try:
        expected = (along @ small.jacobian(data)[0]).reshape(y.shape[1], -1).T
    except RuntimeError:  # it keeps no gradients
        return False
    theta, ends = small.theta(), list[Tensor]()
    for step in (_STEP, -_STEP):
        small.set_theta(theta + step * along)
        ends.append(small.outputs(data))
    slopes = (ends[0] - ends[1]) / (2 * _STEP)
    return bool((slopes - expected).norm() <= _ROUGH * expected.norm())


def fresh_web(web: Web, data: Data, scale: Tensor, hidden: int, seed: int) -> SmallWeb:
    """A small network with random weights, whose neurons all vary over the data."""
    generator, (counts,) = torch.Generator().manual_seed(seed), web.widths(hidden)
    scale = scale if data.stencil is None else torch.ones(scale.shape[-1]).double()
    small = SmallWeb(web, [web.zero(k, counts) for k in range(len(web.network.layers))], counts, scale)
    few = data.first(_LOOKED_AT)
    original = run_with(web.original, Points(few.inputs)).outputs
    for k, layer in enumerate(small.layers):
        x = small.entering(few)[k]
        x = x.reshape(-1, x.shape[-1])
        features = web.reads_features(k) and len(x) == len(few) * few.points
        read = leading(x[:: few.points], few.outputs, FEATURES_FOR_EACH * hidden) if features else None
        new = random_layer(
            web.network, (layer.layer,), x, len(layer.matrix), generator, read, _size(original[layer.layer.weight])
        )
        layer.matrix, layer.live = new.matrix, new.live
    return small.counted(few)


def _size(z: Tensor) -> float:
    """The usual deviation of the original's pre-activations (N, ..., m): what follows may count on it."""
    return float(z.reshape(-1, z.shape[-1]).std(0).pow(2).mean().sqrt()) or 1.0
