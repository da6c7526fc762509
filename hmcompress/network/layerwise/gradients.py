"""Weights whose inputs are not at hand (convolutions, gates, attention): a metric from the outputs' gradients by them.

The Gauss-Newton matrix of a weight (m, n) is taken as the product of a moment of its rows and one of its columns,
E[g g^T] (x) E[g^T g] / trace, g the gradient of a random projection of the outputs (as in Shampoo, Gupta et al. 2018).
For dense layers of independent inputs and sensitivities these are their second moments. The modes of a spectral weight
act apart from each other, each on inputs of its own: there, and of kernels too long for one metric, each gets its own.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hmcompress.errors import NetworkError
from hmcompress.hmatrix.grids.factors import Factor, factorise, factorise_towards
from hmcompress.hmatrix.grids.feedback import Part, quantise, quantise_apart
from hmcompress.hmatrix.grids.grid import Grid
from hmcompress.layers import layout, real_layout, to_matrices
from hmcompress.network.layerwise.moments import WIDEST, Scale, regularised
from hmcompress.network.model.formulas import Formulas
from hmcompress.network.model.inputs import Points
from hmcompress.network.model.network import Network, own_tensors
from hmcompress.network.model.places import tensors_of_module

_ROWS = 1024  # samples
_GRADIENTS = 128  # of as many groups of samples
_PROJECTED = 512  # gradients, of fewer samples
_WRITTEN, _MULTIPLIED = 3e8, 3e11  # numbers that these write at most, and multiplications
_TRIED = 2  # samples that tell how many outputs there are
_MOST_WORK = 2e9  # multiplications: more, and longer sides, are left to the engine
_LOADING, _VARIANCE = 1e-2, 0.3
_HALF_A_TIME = 0.5
_LEAST_MODE = 1e-9  # share of the largest mode's sensitivity that others have at least
_TINY = 1e-300


@dataclass(frozen=True)
class WholeMetric:
    """||R^T dW L||^2: factors R of the rows' moment, L of the columns'."""

    rows: Factor
    columns: Factor
    vector: bool = False

    def quantise(self, w: np.ndarray, delta: float, dead_zone: float) -> Grid:
        return quantise(w, self.columns, self.rows, delta, dead_zone, vector=self.vector)

    def error(self, change: np.ndarray) -> float:
        """Of a change (m, n)."""
        return _weighed(change, self.rows, self.columns)


@dataclass(frozen=True)
class ModesMetric:
    """The sum of such ones, each of some columns."""

    parts: tuple[Part, ...]

    def quantise(self, w: np.ndarray, delta: float, dead_zone: float) -> Grid:
        return quantise_apart(w, self.parts, delta, dead_zone)

    def error(self, change: np.ndarray) -> float:
        """Of a change (m, n)."""
        return sum(_weighed(change[:, p.columns], p.rows_factor, p.columns_factor) for p in self.parts)


def _weighed(change: np.ndarray, rows: Factor, columns: Factor) -> float:
    return float(np.sum((rows.weighed(change[np.ix_(rows.order, columns.order)]) @ columns.matrix) ** 2))


Metric = WholeMetric | ModesMetric  # squared relative error of the outputs that a change of a matrix (m, n) makes


def gradient_metrics(
    network: Network,
    points: Points,
    tensors: Mapping[str, Tensor],
    scale: Scale,
    seed: int,
    most: int = _ROWS,
    written: float = 0.0,
) -> dict[str, list[Metric]]:
    """Of each other weight, one for each of its matrices; not of long ones, nor where no gradient arrives.

    most: samples that are looked at. written: numbers that a forward pass writes for one, where they are known.
    """
    names = [name for name in network.others if _modes(tensors[name])]
    few = points.take(slice(0, min(_ROWS, most)))
    rounds = _rounds(network, points, written)
    try:
        sums = _summed(network, few, names, scale, seed, rounds)
    except NetworkError:  # some operations have no gradients by their statistics
        sums = _summed(network, few, [name for name in names if tensors[name].ndim > 1], scale, seed, rounds)
    share = len(points) / len(few)
    return {
        name: [m.metric(w, share) for m, w in zip(moments, to_matrices(tensors[name]).double().numpy(), strict=True)]
        for name, moments in sums.items()
        if any(m.any() for m in moments)
    }


def _rounds(network: Network, points: Points, written: float) -> int:
    """Projections of each sample's outputs: several where there are few samples, and that takes little."""
    if len(points) >= _GRADIENTS or not written:
        return 1
    each = max(written / _WRITTEN, work_of_others(network) / _MULTIPLIED, 1 / _PROJECTED)
    outputs = network.run(points.take(slice(0, _TRIED)).tensors).shape[1]
    return max(min(int(1 / (len(points) * each)), outputs), 1)


def _summed(
    network: Network, points: Points, names: list[str], scale: Scale, seed: int, rounds: int
) -> dict[str, list["_Moments | _ModeMoments"]]:
    sums: dict[str, list[_Moments | _ModeMoments]] = {}
    with Formulas(0):
        for gradients in _gradients(network, points, names, scale, seed, rounds):
            for name, g in gradients.items():
                slices = to_matrices(g).double().numpy()
                moments = sums.setdefault(name, [_moments(g, matrix, rounds) for matrix in slices])
                for moment, matrix in zip(moments, slices, strict=True):
                    moment.add(matrix)
    return sums


