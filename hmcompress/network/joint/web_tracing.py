"""The web of a user's own module, found by running it, and small networks with random weights in it."""

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from hmcompress.errors import NetworkError
from hmcompress.network.bound.problem import Problem
from hmcompress.network.joint.ends import MOST_OUTPUTS, are_told, only_end, probing
from hmcompress.network.joint.features import FEATURES_FOR_EACH, leading
from hmcompress.network.joint.first_weights import random_layer
from hmcompress.network.joint.groups import ROWS, Group, groups_in
from hmcompress.network.joint.small import Data
from hmcompress.network.joint.small_web import SmallWeb
from hmcompress.network.joint.vectors import mean, vectors_along
from hmcompress.network.joint.web import Web
from hmcompress.network.model.forward_size import largest_written
from hmcompress.network.model.inputs import Points
from hmcompress.network.model.links import probed, run_with, same
from hmcompress.network.model.network import Network, own_tensors

_MOST_OTHERS = 0.5  # numbers of other weights for each of the dense layers: more take most of the bytes anyhow
_ENTRIES = 1 << 23  # of a tensor that the module writes, at most, while groups are looked for
_FEW = 64  # samples by which symmetries are told
_LOOKED_AT = 512  # samples by which first weights are scaled
_TRIED = 3  # neurons of each group with which derivatives are tried
_AS_MUCH = 0.7  # share of their derivatives' size that the weights of each layer keep where they do as much
_STEP, _ROUGH = 1e-5, 1e-2  # of the weights; share of the derivatives that differences may miss


def web_of(problem: Problem) -> Web | None:
    """The web of a user's own module, where it runs in double precision and has groups of neurons."""
    if problem.network.kind != "factory" or (problem.order and problem.calibration.points.tensors[-1].ndim != 2):
        return None
    y = problem.calibration.blocks[0]
    many = problem.settings.tolerance == "l2" and not problem.order and y.shape[1] > MOST_OUTPUTS and are_told(y)
    try:
        return found_web(problem.network, problem.calibration.points, many)
    except NetworkError:
        return None


