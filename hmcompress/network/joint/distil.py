"""Small networks that learn what the chains of a large one compute: their data, their first weights."""

import copy
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from hmcompress.errors import NetworkError
from hmcompress.hmatrix.grids.grid import Grid
from hmcompress.network.bound.error import unit_of
from hmcompress.network.bound.problem import Problem
from hmcompress.network.joint.chains import Chains, built_in_chains
from hmcompress.network.joint.features import independent, leading
from hmcompress.network.joint.first_weights import random_layer
from hmcompress.network.joint.small import Data, Layer, SmallNetwork
from hmcompress.network.joint.stack import SmallStack
from hmcompress.network.joint.stacks import SmallStacks
from hmcompress.network.joint.tracing import found_chains
from hmcompress.network.joint.web import Web
from hmcompress.network.model.inputs import Points
from hmcompress.network.model.network import DenseLayer, Network

LEARNED_ROWS = 8192  # samples, where the source has no end
_STEP = 1e-4  # of the range of a coordinate, between points whose difference is a derivative
_AT_ONCE = 1 << 27  # outputs of the original
_CONSTANT = 1e-6  # share of the largest step below which a coordinate has none

Origin = Chains | Web


@dataclass(frozen=True)
class Fit:
    """A network that learned, its error over what is near enough, and what that took."""

    network: SmallNetwork
    ratio: float
    work: float  # multiplications
    wary: bool = False  # a part of the samples taught what does not hold for the others
    hopeless: bool = False  # too much work, or too few samples to say what the function is elsewhere


def chains_of(problem: Problem) -> Chains | None:
    """The chains for which a small network may stand. None: there are others than dense layers, or many outputs."""
    network, last = problem.network, problem.calibration.points.tensors[-1]
    if problem.order and (last.ndim != 2 or (network.built_in and network.dtype != torch.float64)):
        return None
    if network.kind not in ("mlp", "deeponet", "factory"):
        return None
    if network.kind != "factory":
        return built_in_chains(network, problem.calibration.blocks[0].shape[1])
    try:
        return found_chains(network, problem.calibration.points, problem.settings.tolerance == "l2")
    except NetworkError:  # it runs in its own precision alone, or takes gradients of what the chains compute
        return None


def learning_data(problem: Problem, chains: Origin, count: int = LEARNED_ROWS) -> tuple[Data, Tensor]:
    """Inputs and outputs for the fit, and the factor (k,) that turns outputs into units of the tolerance's norm.

    Calibration points, and more of the same distribution where the source has no end.
    """
    own = problem.calibration.points
    more = problem.source.more(count - len(own)) if len(own) < count else None
    parts = [own.pairs(len(own) if more else max(count, len(own))), *([more.pairs(len(more))] if more else [])]
    points = Points(tuple(torch.cat(ts) for ts in zip(*(p.tensors for p in parts), strict=True)))
    return with_outputs(problem, chains, points)


def with_outputs(problem: Problem, chains: Origin, points: Points, scale: Tensor | None = None) -> tuple[Data, Tensor]:
    """What enters the chains and the original's scaled outputs on joint points, and the scale, if not given theirs;
    with derivatives, a scale (B, k) for each of the blocks."""
    if problem.order:
        return _with_derivatives(problem, chains, points, scale)
    if chains.modes is not None:
        return _with_modes(problem, chains, points, scale)
    found = chains.outputs(points)
    scale = _scale(problem, found.outputs) if scale is None else scale
    return found.scaled(scale), scale


