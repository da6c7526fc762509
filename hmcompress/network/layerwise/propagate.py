"""One pass of the outputs metric: layer after layer in the order of computation, each from compressed inputs.

Every layer's target is the ridge solution that best restores the original pre-activations from what the compressed
predecessors deliver; it is quantised with feedback in the metric of its inputs and sensitivities. Structured layers and
weights that no second moment describes are coded by the engine of the weights metric at the same water level.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from hmcompress.errors import NetworkError
from hmcompress.hmatrix.basics.price import SLOPE
from hmcompress.hmatrix.grids.factors import factorise_towards, mean_diagonal
from hmcompress.hmatrix.grids.feedback import quantise
from hmcompress.hmatrix.patterns.digits import MOST
from hmcompress.layers import to_matrices
from hmcompress.network.layerwise.coded import Coded, Slices, Weighted, lossless
from hmcompress.network.layerwise.fields import as_field
from hmcompress.network.layerwise.low_rank import as_product
from hmcompress.network.layerwise.moments import WIDEST, input_moments, regularised, ridge_target, sampling_noise
from hmcompress.network.layerwise.original import Original
from hmcompress.network.layerwise.positions import as_positions
from hmcompress.network.model.ended import until_all_are_seen
from hmcompress.network.model.network import DenseLayer, Network, in_place_of
from hmcompress.network.model.tangents import layer_jets, run_with_tangents, split_dual

_LEAST_FLOOR = 1e-14
_LONG = 128  # numbers of a vector
_FEW_READ = 0.6  # share of a layer's inputs below which the others are left out of its product


@dataclass(frozen=True)
class Knobs:
    """What the search turns."""

    delta: float  # water level: root of 12 times the distortion of each coefficient, relative to the outputs
    dead_zone: float = 0.1
    mu: float = 1e-2  # share of mean diagonal added to G
    ridge: float = 1e-9  # share of mean diagonal added to C in the target
    floor: float = 0.0  # share of mean diagonal added to C in the metric
    shrinkage: float = 0.0  # the same, in units of the sampling noise of C
    growth: float = 1.0  # later layers have finer steps by this factor each
    variance: float = 0.3  # its share in the order of the columns, against what they explain
    structured: frozenset[str] = frozenset()  # layers that the engine codes
    factored: frozenset[str] = frozenset()  # layers that are coded as a product of two factors
    located: frozenset[str] = frozenset()  # of those: as operators between points, where they are found


Parts = dict[str, Coded]


def run_pass(network: Network, data: Original, knobs: Knobs) -> Parts:
    """Every layer and other weight of the network in coded form, by name. Raises NetworkError where it breaks so."""
    parts = coded_others(data, knobs)
    if not network.layers:
        return parts
    others = decoded(network, data, parts)
    code = _quantising(network, data, knobs, parts)
    if data.order == 0:
        with until_all_are_seen(network, in_place_of, lambda layer, x: _output(network, layer, x, code(layer, [x]))):
            network.run(data.points.tensors, others)
    elif data.order == 1:
        directions = len(data.targets[network.layers[0].weight]) - 1
        split = partial(split_dual, copies=directions, joint=data.points.joint)
        with in_place_of(network, lambda layer, x: _output(network, layer, x, code(layer, split(x)))):
            run_with_tangents(network, data.points, others)
    else:
        for layer in network.layers:
            code(layer, layer_jets(network, data.points, data.order, layer, _substituting(network, parts), others))
    return without_dead_rows(network, parts)


def coded_others(data: Original, knobs: Knobs, exact: bool = False) -> Parts:
    """The weights that no dense layer holds; `exact`: without loss."""
    return {name: lossless(w) if exact else _other(name, data, knobs) for name, w in data.others.items()}


def _other(name: str, data: Original, knobs: Knobs) -> Coded:
    """A weight coded so that its share of the squared error is the water level for each of its entries."""
    w, sensitivity = data.others[name], data.other_sensitivities[name]
    if not sensitivity:
        return lossless(w)
    if name not in data.other_metrics or name in knobs.structured:
        return data.engine.tensor(name, w, knobs.delta * math.sqrt(w.numel() / 12) / sensitivity)
    slices = []
    for matrix, metric in zip(to_matrices(w).double().numpy(), data.other_metrics[name], strict=True):
        grid = metric.quantise(matrix, knobs.delta, knobs.dead_zone)
        slices.append(Weighted(grid.with_live_rows(matrix) if name in data.without_zero_rows else grid))
    coded = Slices(tuple(slices), tuple(w.shape), w.dtype)
    return _cheapest(coded, name, data, knobs.delta)


def _cheapest(coded: Coded, name: str, data: Original, delta: float) -> Coded:
    """A weight as it is coded, or, of few entries, without a metric; these and vectors also without loss (knots of
    splines are all alike), or, long ones, by the engine (a mean over a mesh is smooth). Errors have a price: at this
    water level, what less of them takes."""
    w, candidates = data.others[name], [coded]
    tol = delta / data.other_sensitivities[name] * math.sqrt(w.numel() / 12)
    few = w.numel() <= MOST and name not in data.without_zero_rows
    if few:
        candidates += data.engine.few(name, w, tol)
    if w.ndim == 1 or few:
        candidates.append(data.engine.exact(name, w))
    if w.ndim == 1 and w.numel() >= _LONG:
        candidates.append(data.engine.tensor(name, w, tol))
    if len(candidates) == 1:
        return coded
    matrices = to_matrices(w).double().numpy()

    def cost(part: Coded) -> float:
        changes = to_matrices(part.dense().to(w.dtype)).double().numpy() - matrices
        error = sum(metric.error(c) for metric, c in zip(data.other_metrics[name], changes, strict=True))
        return 8 * len(part.payload(thorough=False)) + SLOPE * error / delta**2

    return min(candidates, key=cost)


def _quantising(network: Network, data: Original, knobs: Knobs, parts: Parts) -> Callable:
    """Layers coded, each once, from their inputs and the derivatives of these."""
    done: list[str] = []

    def code(layer: DenseLayer, xs: list[Tensor]) -> Coded:
        if layer.weight not in parts:
            parts[layer.weight] = _coded(network, layer, xs, data, knobs, knobs.delta / knobs.growth ** len(done))
            done.append(layer.weight)
        return parts[layer.weight]

    return code


def _coded(network: Network, layer: DenseLayer, xs: list[Tensor], data: Original, knobs: Knobs, delta: float) -> Coded:
    name, w, sensitivity = layer.weight, network.matrix(layer).numpy(), data.sensitivities[layer.weight]
    telling = None if name in knobs.structured | knobs.factored else network.telling.get(name)
    if telling is None and network.shape(layer)[1] > WIDEST:
        tol = delta * _relative_level(w, float(xs[0].double().square().mean()), sensitivity)
        return data.engine.matrix(name, w, tol, data.dtypes[name])
    if telling is not None:  # weights of these alone restore what the layer gives: its own are no guide to them
        read = np.append(telling, w.shape[1] - 1) if layer.bias is not None else telling
        xs, w = [x[..., telling] for x in xs], np.zeros((len(w), len(read)))
    moment, target, noise = _aim(w, layer, xs, data, knobs, refitted=name not in network.routed)
    if name in knobs.structured:
        tol = delta * _relative_level(target, mean_diagonal(moment), sensitivity)
        return data.engine.matrix(name, target, tol, data.dtypes[name])
    floor = max(knobs.floor, _LEAST_FLOOR)
    if knobs.shrinkage:
        floor = max(floor, knobs.shrinkage * noise())
    moment = regularised(moment, floor)
    if name in knobs.factored:
        level = moment, regularised(sensitivity, knobs.mu), delta, knobs.dead_zone
        located = name in knobs.located and len(target) <= WIDEST  # which takes products of all pairs of rows
        found = as_positions(target, *level) if located else None
        return found or as_product(target, *level)
    rows = partial(data.factor_of_rows, name, knobs.mu)
    columns = factorise_towards(moment, target, rows(), knobs.variance)
    tried = data.fields.get(name, []) if telling is None else []
    if (field := as_field(target, columns, rows, delta, knobs.dead_zone, tried)) is not None:
        return field
    grid = quantise(target, columns, rows(), delta, knobs.dead_zone)
    return Weighted(grid if telling is None else grid.among(read, network.matrix(layer).shape[1]))


def _aim(
    matrix: np.ndarray, layer: DenseLayer, xs: list[Tensor], data: Original, knobs: Knobs, refitted: bool
) -> tuple[np.ndarray, np.ndarray, Callable[[], float]]:
    """The moment of a layer's inputs, the matrix nearest to its own that it should have, and how to find the moment's
    sampling noise. refitted: inputs and targets are of the same samples, row by row."""
    zs, bias = data.targets[layer.weight] if refitted else xs, layer.bias is not None
    moment, cross = input_moments(xs, zs, data.derivative_weights[layer.weight], bias)
    if not np.isfinite(moment).all():
        raise NetworkError(f"half compressed, the network gives nan or inf at {layer.weight}")
    target = ridge_target(matrix, moment, cross, knobs.ridge) if refitted else matrix
    return moment, target, lambda: sampling_noise(xs[0], bias, moment)


def _relative_level(w: np.ndarray, size: float, sensitivity: np.ndarray) -> float:
    """Relative Frobenius error of w (m, n) for a unit water level, where its error has no preferred direction; size:
    mean square of its inputs."""
    m, n = w.shape
    gain = math.sqrt(mean_diagonal(sensitivity) * size)
    return math.sqrt(m * n / 12) / max(float(np.linalg.norm(w)) * gain, 1e-300)


def _output(network: Network, layer: DenseLayer, x: Tensor, part: Coded) -> Tensor:
    """What the layer gives from its compressed weights, of which columns that are zero are left out."""
    matrix = part.dense().to(network.linear(layer).weight.dtype)
    bias = network.linear(layer).bias if layer.bias is None else matrix[:, -1]
    read = torch.from_numpy(part.live_columns()[: x.shape[-1]])
    if int(read.sum()) < _FEW_READ * len(read):
        return torch.nn.functional.linear(x[..., read], matrix[:, : x.shape[-1]][:, read], bias)
    return torch.nn.functional.linear(x, matrix[:, : x.shape[-1]], bias)


def _substituting(network: Network, parts: Parts) -> Callable:
    def forward(layer: DenseLayer, x: Tensor, z: Tensor) -> Tensor | None:
        return _output(network, layer, x, parts[layer.weight]) if layer.weight in parts else None

    return forward


def without_dead_rows(network: Network, parts: Parts) -> Parts:
    """Rows whose neurons feed only zero columns go; last layer first, so that what they fed can go too."""
    parts = dict(parts)
    for layer, after in reversed(network.feeding_pairs()):
        rows = network.shape(layer)[0]
        parts[layer.weight] = parts[layer.weight].without_rows(~parts[after.weight].live_columns()[:rows])
    return parts


def tensors_of(network: Network, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights and biases by their names from matrices (m, n) or (m, n + 1) by the weights' names."""
    network = network.as_coded(parts)
    tensors = {name: parts[name] for name in network.others if name in parts}
    for layer in network.layers:
        if layer.weight in parts:
            matrix = parts[layer.weight]
            tensors[layer.weight] = matrix if layer.bias is None else matrix[:, :-1]
            if layer.bias is not None:
                tensors[layer.bias] = matrix[:, -1]
    return tensors


def decoded(network: Network, data: Original, parts: Parts) -> dict[str, Tensor]:
    """The tensors that coded parts stand for, and those that stand beside them."""
    own = tensors_of(network, {name: part.dense().to(data.dtypes[name]) for name, part in parts.items()})
    return {**data.standing, **own}