def found_web(network: Network, points: Points, many: bool = False) -> Web | None:
    """As web_of. Raises NetworkError. many: outputs, which one layer may make."""
    network = network.with_repeated()
    if not points.joint or network.others_for_each() > _MOST_OTHERS:
        return None
    network, points, run = probed(network, points)
    if any(z.ndim < 2 or len(z) != len(points) for z in run.outputs.values()) or len(run.y) != len(points):
        return None
    if run.y.shape[1] > MOST_OUTPUTS and not many:
        return None
    by_weight = {layer.weight: layer for layer in network.layers}
    network = replace(network, layers=tuple(by_weight[name] for name in run.outputs))
    end = only_end(network, points, run) if run.y.shape[1] > MOST_OUTPUTS else None
    if run.y.shape[1] > MOST_OUTPUTS and end is None:
        return None
    largest = largest_written(network, points)
    points = points.take(slice(0, max(_ENTRIES // max(largest, 1), 1)))
    groups = groups_in(network, points)
    if not groups:
        return None
    outputs = (run.outputs[layer.weight] for layer in network.layers)
    times = tuple(z[0].numel() // z.shape[-1] for z in outputs)
    vectors = tuple(vectors_along(network, points, groups).items())
    web = _with_symmetries(Web(network, network, groups, (), (), times, vectors, largest, end=end), points)
    if end is not None and not web.sliced:
        return None
    return next((w for w in (web, replace(web, by_samples=True)) if _has_slopes(w, points)), None)


def changed(web: Web, tensors: Mapping[str, Tensor], points: Points) -> Web:
    """With some other weights changed, of which neurons may have changed places, or may do so now."""
    if not tensors:
        return web
    return _with_symmetries(web.beside(tensors), points.to(torch.float64).take(slice(0, min(web.at_once(1), _FEW))))


def _with_symmetries(web: Web, points: Points) -> Web:
    y = web.network.run(points.tensors)
    alike, odd = (
        tuple(_stays(web.network, points, y, group, reverse) for group in web.groups) for reverse in (True, False)
    )
    web = replace(web, exchangeable=alike, odd=odd)
    (two,) = web.widths(2)
    web = replace(web, sliced=_runs_sliced(web, points, two))
    uneven = ((*two[:k], 1, *two[k + 1 :]) for k in range(len(two)))
    return replace(web, uneven=web.sliced and all(_runs_sliced(web, points, counts) for counts in uneven))


def _runs_sliced(web: Web, points: Points, counts: tuple[int, ...]) -> bool:
    """Whether the module runs with layers of so few neurons, and gives what it gives with the others at zero."""
    generator = torch.Generator().manual_seed(0)
    layers = [web.zero(k, counts) for k in range(len(web.network.layers))]
    for layer in layers:
        layer.matrix = torch.randn(layer.matrix.shape, generator=generator).double() / layer.matrix.shape[1] ** 0.5
    found = []
    for sliced in (True, False):
        small = SmallWeb(replace(web, sliced=sliced), layers, counts, torch.ones(1).double())
        try:
            found.append(web.network.run(points.tensors, small.tensors()))
        except NetworkError:
            return False
    return found[0].shape == found[1].shape and same(*found)


def _stays(network: Network, points: Points, y: Tensor, group: Group, reverse: bool) -> bool:
    """Whether the outputs stay where a group's neurons stand in reverse, or else every other one is its opposite."""
    tensors, signs = dict[str, Tensor](), (-1.0) ** torch.arange(1, group.count + 1).double()
    for k, axis, first in group.places:
        layer = network.layers[k]
        for name in (layer.weight, layer.bias) if axis == ROWS else (layer.weight,):
            if name is not None:
                t = tensors.get(name, own_tensors(network.module)[network.places[name]].detach()).clone()
                some = t.narrow(axis, first, group.count)
                some.copy_(some.flip(axis) if reverse else some * (signs if axis or t.ndim == 1 else signs[:, None]))
                tensors[name] = t
    try:
        return same(network.run(points.tensors, tensors), y)
    except NetworkError:
        return False


def _has_slopes(web: Web, points: Points) -> bool:
    """Whether the outputs' derivatives by the weights are what they do where all weights move a little."""
    web, data = _looked_at(web, points, web.network)
    small, outputs = _random(web, data), data.outputs.shape[1]
    along = small.theta() * torch.randn(small.weights(), generator=torch.Generator().manual_seed(0)).double()
    try:
        expected = (along @ small.jacobian(data)[0]).reshape(outputs, -1).T
    except RuntimeError:  # it keeps no gradients
        return False
    theta, ends = small.theta(), list[Tensor]()
    for step in (_STEP, -_STEP):
        small.set_theta(theta + step * along)
        ends.append(small.outputs(data))
    slopes = (ends[0] - ends[1]) / (2 * _STEP)
    return bool((slopes - expected).norm() <= _ROUGH * expected.norm())


def evened(web: Web, tensors: Mapping[str, Tensor], points: Points) -> dict[str, Tensor]:
    """The vectors along groups whose neurons may not change places, with all entries alike: then they may.

    Their means, or, what is coded in a byte, zeros, where all weights of a small network do as much then.
    """
    found = {name: mean(tensors[name]) for name, k in web.vectors if not web.exchangeable[k]}
    points = points.to(torch.float64).take(slice(0, min(web.at_once(1), _FEW)))
    web = web.beside(found)
    before = _effects(web, points)
    for name, t in found.items():
        other = web.beside({name: torch.zeros_like(t)})
        after = _effects(other, points)
        if all(_AS_MUCH * a <= b <= a / _AS_MUCH for a, b in zip(before, after, strict=True)):
            found[name], web = torch.zeros_like(t), other
    return found


def _effects(web: Web, points: Points) -> list[float]:
    """Root mean squares of the outputs' derivatives by each layer of a small network with random weights."""
    web, data = _looked_at(web, points, web.original)
    try:
        small = _random(web, data)
        slopes = small.jacobian(data)[0].split([int(layer.live.sum()) for layer in small.layers])
    except NetworkError:  # it does not run so
        return [math.nan]
    return [float(block.square().mean().sqrt()) for block in slopes]


def _looked_at(web: Web, points: Points, network: Network) -> tuple[Web, Data]:
    """What it reads and a network's outputs; of many, any modes of these."""
    y = network.run(points.tensors)
    if web.end is None:
        return web, Data(points.tensors, y)
    modes = probing(y.shape[1])
    return replace(web, modes=modes), Data(points.tensors, y @ modes)


def _random(web: Web, data: Data) -> SmallWeb:
    return fresh_web(web, data, torch.ones(data.outputs.shape[1]).double(), _TRIED, 0)


def fresh_web(web: Web, data: Data, scale: Tensor, hidden: int, seed: int, everything: bool = False) -> SmallWeb:
    """A small network with random weights, whose neurons all vary over the data; it reads a few features, or all."""
    generator, (counts,) = torch.Generator().manual_seed(seed), web.widths(hidden)
    scale = scale if data.stencil is None else torch.ones(scale.shape[-1]).double()
    scale = scale if web.modes is None else scale[: web.modes.shape[1]]
    small = SmallWeb(web, [web.zero(k, counts) for k in range(len(web.network.layers))], counts, scale)
    few = data.first(min(_LOOKED_AT, web.at_once(data.points)))
    original = run_with(web.original, Points(few.inputs)).outputs
    order = [*range(len(small.layers))]
    for k in order:
        layer, x = small.layers[k], small.entering(few)[k]
        x = x.reshape(-1, x.shape[-1])
        features = not everything and web.reads_features(k) and len(x) == len(few) * few.points
        read = leading(x[:: few.points], few.outputs, FEATURES_FOR_EACH * hidden) if features else None
        new = random_layer(
            web.network, (layer.layer,), x, len(layer.matrix), generator, read, _size(original[layer.layer.weight])
        )
        layer.matrix, layer.live = new.matrix, new.live
        if order.count(k) == 1 and not layer.weight().any():  # it reads what others give that come later
            order.append(k)
    return small.counted(few)


def _size(z: Tensor) -> float:
    """The usual deviation of the original's pre-activations (N, ..., m): what follows may count on it."""
    return float(z.reshape(-1, z.shape[-1]).std(0).pow(2).mean().sqrt()) or 1.0