class _Moments:
    """Sums over gradients of one matrix (m, n)."""

    def __init__(self, m: int, n: int, rounds: int, vector: bool = False) -> None:
        self.rows, self.columns, self._vector = np.zeros((m, m)), np.zeros((n, n)), vector
        self.seen_rows = self.seen_columns = 0  # lines that a gradient reached
        self._share = 1 / rounds  # of a line that each projection has seen: those of one sample are the same sample

    def add(self, g: np.ndarray) -> None:
        self.rows += g @ g.T
        self.columns += g.T @ g
        self.seen_rows += int(g.any(1).sum())
        self.seen_columns += int(g.any(0).sum())

    def any(self) -> bool:
        """Whether a gradient arrived."""
        return bool(self.rows.any())

    def metric(self, w: np.ndarray, share: float) -> WholeMetric:
        """Both moments with a share of their mean diagonals: there are few gradients."""
        rows = factorise(regularised(share * self.rows, _loading(len(self.rows), self._share * self.seen_rows)))
        columns = self.columns / max(np.trace(self.columns), _TINY)
        moment = regularised(columns, _loading(len(columns), self._share * self.seen_columns))
        return WholeMetric(rows, factorise_towards(moment, w, rows, _VARIANCE), self._vector)


class _ModeMoments:
    """The same of each mode of a kernel by itself. places: (modes, k) columns of each."""

    def __init__(self, m: int, places: np.ndarray, rounds: int) -> None:
        self._places, self._modes = places, [_Moments(m, len(columns), rounds) for columns in places]

    def add(self, g: np.ndarray) -> None:
        for columns, mode in zip(self._places, self._modes, strict=True):
            mode.add(g[:, columns])

    def any(self) -> bool:
        return any(mode.any() for mode in self._modes)

    def metric(self, w: np.ndarray, share: float) -> ModesMetric:
        least = _LEAST_MODE * max(float(np.trace(mode.rows)) for mode in self._modes)
        parts = []
        for columns, mode in zip(self._places, self._modes, strict=True):
            mode.rows += max(least - float(np.trace(mode.rows)), 0.0) / len(mode.rows) * np.eye(len(mode.rows))
            own = mode.metric(w[:, columns], share)
            parts.append(Part(columns, own.rows, own.columns))
        return ModesMetric(tuple(parts))


def _moments(w: Tensor, matrix: np.ndarray, rounds: int = 1) -> _Moments | _ModeMoments:
    modes = _modes(w)
    if modes == 1:
        return _Moments(matrix.shape[0], matrix.shape[1], rounds, vector=w.ndim == 1)
    places = np.arange(matrix.shape[1]).reshape(-1, modes, 2 if w.is_complex() else 1)
    return _ModeMoments(len(matrix), places.transpose(1, 0, 2).reshape(modes, -1), rounds)


def _loading(lines: int, seen: float) -> float:
    """At least as if each line had been seen half a time more: a rare token's row may count elsewhere."""
    return max(_LOADING, _HALF_A_TIME * lines / max(seen, 1))


def work_of_others(network: Network) -> int:
    """Multiplications of the nearest plane in a network's other weights."""
    own = tensors_of_module(network.module)
    tensors = (own[network.places[name]] for name in network.others)
    return sum(_work(w, modes) for w in tensors if (modes := _modes(w)))


def _work(w: Tensor, modes: int) -> int:
    matrix = real_layout(w.shape, w.dtype)
    return matrix.count * matrix.rows * matrix.cols * (matrix.rows + matrix.cols // modes)


def _modes(w: Tensor) -> int:
    """In how many parts a weight's matrices get a metric: one, or that of each mode; 0: the nearest plane takes longer
    than about a second."""
    kernel, matrix = layout(w.shape).kernel, real_layout(w.shape, w.dtype)
    for modes in (kernel,) if w.is_complex() else (1, kernel):
        if _work(w, modes) <= _MOST_WORK and max(matrix.rows, matrix.cols // modes) <= WIDEST:
            return modes
    return 0


def _gradients(
    network: Network, points: Points, names: list[str], scale: Scale, seed: int, rounds: int
) -> Iterator[dict[str, Tensor]]:
    """Gradients of random projections of the scaled outputs, a few samples at a time: the finite ones, for roots at
    zero make nan."""
    generator = torch.Generator().manual_seed(seed)
    step = max(len(points) // _GRADIENTS, 1)
    with _tracked(network, names) as weights:
        for begin in range(0, len(points) if weights else 0, step):
            (y,) = scale([network.call(points.take(slice(begin, begin + step)).tensors)])
            if not y.requires_grad:
                return
            for k in range(rounds):
                signs = 2.0 * torch.randint(0, 2, y.shape, generator=generator).to(y.dtype) - 1
                value = (y * signs).sum() * rounds**-0.5
                found = torch.autograd.grad(
                    value, list(weights.values()), retain_graph=k + 1 < rounds, allow_unused=True
                )
                arrived = zip(weights, found, strict=True)
                yield {name: g for name, g in arrived if g is not None and bool(g.isfinite().all())}


@contextmanager
def _tracked(network: Network, names: list[str]) -> Iterator[dict[str, Tensor]]:
    """The module's own tensors of these names, with gradients."""
    own = own_tensors(network.module)
    weights = {name: own[network.places[name]] for name in names if network.places[name] in own}
    try:
        for w in weights.values():
            w.requires_grad_(True)
        with torch.enable_grad():
            yield weights
    finally:
        for w in weights.values():
            w.requires_grad_(False)