def _with_modes(problem: Problem, chains: Origin, points: Points, scale: Tensor | None) -> tuple[Data, Tensor]:
    """The same for the modes of outputs, some samples after others: all outputs are far more numbers."""
    assert chains.modes is not None
    outputs = len(chains.modes)
    if len(points) > (rows := max(_AT_ONCE // outputs, 1)):
        parts = [points.take(slice(begin, begin + rows)) for begin in range(0, len(points), rows)]
        if scale is None:
            units = (_scale(problem, chains.outputs(part).outputs) for part in parts)
            scale = torch.stack([*units]).pow(-2).sum(0).rsqrt()
        found = [_with_modes(problem, chains, part, scale)[0] for part in parts]
        inputs = tuple(torch.cat(xs) for xs in zip(*(part.inputs for part in found), strict=True))
        return Data(inputs, torch.cat([part.outputs for part in found])), scale
    data = chains.outputs(points)
    scale = _scale(problem, data.outputs) if scale is None else scale
    data.outputs.mul_(scale)
    if chains.scaled is not None:
        data.outputs.sub_(chains.scaled[1] * scale)
    return replace(data, outputs=data.outputs @ chains.modes), scale


def _scale(problem: Problem, y: Tensor) -> Tensor:
    return 1 / unit_of(problem.settings.tolerance, y).expand(y.shape[1])


def _with_derivatives(problem: Problem, chains: Origin, points: Points, scale: Tensor | None) -> tuple[Data, Tensor]:
    """Outputs and their derivatives by differences, those of the small network as those of the original."""
    around, stencil = stencil_of(points.to(torch.float64), problem.order)
    found = chains.outputs(around)
    outputs = found.outputs.shape[1]
    whole = replace(found, stencil=stencil[:, None].expand(-1, outputs, -1))
    blocks = whole.combined(found.outputs.T).T.split(outputs, 1)
    if scale is None:
        scale = torch.stack([_scale(problem, block) for block in blocks]) / len(blocks) ** 0.5
    together = torch.cat([block * s for block, s in zip(blocks, scale, strict=True)], 1)
    stencil = stencil[:, None] * scale[:, :, None]
    return replace(found, outputs=together, stencil=stencil, beyond=None), scale


def stencil_of(points: Points, order: int) -> tuple[Points, Tensor]:
    """Points around each sample along the coordinates of the last input, one after another, and what makes values and
    central differences (B, S) of a function at them."""
    *others, moved = points.tensors
    steps = _STEP * (moved.amax(0) - moved.amin(0)).clamp_min(_CONSTANT)
    ends = torch.diag(steps).repeat_interleave(2, 0) * torch.tensor([1.0, -1.0]).repeat(len(steps))[:, None]
    offsets = torch.cat([torch.zeros(1, len(steps)), ends]).double()
    around = (moved[:, None] + offsets).flatten(0, 1)
    stencil = torch.zeros(1 + order * len(steps), len(offsets)).double()
    stencil[0, 0] = 1
    for d, h in enumerate(steps.tolist()):
        up, down = 1 + 2 * d, 2 + 2 * d
        stencil[1 + d, up], stencil[1 + d, down] = 1 / (2 * h), -1 / (2 * h)
        if order > 1:
            stencil[1 + len(steps) + d, [up, 0, down]] = torch.tensor([1.0, -2.0, 1.0]).double() / h**2
    return Points((*(t.repeat_interleave(len(offsets), 0) for t in others), around)), stencil


def fresh(chains: Chains, data: Data, scale: Tensor, hidden: int, seed: int, everything: bool = False) -> SmallStacks:
    """A small network of this width with random weights, whose neurons all vary over the data.

    It reads a few of the features, where there are any, or everything.
    """
    generator = torch.Generator().manual_seed(seed)
    stacks = []
    for i, (widths, chain) in enumerate(zip(chains.widths(hidden), chains.parts, strict=True)):
        small = SmallStack([], [copy.deepcopy(f).double() for f in chain.functions])
        for k, m in enumerate(widths):
            layer = chain.layers[k]
            x = small.forward(data.inputs[i])[1]
            read = None if k else _read(chains, i, x[:: data.points], data, None if everything else widths[0])
            heads = chain.heads if k == len(chain.layers) - 1 else ()
            small.layers.append(random_layer(chains.network, (layer, *heads), x, m, generator, read))
        stacks.append(small)
    if data.mix is not None or data.stencil is not None:
        scale = torch.ones(scale.shape[-1] if data.mix is None else data.mix.shape[2]).double()
    if chains.modes is not None:
        scale = scale[: chains.modes.shape[1]]
    return SmallStacks(stacks, scale, chains.shift, chains.product)


def _read(chains: Chains, i: int, x: Tensor, data: Data, hidden: int | None) -> Tensor:
    """Mask of the inputs x (N, n) that a chain's first layer reads: all features, or those that a layer of so many
    neurons needs; of plain inputs those from which the others do not follow."""
    if not chains.parts[i].features:
        return independent(x)
    return leading(x, data.outputs, x.shape[1] if hidden is None else chains.reads(i, hidden))


def placed(network: Network, layer: Layer, grid: Grid) -> dict[str, Grid]:
    """The grids of the network's own layers that a layer of a small one stands for, by their weights."""
    if layer.rows is not None and layer.columns is not None:
        return {layer.layer.weight: in_places(network, layer.layer, grid, layer.rows.numpy(), layer.columns.numpy())}
    return {x.weight: first_neurons(network, x, grid.take_rows(rows)) for x, rows in layer.parts()}


def first_neurons(network: Network, layer: DenseLayer, grid: Grid) -> Grid:
    """The grid of a layer of few neurons in the first neurons of the network's own layer, a bias in its last column."""
    m, n = grid.q.shape
    return in_places(network, layer, grid, np.arange(m), np.arange(n - (layer.bias is not None)))


def in_places(network: Network, layer: DenseLayer, grid: Grid, rows: np.ndarray, columns: np.ndarray) -> Grid:
    """The same in other rows and columns."""
    m, n = network.shape(layer)
    columns = columns if layer.bias is None else np.append(columns, n)
    n += layer.bias is not None
    q = np.zeros((m, n), np.int64)
    q[np.ix_(rows, columns)] = grid.q
    of_rows, of_columns = np.zeros(m, np.int64), np.zeros(n, np.int64)
    of_rows[rows], of_columns[columns] = grid.row_exponents, grid.column_exponents
    return Grid(q, of_rows, of_columns)
