"""Many outputs of one layer, such as a field on a mesh. A small network learns their modes; its last layer is then what
best makes all outputs of its neurons, coded as the smooth functions that its columns are."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from hmcompress.hmatrix.grids.compact import canonical
from hmcompress.hmatrix.grids.grid import Grid
from hmcompress.hmatrix.grids.smooth import FEW, Layout
from hmcompress.network.bound.error import squared_rows
from hmcompress.network.bound.problem import Problem
from hmcompress.network.joint.chains import Chains
from hmcompress.network.joint.distil import Origin
from hmcompress.network.joint.ends import MOST_OUTPUTS, is_whole, modes_of
from hmcompress.network.joint.small import Data, SmallNetwork
from hmcompress.network.joint.small_web import SmallWeb
from hmcompress.network.joint.stacks import SmallStacks
from hmcompress.network.joint.web import Web
from hmcompress.network.layerwise.coded import Coded, Compact, Smooth, Weighted
from hmcompress.network.layerwise.fields import SHOWN, LastLayer, Metric, layouts_of_modes
from hmcompress.network.model.inputs import Points
from hmcompress.network.model.network import DenseLayer

_LEARNED_FROM = 2048  # samples
_NEARLY = 1.5  # times the least cost, up to which what a layout costs is looked at
_RIDGE = 1e-12  # share of the trace


def with_modes(problem: Problem, origin: Origin, tol: float, most: int = MOST_OUTPUTS) -> Origin | None:
    """What has many outputs of which few modes tell the others well within the tolerance, or None."""
    if problem.order or problem.settings.tolerance != "l2" or not (isinstance(origin, Web) or _alone(origin)):
        return None
    scaled = isinstance(origin, Web) or origin.scaled is not None
    origin = origin.rescaled(problem.calibration.points)
    if scaled and origin.scaled is None:
        return None
    offsets = None if origin.scaled is None else origin.scaled[1]
    modes = modes_of(problem.calibration.blocks[0], offsets, tol, most)
    return None if modes is None else replace(origin, modes=modes)


def _alone(chains: Chains) -> bool:
    """Whether the last layer of a single chain makes all outputs."""
    part, *others = chains.parts
    single = not (others or part.heads or len(part.functions) == len(part.layers))
    return single and is_whole(chains.network, part.layers[-1])


def _end(origin: Origin) -> DenseLayer:
    end = origin.end if isinstance(origin, Web) else origin.parts[0].layers[-1]
    assert end is not None
    return end


def with_all_outputs(network: SmallNetwork, origin: Origin) -> SmallNetwork:
    """A small network that learned the modes, with a last layer that makes all outputs of them."""
    assert origin.modes is not None
    last = network.layers[-1]
    factors = 1.0 if origin.scaled is None else origin.scaled[0][:, None]
    matrix = origin.modes / factors @ last.matrix
    end = replace(last, matrix=matrix, live=matrix != 0)
    if isinstance(network, SmallWeb):
        end.rows = torch.arange(len(matrix))
        return replace(network, web=replace(network.web, modes=None), all_layers=[*network.all_layers[:-1], end])
    assert isinstance(network, SmallStacks)
    (stack,) = network.stacks
    return replace(network, stacks=[replace(stack, layers=[*stack.layers[:-1], end])])


@dataclass(frozen=True)
class Wanted:
    """What a last layer is to give: inputs of the chain, outputs (N, k), and the size of the network's."""

    data: Data
    size: float

    @cached_property
    def square(self) -> float:
        """Of all outputs."""
        return float(squared_rows(self.data.outputs).sum())


