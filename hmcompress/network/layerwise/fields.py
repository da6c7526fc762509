"""Layers that write fields: outputs on a line or a mesh, of which their columns are smooth functions."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hmcompress.hmatrix.grids.compact import canonical
from hmcompress.hmatrix.grids.factors import Factor, is_diagonal, pivoted_cholesky
from hmcompress.hmatrix.grids.feedback import in_order, quantise
from hmcompress.hmatrix.grids.grid import Grid, half_octaves, powers
from hmcompress.hmatrix.grids.smooth import MOST_PAIRED, Layout, finer, layouts
from hmcompress.network.layerwise.coded import Smooth
from hmcompress.network.model.network import Network

_LEAST_OUTPUTS = 17  # fewer are no field
_SAMPLES, SHOWN = 1024, 4  # samples of outputs, and their leading modes, by which layouts are chosen,
_COARSE = 0.02  # and the water level then, in squared tolerances
_LOOK = 1e-2  # tolerance at which that is done where none is known
_GAIN = 0.8  # share of what a layer costs as it is, at most: by chance some functions fit noise a little
_TRIED = 2  # layouts besides the plain one
_NAT = 2 * math.log(2)  # times the water level: the squared error that a bit is worth
_NEGLIGIBLE = 1e-7  # pivots below this share of the first one count as this
_SEEN, _TINY = 1e-7, 1e-300  # share of the largest singular value that others are told apart from noise by
_MOST_WORK = 4e9  # multiplications of a layer's errors


@dataclass(frozen=True)
class Metric:
    """Of the neurons that a last layer reads: a pivoted factor of their moment, in squared relative errors."""

    order: np.ndarray
    lower: np.ndarray

    @classmethod
    def of(cls, moment: np.ndarray) -> "Metric":
        return cls(*pivoted_cholesky(moment, _NEGLIGIBLE))

    def steps(self, level: float) -> np.ndarray:
        """Half octaves (n,) of steps at which each coefficient has this distortion."""
        exponents = np.empty(len(self.order), np.int64)
        exponents[self.order] = half_octaves(np.sqrt(12 * level) / np.diag(self.lower))
        return exponents

    def errors(self, change: np.ndarray) -> np.ndarray:
        """Squared (m,) of rows of a change (m, n)."""
        return np.square(change[:, self.order] @ self.lower).sum(1)

    def nearest(self, w: np.ndarray, steps: np.ndarray, zone: float) -> np.ndarray:
        """Integers of w (m, n), each row by the nearest plane."""
        q = in_order(w[:, self.order], self.lower, steps[self.order], zone)
        return q[:, np.argsort(self.order)]


@dataclass(frozen=True)
class LastLayer:
    """What a last layer should be, w (k, n), and what errors of it cost at a water level."""

    w: np.ndarray
    metric: Metric
    level: float
    zone: float

    def grid(self, layout: Layout | None) -> tuple[Grid, float, float]:
        """The coefficients without those of high frequencies that are not worth their bytes, about how many bits they
        take, and their squared error."""
        z = self.w if layout is None else layout.forward(self.w)
        exponents = self.metric.steps(self.level)
        steps = powers(exponents)
        q = self.metric.nearest(z, steps, self.zone)
        bits, error = np.log2(1 + 2 * np.abs(q)).sum(1), self.metric.errors(z - q * steps)
        without = self.metric.errors(z)
        if layout is not None:
            gain = np.cumsum(without - error - _NAT * self.level * bits)
            kept = int(gain.argmax()) + 1 if len(gain) and gain.max() > 0 else 0
            q[kept:], bits[kept:], error[kept:] = 0, 0, without[kept:]
        lost = float(self.metric.errors(self.w).sum() - without.sum())  # what no coefficient tells
        return Grid(q, np.zeros(len(q), np.int64), exponents), float(bits.sum()), float(error.sum()) + lost

    def guess(self, layout: Layout | None) -> float:
        """About what it costs, without feedback."""
        z = self.w if layout is None else layout.forward(self.w)
        bits = float(np.log2(1 + np.square(2 * z / powers(self.metric.steps(self.level)))).sum()) / 2
        lost = 0.0 if layout is None else float(self.metric.errors(self.w).sum() - self.metric.errors(z).sum())
        return self.cost(bits, lost)

    def cost(self, bits: float, error: float) -> float:
        """In bits."""
        return bits + error / (_NAT * self.level)

    def best_layouts(self) -> list[Layout]:
        """Those that cost least, each finer mesh from the best one before."""
        found: dict[Layout, float] = {}
        meshes: list[tuple[int, ...]] = [(len(self.w),)]
        while meshes:
            new = {layout: self.cost(*self.grid(layout)[1:]) for mesh in meshes for layout in layouts(mesh)}
            best = min(new, key=new.__getitem__)
            meshes = [] if found and new[best] >= min(found.values()) else [*finer(best.sizes)]
            found |= new
        return sorted(found, key=found.__getitem__)[:_TRIED]


def layouts_of_modes(modes: np.ndarray, sizes: np.ndarray, tol: float) -> list[Layout]:
    """That are cheapest for neurons that are some modes (k, n), of these sizes (n,) relative to all outputs."""
    return _of_modes(modes, sizes, tol).best_layouts()


def _of_modes(modes: np.ndarray, sizes: np.ndarray, tol: float) -> LastLayer:
    return LastLayer(modes, Metric.of(np.diag(sizes**2)), _COARSE * tol**2, 0.0)


def layouts_of_fields(
    network: Network, targets: Mapping[str, Sequence[Tensor]], sensitivities: Mapping[str, np.ndarray]
) -> dict[str, list[Layout]]:
    """Of the layers that write fields, as what they give (rows, m) shows."""
    left = {layer.weight for layer, _ in network.feeding_pairs()}
    left |= {x.weight for x in network.layers if network.shape(x)[0] * network.shape(x)[1] ** 2 > _MOST_WORK}
    return {
        name: found
        for name, (z, *_) in targets.items()
        if name not in left and _may_be_a_field(sensitivities[name]) and (found := _layouts_of_outputs(z))
    }


def _may_be_a_field(sensitivity: np.ndarray) -> bool:
    return len(sensitivity) >= _LEAST_OUTPUTS and (is_diagonal(sensitivity) or len(sensitivity) <= MOST_PAIRED)


def _layouts_of_outputs(z: Tensor) -> list[Layout]:
    sizes, modes = leading_modes(z.detach().reshape(-1, z.shape[-1])[:_SAMPLES].double())
    if not sizes.any():
        return []
    wanted = _of_modes(modes[:, :SHOWN].numpy(), (sizes[:SHOWN] / sizes.norm()).numpy(), _LOOK)
    most = _GAIN * wanted.guess(None)
    return [layout for layout in wanted.best_layouts() if wanted.guess(layout) <= most]


def leading_modes(y: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values (k,) of outputs (N, m), float64, and the directions (m, k) of the outputs that belong to them.

    Of more outputs than samples by products of samples, in which what is below 1e-7 of the largest is lost.
    """
    if y.shape[0] >= y.shape[1]:
        _, sizes, modes = torch.linalg.svd(y, full_matrices=False)
        return sizes, modes.T
    squares, left = torch.linalg.eigh(y @ y.T)
    sizes = squares.flip(0).clamp_min(0).sqrt()
    seen = max(int((sizes > _SEEN * sizes[0]).sum()), 1)
    modes = y.T @ left.flip(1)[:, :seen]
    return sizes[:seen], modes / modes.norm(dim=0).clamp_min(_TINY)


def as_field(
    w: np.ndarray,
    columns: Factor,
    rows: Callable[[Layout | None], Factor],
    delta: float,
    zone: float,
    tried: Sequence[Layout],
) -> Smooth | None:
    """w (m, n) in the cheapest of some layouts, at a water level `delta` in the metric of its columns and of what
    coefficients in a layout weigh. None: as it is costs less."""
    if not tried:
        return None
    weight = float(np.sqrt(np.mean(np.square(rows(None).pivots))))
    wanted = LastLayer(w, Metric(columns.order, columns.matrix * weight), delta**2 / 12, zone)
    cost, layout = min(((wanted.guess(layout), layout) for layout in tried), key=lambda found: found[0])
    if cost > _GAIN * wanted.guess(None):
        return None
    if rows(None).is_even:
        return Smooth(layout, canonical(wanted.grid(layout)[0]))
    return Smooth(layout, canonical(quantise(layout.forward(w), columns, rows(layout), delta, zone, vector=True)))
