"""What passes need of the original network: targets and sensitivities of its layers, and its other weights."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from hmcompress.hmatrix.grids.factors import Factor, factorise, mean_diagonal
from hmcompress.hmatrix.grids.smooth import Layout
from hmcompress.network.bound.error import scaled
from hmcompress.network.bound.problem import Problem
from hmcompress.network.layerwise.coded import Engine
from hmcompress.network.layerwise.fields import layouts_of_fields
from hmcompress.network.layerwise.gradients import Metric, gradient_metrics
from hmcompress.network.layerwise.moments import Scale, regularised, sensitivities, with_column
from hmcompress.network.layerwise.others import perturbed_moments, perturbed_sensitivities, without_zero_rows
from hmcompress.network.model.ended import until_all_are_seen
from hmcompress.network.model.forward_size import ForwardSize, forward_size
from hmcompress.network.model.inputs import Points
from hmcompress.network.model.network import DenseLayer, Network, replaced
from hmcompress.network.model.tangents import layer_jets

_SENSITIVITY_ROWS = 2048
_COUNTED = 4  # samples of which the rows of layers are counted
_FEW, _FEW_SEEN = 64, 32  # samples that gradients are taken of at least, and that passes see
_GRADIENT_NUMBERS, _HELD_NUMBERS = 3e8, 1.5e8  # that operations write for gradients, and that are held for them at once
_PERTURBED_NUMBERS, _FEWEST = 4e8, 4  # that they write while weights are perturbed; samples, at least
_TRIED_NUMBERS, _FEWEST_TRIED = 1e8, 2  # the same while rows of them are zero
_LAYER_NUMBERS = 1e8  # inputs and outputs of all layers that a pass sees, about
_ROWS_EACH = 16  # rows that it sees at least for each input of a layer


@dataclass(frozen=True)
class Original:
    """What passes need of the original network."""

    points: Points
    order: int  # of derivatives
    targets: dict[str, list[Tensor]]  # original pre-activations (rows, m), and their derivatives, of each layer
    sensitivities: dict[str, np.ndarray]
    derivative_weights: dict[str, list[float]]  # of the squares of a layer's input derivatives, relative to its inputs'
    others: dict[str, Tensor] = field(default_factory=dict)  # further weights
    other_sensitivities: dict[str, float] = field(default_factory=dict)  # relative output over relative weight error
    other_metrics: dict[str, list[Metric]] = field(default_factory=dict)  # of those whose gradients are known
    dtypes: dict[str, torch.dtype] = field(default_factory=dict)
    engine: Engine = field(default_factory=Engine)
    size: ForwardSize = field(default_factory=ForwardSize)
    without_zero_rows: frozenset[str] = frozenset()  # further weights with which a row of zeros breaks the network
    standing: Mapping[str, Tensor] = field(default_factory=dict)  # what weights with their own tolerances decode to
    fields: dict[str, list[Layout]] = field(default_factory=dict)  # of the layers that write some, cheapest first
    _factors: dict[tuple[str, Layout | None], tuple[float, Factor]] = field(default_factory=dict)  # the last of each

    def factor_of_rows(self, name: str, mu: float, layout: Layout | None = None) -> Factor:
        """Of a layer's sensitivities with a share `mu` of their mean diagonal, or of these in a layout."""
        known = self._factors.get((name, layout))
        if known is None or known[0] != mu:
            moment = regularised(self.sensitivities[name], mu)
            moment = moment if layout is None else layout.moment(moment)
            known = self._factors[name, layout] = (mu, factorise(moment))
        return known[1]