@dataclass(frozen=True)
class ManyOutputs:
    """All outputs of a last layer, on points to learn it from and on held-out ones."""

    end: DenseLayer
    columns: int  # of the original's layer, with its bias
    learned: Wanted  # outputs of the layer
    held: Wanted  # outputs of the network, but for an offset
    factors: Tensor  # (k,) that turn outputs of the layer into the network's, but for an offset
    tried: tuple[Layout | None, ...]

    def head(self, network: SmallNetwork, level: float, zone: float) -> Coded:
        """The last layer behind a small network's neurons, in the first columns, at this water level."""
        x = _neurons(network, self.learned.data)
        moment, cross = (x.T @ x).numpy(), (x.T @ self.learned.data.outputs).numpy()
        live = np.diag(moment) > 0
        moment, cross = moment[live][:, live], cross[live]
        moment[np.diag_indices_from(moment)] += _RIDGE * np.trace(moment)
        w = np.linalg.solve(moment, cross).T
        metric = Metric.of(moment * (_size(self.factors) / self.learned.size) ** 2)
        places = self._places(network)[live]
        return min(self._coded(LastLayer(w, metric, level, zone), places), key=lambda found: found[0])[1]

    def _coded(self, wanted: LastLayer, places: np.ndarray) -> Iterator[tuple[float, Coded]]:
        """In each layout that about costs the least, and what it does cost."""
        grids = [(layout, *wanted.grid(layout)) for layout in self.tried]
        least = min(wanted.cost(bits, error) for _, _, bits, error in grids)
        for layout, grid, bits, error in grids:
            if wanted.cost(bits, error) <= _NEARLY * least:
                part = _placed(layout, canonical(grid.among(places, self.columns)))
                yield wanted.cost(8 * len(part.payload(thorough=False)), error), part

    def _places(self, network: SmallNetwork) -> np.ndarray:
        """Columns of the original's layer that the small one's are."""
        last = network.layers[-1]
        places = np.arange(last.inputs) if last.columns is None else last.columns.numpy()
        return places if self.end.bias is None else np.append(places, self.columns - 1)

    def error(self, network: SmallNetwork, head: Coded) -> float:
        """Relative, on held-out points."""
        x = _neurons(network, self.held.data)
        w = (head.dense()[:, self._places(network)] * self.factors.reshape(-1, 1)).T
        square = self.held.square + float((w * (x.T @ x @ w - 2 * (x.T @ self.held.data.outputs))).sum())
        return math.sqrt(max(square, 0.0)) / self.held.size


def _placed(layout: Layout | None, grid: Grid) -> Coded:
    if layout is not None:
        return Smooth(layout, grid)
    return Compact(grid) if np.count_nonzero(grid.q) <= FEW else Weighted(grid)


def _size(factors: Tensor) -> float:
    return float(factors.square().mean().sqrt())


def _neurons(network: SmallNetwork, data: Data) -> Tensor:
    """What the last layer reads (N, n), with a column of ones where there is a bias."""
    last = network.layers[-1]
    if isinstance(network, SmallWeb):
        rows = network.web.at_once(1)
        parts = (network.entering(data.part(begin, begin + rows))[-1] for begin in range(0, len(data), rows))
        return last.extended(torch.cat([*parts]))
    assert isinstance(network, SmallStacks)
    (stack,), (x,) = network.stacks, data.inputs
    return last.extended(stack.forward(x)[0][-1])


def many_outputs(problem: Problem, origin: Origin, tol: float) -> ManyOutputs | None:
    """For what has modes; None for all others."""
    if origin.modes is None:
        return None
    factors, offsets = torch.tensor([[1.0], [0.0]]).double() if origin.scaled is None else origin.scaled
    one = torch.ones(1).double()

    def wanted(points: Points, units: Tensor) -> Wanted:
        data = origin.outputs(points)
        size = float(data.outputs.norm())
        data.outputs.sub_(offsets).div_(units)  # in place, as these may be very many
        return Wanted(data, size)

    learned = wanted(problem.calibration.points.pairs(_LEARNED_FROM), factors)
    end = _end(origin)
    columns = origin.network.shape(end)[1] + (end.bias is not None)
    modes = origin.modes[:, :SHOWN]
    sizes = (learned.data.outputs * factors @ modes).norm(dim=0) / learned.size * _size(factors)
    meshes = layouts_of_modes((modes / factors.reshape(-1, 1)).numpy(), sizes.numpy(), tol)
    return ManyOutputs(end, columns, learned, wanted(problem.held_out.points, one), factors, (None, *meshes))
