"""One pass of the outputs metric: layer after layer in the order of computation, each from compressed inputs.

Every layer's target is the ridge solution that best restores the original pre-activations from what the compressed
predecessors deliver; it is quantised with feedback in the metric of its inputs and sensitivities.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hmcompress.hmatrix.feedback import factorise, quantise
from hmcompress.hmatrix.grid import Grid
from hmcompress.network.inputs import Points
from hmcompress.network.model import DenseLayer, Network, replaced
from hmcompress.network.moments import regularised, ridge_target, second_moment, with_ones
from hmcompress.network.tangents import layer_jets

_LEAST_FLOOR = 1e-14


@dataclass(frozen=True)
class Knobs:
    """What the search turns."""

    delta: float  # water level: root of 12 times the distortion of each coefficient, relative to the outputs
    dead_zone: float = 0.1
    mu: float = 1e-2  # share of mean diagonal added to G
    ridge: float = 1e-9  # share of mean diagonal added to C in the target
    floor: float = 0.0  # share of mean diagonal added to C in the metric
    growth: float = 1.0  # later layers have finer steps by this factor each


@dataclass(frozen=True)
class Calibration:
    """What passes need of the original network."""

    points: Points
    order: int  # of derivatives
    targets: dict[str, list[Tensor]]  # original pre-activations (rows, m), and their derivatives, of each layer
    sensitivities: dict[str, np.ndarray]
    weights: dict[str, list[float]]  # of the squares of a layer's input derivatives, relative to its inputs'


def run_pass(network: Network, data: Calibration, knobs: Knobs) -> dict[str, Grid]:
    """Grids of all layers, by the name of the weight."""
    grids: dict[str, Grid] = {}
    forward = _quantising(network, data, knobs, grids)
    if data.order == 0:
        with replaced(network, lambda layer, x, z: forward(layer, [x], z)):
            network.run(data.points.tensors)
        return _without_dead_rows(network, grids)
    for layer in network.layers:
        xs = layer_jets(network, data.points, data.order, layer, _substituting(network, grids))
        forward(layer, xs, None)
    return _without_dead_rows(network, grids)


def _quantising(network: Network, data: Calibration, knobs: Knobs, grids: dict[str, Grid]) -> Callable:
    def forward(layer: DenseLayer, xs: list[Tensor], z: Tensor | None) -> Tensor | None:
        if layer.weight not in grids:
            depth = len(grids)
            grids[layer.weight] = _quantised(network, layer, xs, data, knobs, knobs.delta / knobs.growth**depth)
        return None if z is None else _output(network, layer, xs[0], grids[layer.weight])

    return forward


def _quantised(
    network: Network, layer: DenseLayer, xs: list[Tensor], data: Calibration, knobs: Knobs, delta: float
) -> Grid:
    x = _stacked([with_ones(xs[0], layer), *(_with_zeros(x, layer) for x in xs[1:])], data.weights[layer.weight])
    z = _stacked(data.targets[layer.weight], data.weights[layer.weight])
    moment = second_moment(x) * (len(x) / len(xs[0].reshape(-1, xs[0].shape[-1])))
    target = ridge_target(network.matrix(layer).numpy(), x, z, moment * 1.0, knobs.ridge)
    rows = regularised(data.sensitivities[layer.weight], knobs.mu)
    columns = factorise(regularised(moment, max(knobs.floor, _LEAST_FLOOR)))
    return quantise(target, columns, factorise(rows), delta, knobs.dead_zone)


def _with_zeros(x: Tensor, layer: DenseLayer) -> Tensor:
    """A derivative of a layer's inputs: that of the bias's one is zero."""
    flat = x.reshape(-1, x.shape[-1]).double()
    return flat if layer.bias is None else torch.cat([flat, flat.new_zeros(len(flat), 1)], 1)


def _stacked(blocks: list[Tensor], weights: list[float]) -> Tensor:
    scaled = [b.reshape(-1, b.shape[-1]).double() * w**0.5 for b, w in zip(blocks, [1.0, *weights], strict=True)]
    return scaled[0] if len(scaled) == 1 else torch.cat(scaled)


def _output(network: Network, layer: DenseLayer, x: Tensor, grid: Grid) -> Tensor:
    """What the layer gives from its compressed weights, rounded as they are stored."""
    matrix = torch.from_numpy(grid.to_dense()).to(network.dtype)
    if layer.bias is not None:
        return torch.nn.functional.linear(x, matrix[:, :-1], matrix[:, -1])
    return torch.nn.functional.linear(x, matrix, network.linear(layer).bias)


def _substituting(network: Network, grids: dict[str, Grid]) -> Callable:
    def forward(layer: DenseLayer, x: Tensor, z: Tensor) -> Tensor | None:
        return _output(network, layer, x, grids[layer.weight]) if layer.weight in grids else None

    return forward


def _without_dead_rows(network: Network, grids: dict[str, Grid]) -> dict[str, Grid]:
    """Rows whose neurons feed only zero columns go; last layer first, so that what they fed can go too."""
    grids = dict(grids)
    for layer, after in reversed(network.chains()):
        dead = ~grids[after.weight].live_columns[: len(grids[layer.weight].q)]
        grids[layer.weight] = grids[layer.weight].without_rows(dead)
    return grids


def tensors_of(network: Network, matrices: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights and biases by their names from matrices (m, n) or (m, n + 1) by the weights' names."""
    tensors = {}
    for layer in network.layers:
        if layer.weight in matrices:
            matrix = matrices[layer.weight]
            tensors[layer.weight] = matrix if layer.bias is None else matrix[:, :-1]
            if layer.bias is not None:
                tensors[layer.bias] = matrix[:, -1]
    return tensors


def calibrate(
    network: Network, points: Points, order: int, sensitivities: dict[str, np.ndarray], weights: dict[str, list[float]]
) -> Calibration:
    """Original pre-activations of every layer on the calibration points."""
    targets: dict[str, list[Tensor]] = {}
    if order == 0:

        def note(layer: DenseLayer, x: Tensor, z: Tensor) -> None:
            bias = network.linear(layer).bias if layer.bias is None else None
            targets.setdefault(layer.weight, [z if bias is None else z - bias])  # the first call counts

        with replaced(network, note):
            network.run(points.tensors)
        return Calibration(points, order, targets, sensitivities, weights)
    for layer in network.layers:
        xs = layer_jets(network, points, order, layer, lambda layer, x, z: None)
        matrix = network.matrix(layer)
        inputs = [with_ones(xs[0], layer), *(_with_zeros(x, layer) for x in xs[1:])]
        targets[layer.weight] = [x @ matrix.T for x in inputs]
    return Calibration(points, order, targets, sensitivities, weights)