def prepare(problem: Problem, tensors: Mapping[str, Tensor], effort: str) -> Original:
    """Moments of the original network that every pass needs. Raises NetworkError for weights without effect."""
    network, points, order, ref = problem.network, problem.calibration.points, problem.order, problem.calibration.blocks
    size = forward_size(network, points)
    most = size.samples(_GRADIENT_NUMBERS, _FEW)  # samples that gradients are taken of
    few = points.take(slice(0, min(_SENSITIVITY_ROWS, most)))
    share, kind, seed = len(points) / len(few), problem.settings.tolerance, problem.settings.seed

    def scale(blocks: list[Tensor]) -> list[Tensor]:
        return scaled(kind, ref[: len(blocks)], blocks)

    total = sensitivities(network, few, scale, order, seed, size.samples(_HELD_NUMBERS, 1), most)
    blind = [layer for layer in network.layers if not np.any(total.get(layer.weight, 0.0))]
    total |= {n: g / share for n, g in perturbed_moments(network, points, blind, kind).items()}
    names = (*network.others, *(layer.weight for layer in network.layers))
    seen = points if order else points_of_passes(network, points)
    targets = original_targets(network, seen, order)
    return Original(
        points=seen,
        order=order,
        targets=targets,
        sensitivities={name: share * g for name, g in total.items()},
        derivative_weights=_weights_of_derivatives(problem, few, scale, total),
        others={name: tensors[name] for name in network.others},
        other_sensitivities=perturbed_sensitivities(network, points, tensors, kind, _perturbed(network, size)),
        other_metrics=gradient_metrics(network, points, tensors, scale, seed, most, size.numbers),
        dtypes={name: tensors[name].dtype for name in names},
        engine=Engine(effort),
        without_zero_rows=without_zero_rows(network, points, tensors, _tried(network, size)),
        size=size,
        fields=layouts_of_fields(network, targets, total),
    )


def _perturbed(network: Network, size: ForwardSize) -> int:
    return perturbed_samples(size, len(network.others))


def perturbed_samples(size: ForwardSize, weights: int) -> int:
    """How many samples are looked at for each of so many weights."""
    return size.samples(_PERTURBED_NUMBERS / max(weights, 1), _FEWEST)


def _tried(network: Network, size: ForwardSize) -> int:
    return size.samples(_TRIED_NUMBERS / max(len(network.others), 1), _FEWEST_TRIED)


def points_of_passes(network: Network, points: Points) -> Points:
    """All calibration points, or as many as passes need where layers see many rows of each: tokens, edges, places."""
    rows = _rows_of_layers(network, points)
    sizes = {layer: rows.get(layer.weight, 0) * sum(network.shape(layer)) for layer in network.layers}
    if sum(sizes.values()) * len(points) <= _LAYER_NUMBERS:
        return points
    wanted = (_ROWS_EACH * network.shape(layer)[1] / rows[layer.weight] for layer in network.layers if sizes[layer])
    return points.take(slice(0, math.ceil(max(_FEW_SEEN, *wanted, _LAYER_NUMBERS / sum(sizes.values())))))


def _rows_of_layers(network: Network, points: Points) -> dict[str, float]:
    """Rows of each layer for a sample."""
    few, rows = points.take(slice(0, _COUNTED)), dict[str, float]()

    def note(layer: DenseLayer, x: Tensor, z: Tensor) -> None:
        rows[layer.weight] = z.numel() / z.shape[-1] / len(few)

    with replaced(network, note):
        network.run(few.tensors)
    return rows


def _weights_of_derivatives(
    problem: Problem, few: Points, scale: Scale, total: Mapping[str, np.ndarray]
) -> dict[str, list[float]]:
    """What squares of each layer's input derivatives count, relative to its inputs'; nothing where none are bounded."""
    names, (outputs, *derivatives) = [layer.weight for layer in problem.network.layers], problem.calibration.blocks
    if not problem.order:
        return {name: [] for name in names}
    plain = sensitivities(problem.network, few, lambda b: scale(b)[:1], problem.order, problem.settings.seed)
    sizes = [float(outputs.norm() / block.norm().clamp_min(1e-30)) ** 2 for block in derivatives]
    shares = {n: mean_diagonal(plain.get(n, total[n])) / max(mean_diagonal(total[n]), 1e-300) for n in names}
    return {name: [share * size for size in sizes] for name, share in shares.items()}


def original_targets(network: Network, points: Points, order: int) -> dict[str, list[Tensor]]:
    """Pre-activations of every layer in the original network, and their derivatives."""
    targets: dict[str, list[Tensor]] = {}
    if not network.layers:
        return targets
    if order == 0:

        def note(layer: DenseLayer, x: Tensor, z: Tensor) -> None:
            bias = network.linear(layer).bias if layer.bias is None else None
            z = z.detach()  # some modules take gradients themselves
            targets[layer.weight] = [z.clone() if bias is None else z - bias]  # what follows may change z itself

        with until_all_are_seen(network, replaced, note):
            network.run(points.tensors)
        return targets
    for layer in network.layers:
        xs = layer_jets(network, points, order, layer, lambda layer, x, z: None)
        matrix = network.matrix(layer)
        targets[layer.weight] = [with_column(x, layer, k == 0) @ matrix.T for k, x in enumerate(xs)]
    return targets
