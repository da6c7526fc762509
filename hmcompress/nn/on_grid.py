"""Put a trained network onto a grid of steps, column by column: the free columns make up for what rounding changes.

After each column a damped Gauss-Newton step brings the outputs back to those of the trained network. With N samples and
many more weights it needs only the N x N tangent kernel of the free columns (the dual form: Goldshlager et al. 2024).
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from hmcompress.hmatrix.grid import Grid, powers
from hmcompress.network.modules import Stack

_SAMPLES = 1200  # of a step, drawn anew for each one
_STEEP = 0.5  # share of them that are drawn where the outputs are steep
_DEAD_ZONE = 0.1  # how much more than half a step a number must be to round away from zero
_DAMPING = (1e-6, 1e-2)  # smallest and largest, relative to the mean diagonal of the kernel
_SHORTEST = 8  # halvings of a step


class Target:
    """What the trained network computes on a pool of points x (N, d), and how likely each point is drawn."""

    def __init__(self, network: Stack, x: Tensor, seed: int = 0) -> None:
        self._x = x.double().clone().requires_grad_()
        y = network(self._x)
        steepness = torch.autograd.grad(y.sum(), self._x)[0].norm(dim=1) + torch.finfo(x.dtype).tiny
        self._x, self._y = self._x.detach(), y.detach()
        self._share = (1 - _STEEP) / len(x) + _STEEP * steepness / steepness.sum()
        self._random = torch.Generator().manual_seed(seed)

    def draw(self) -> tuple[Tensor, Tensor, Tensor]:
        """Points (n, d), outputs (n, k), and the weights (n, 1) that make their squares a relative error's."""
        n = min(_SAMPLES, len(self._x))
        index = torch.multinomial(self._share, n, generator=self._random)
        weight = (self._share[index] * n).rsqrt() / self._y.norm()
        return self._x[index], self._y[index], weight[:, None]


class GridFit:
    """A copy of a network whose columns go onto a grid, one after the other."""

    def __init__(self, network: Stack, grids: Sequence[Grid], x: Tensor, seed: int = 0) -> None:
        """network: in float64; grids: steps of each layer (m, n + 1), its bias last, or (m, n) where it has none."""
        self.network = copy.deepcopy(network).requires_grad_(True)
        self._layers = [layer for layer in self.network.layers if isinstance(layer, nn.Linear)]
        self._grids = [replace(grid, q=grid.q.copy()) for grid in grids]
        self._free = [torch.ones(grid.q.shape[1], dtype=torch.bool) for grid in grids]
        self._target, self._damping = Target(network, x, seed), _DAMPING[0]

    def run(self) -> list[Grid]:
        """Every column, layer by layer, the coarsest first; the grids with the integers that were found."""
        for k, grid in enumerate(self._grids):
            for column in np.argsort(-grid.column_exponents, kind="stable"):
                self._round(k, int(column))
                if any(bool(free.any()) for free in self._free):
                    self._step()
        return self._grids

    @torch.no_grad()
    def _round(self, k: int, column: int) -> None:
        grid, values = self._grids[k], self._column(k, column)
        steps = torch.from_numpy(powers(grid.row_exponents) * powers(grid.column_exponents[column : column + 1]))
        q = rounded(values / steps)
        grid.q[:, column] = q.numpy().astype(np.int64)
        values.copy_(q * steps)
        self._free[k][column] = False

    def _column(self, k: int, column: int) -> Tensor:
        """A column of a layer's weight, or its bias, as a view."""
        layer = self._layers[k]
        return layer.weight[:, column] if column < layer.in_features else layer.bias

    def _step(self) -> None:
        x, y, weight = self._target.draw()
        turn = torch.arange(len(x)) % y.shape[1]  # outputs take turns
        output, inputs, sums = self._traced(x)
        residual = ((output - y) * weight).gather(1, turn[:, None])[:, 0] * y.shape[1] ** 0.5
        slopes = torch.autograd.grad(residual.sum(), sums, retain_graph=True)
        kernel = sum((self._part(k, inputs[k]) * (g @ g.T) for k, g in enumerate(slopes)), torch.zeros(()))
        kernel.diagonal().add_(self._damping * kernel.diagonal().mean())
        solved = torch.cholesky_solve(residual.detach()[:, None], torch.linalg.cholesky(kernel))[:, 0]
        way = torch.autograd.grad(residual, self._parameters(), grad_outputs=solved)
        self._search(x, y, weight, list(self._masked(way)))

    def _part(self, k: int, inputs: Tensor) -> Tensor:
        """Products of the inputs of a layer's free columns."""
        free, n = self._free[k], self._layers[k].in_features
        x = inputs.detach()[:, free[:n]]
        return x @ x.T + float(free[n:].any())

    def _traced(self, x: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Outputs, and of each layer its inputs and its products before the bias."""
        inputs, sums = [], []
        x, after = self.network.features(x), list(self.network.activations)
        for k, layer in enumerate(self._layers):
            inputs.append(x)
            sums.append(x @ layer.weight.T)
            x = sums[-1] if layer.bias is None else sums[-1] + layer.bias
            if k + 1 < len(self._layers) or self.network.last:
                x = after[k](x)
        return x, inputs, sums

    def _parameters(self) -> list[Tensor]:
        return [p for layer in self._layers for p in (layer.weight, layer.bias) if p is not None]

    def _masked(self, way: Sequence[Tensor]) -> Iterator[Tensor]:
        """A direction without its part in columns that are on the grid already."""
        parts = iter(way)
        for free, layer in zip(self._free, self._layers, strict=True):
            yield next(parts) * free[: layer.in_features]
            if layer.bias is not None:
                yield next(parts) * free[-1]

    @torch.no_grad()
    def _search(self, x: Tensor, y: Tensor, weight: Tensor, way: Sequence[Tensor]) -> None:
        """Halve the step until the error stops falling; damp more where only short steps help."""
        parameters = self._parameters()
        before = [p.clone() for p in parameters]
        best, least = 0.0, self._loss(x, y, weight)
        for size in (0.5**k for k in range(_SHORTEST)):
            _move(parameters, before, way, size)
            tried = self._loss(x, y, weight)
            if tried < least:
                best, least = size, tried
            elif best:
                break
        _move(parameters, before, way, best)
        smallest, largest = _DAMPING
        self._damping = max(smallest, self._damping / 3) if best >= 0.5 else min(largest, self._damping * 2)

    def _loss(self, x: Tensor, y: Tensor, weight: Tensor) -> float:
        return float(((self.network(x) - y) * weight).square().sum())


def rounded(values: Tensor) -> Tensor:
    """The nearest integers, zero a little wider than the others."""
    size = values.abs()
    return values.sign() * (size + 0.5 - _DEAD_ZONE * (size < 1)).floor()


def _move(parameters: Sequence[Tensor], before: Sequence[Tensor], way: Sequence[Tensor], size: float) -> None:
    for parameter, origin, direction in zip(parameters, before, way, strict=True):
        parameter.copy_(origin - size * direction)
