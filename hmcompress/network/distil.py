"""Small networks that learn what a large one computes: which networks have one, their data, their first weights."""

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from hmcompress.hmatrix.grids.grid import Grid
from hmcompress.network.error import evaluate
from hmcompress.network.features import features_read, leading
from hmcompress.network.inputs import Points
from hmcompress.network.model import DenseLayer, Network
from hmcompress.network.modules import Activation, OperatorNetwork, Stack
from hmcompress.network.problem import Problem
from hmcompress.network.small import Data, Layer, SmallNetwork, SmallStack

_MOST_OUTPUTS = 16
_ROWS = 8192  # samples, where the source has no end
_BIAS = 0.5  # standard deviation of the first biases, for inputs of each layer with deviation 1
_CONSTANT = 1e-6  # share of the largest deviation below which an input says nothing

Widths = tuple[tuple[int, ...], ...]  # neurons of each layer of each stack


def can_be_distilled(problem: Problem) -> bool:
    """Whether a small network may take the place of this one: dense stacks all of whose weights are to be coded."""
    network = problem.network
    if network.kind not in ("mlp", "deeponet") or network.others or problem.order:
        return False
    dense = sum(isinstance(module, nn.Linear) for module in network.module.modules())
    return dense == len(network.layers) and problem.calibration.blocks[0].shape[1] <= _most(network)


def _most(network: Network) -> int:
    """Outputs are few, or pairs of one function and many points."""
    return 2**62 if network.cartesian else _MOST_OUTPUTS


def stacks_of(network: Network) -> dict[str, Stack]:
    """The dense stacks of a built-in network, by the prefix of their layers' paths."""
    module = network.module
    if isinstance(module, OperatorNetwork):
        return {"branch.": module.branch, "trunk.": module.trunk}
    assert isinstance(module, Stack)
    return {"": module}


def learning_data(problem: Problem, count: int = _ROWS) -> tuple[Data, Tensor]:
    """Inputs and outputs for the fit, and the factor (k,) that turns outputs into units of the tolerance's norm.

    Calibration points, and more of the same distribution where the source has no end.
    """
    parts = [problem.calibration.points.pairs(max(count, len(problem.calibration.points)))]
    if problem.calibration.points.joint and len(parts[0]) < count:
        more = problem.source.more(count - len(parts[0]))
        parts += [] if more is None else [more]
    points = Points(tuple(torch.cat(ts) for ts in zip(*(p.tensors for p in parts), strict=True)))
    return with_outputs(problem, points)


def with_outputs(problem: Problem, points: Points, scale: Tensor | None = None) -> tuple[Data, Tensor]:
    """Features of each stack and the original's scaled outputs on joint points, and the scale, if not given theirs."""
    network = problem.network.paired()
    y = evaluate(network, points, 0)[0]
    each = problem.settings.tolerance == "each"
    size = y.norm(dim=0) * y.shape[1] ** 0.5 if each else y.norm().expand(y.shape[1])
    scale = 1 / size.clamp_min(1e-12 * float(y.norm()) + 1e-30) if scale is None else scale
    stacks = stacks_of(network).values()
    with torch.no_grad():
        inputs = tuple(s.features(t).double() for s, t in zip(stacks, points.tensors, strict=True))
    return Data(inputs, y * scale), scale


def fresh(
    problem: Problem, data: Data, scale: Tensor, widths: Widths, seed: int, everything: bool = False
) -> SmallNetwork:
    """A small network of these widths with random weights, whose neurons all vary over the data.

    It reads a few of the Fourier features, where there are any, or everything.
    """
    generator = torch.Generator().manual_seed(seed)
    by_path = {layer.path: layer for layer in problem.network.layers}
    stacks = []
    for i, (prefix, stack) in enumerate(stacks_of(problem.network).items()):
        small = SmallStack([], [copy.deepcopy(f).double() for f in stack.activations if isinstance(f, Activation)])
        for k, m in enumerate(widths[i]):
            module = stack.layers[k]
            assert isinstance(module, nn.Linear)
            x = small.forward(data.inputs[i])[1]
            read = None if k or everything else leading(x, data.outputs, features_read(stack, widths[i][0]))
            small.layers.append(_random(by_path[f"{prefix}layers.{k}"], module, x, m, generator, read))
        stacks.append(small)
    shift = getattr(problem.network.module, "bias", None)
    return SmallNetwork(stacks, scale, float(shift) if isinstance(shift, Tensor) else 0.0)


def _random(
    dense: DenseLayer, module: nn.Linear, x: Tensor, m: int, generator: torch.Generator, read: Tensor | None
) -> Layer:
    """Rows whose pre-activations have about unit deviation on inputs x (N, n), of which only those in `read` count."""
    deviation = x.std(0)
    read = torch.ones_like(deviation, dtype=torch.bool) if read is None else read
    useful = read & (deviation > _CONSTANT * deviation.max())
    weight = torch.randn(m, x.shape[1], generator=generator).double() / useful.sum().clamp_min(1) ** 0.5
    weight = torch.where(useful, weight / deviation.clamp_min(1e-300), 0.0)
    bias = _BIAS * torch.randn(m, generator=generator).double() - weight @ x.mean(0)
    coded = dense.bias is not None
    offset = module.bias[:m].detach().double() if module.bias is not None and not coded else None
    matrix = torch.cat([weight, bias[:, None]], 1) if coded else weight
    live = torch.ones_like(matrix, dtype=torch.bool)
    live[:, : x.shape[1]] = read
    return Layer(dense, matrix, live, offset)


def widths_of(network: Network, hidden: int) -> Widths:
    """Every hidden layer, and the product of a DeepONet, with `hidden` neurons, where it has as many."""
    stacks = stacks_of(network).values()
    operator = len(stacks) > 1
    full = [[layer.out_features for layer in stack.layers if isinstance(layer, nn.Linear)] for stack in stacks]
    return tuple(_sizes(sizes, hidden, operator) for sizes in full)


def _sizes(full: Sequence[int], hidden: int, operator: bool) -> tuple[int, ...]:
    small = tuple(min(hidden, m) for m in full)
    return small if operator else (*small[:-1], full[-1])


def inner_weights(network: Network, hidden: int) -> int:
    """Weights of a small network of this width, not counting more plain inputs of a stack than a layer has neurons."""
    total = 0
    for sizes, stack in zip(widths_of(network, hidden), stacks_of(network).values(), strict=True):
        read = features_read(stack, hidden)
        inputs = (read if stack.features.frequencies is not None else min(read, hidden), *sizes[:-1])
        total += sum(m * (n + 1) for m, n in zip(sizes, inputs, strict=True))
    return total


def placed(network: Network, layer: DenseLayer, grid: Grid) -> Grid:
    """The grid of a layer of few neurons in the first neurons of the network's own layer, a bias in its last column."""
    rows, columns = network.shape(layer)
    m, n = grid.q.shape
    places = np.arange(n)
    if layer.bias is not None:
        columns, places[-1] = columns + 1, columns
    q = np.zeros((rows, columns), np.int64)
    q[:m, places] = grid.q
    of_rows, of_columns = np.zeros(rows, np.int64), np.zeros(columns, np.int64)
    of_rows[:m], of_columns[places] = grid.row_exponents, grid.column_exponents
    return Grid(q, of_rows, of_columns)
