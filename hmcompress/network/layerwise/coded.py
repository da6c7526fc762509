"""How a layer or another weight is coded: on a weighted grid, or by the engine of the weights metric."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from hmcompress.container import join
from hmcompress.hmatrix import HMatrix, compress_matrix
from hmcompress.hmatrix.basics import exact
from hmcompress.hmatrix.basics.measure import reference
from hmcompress.hmatrix.codecs import COMPACT, EXACT, POSITIONS, PRODUCT, SMOOTH, WEIGHTED
from hmcompress.hmatrix.grids import compact, positions, product, smooth, weighted
from hmcompress.hmatrix.grids.grid import Grid
from hmcompress.hmatrix.request import Request, zero_payload
from hmcompress.hmatrix.tune_digits import tune_digits
from hmcompress.layers import from_matrices, real_layout, to_matrices

_LOOSEST, _TIGHTEST = 0.7, 1e-7
_LOOK = 1e-2  # tolerance at which structure is looked for
_CORNER = 1024  # rows and columns that are looked at first
_LEVELS = 8  # errors an octave at which a few entries are coded
_NOISE = 0.6  # share of the bytes of noise that rules structure out


class Coded(ABC):
    """A coded matrix (m, n), or (m, n + 1) with its bias; for other weights, a tensor of their shape."""

    @abstractmethod
    def dense(self) -> Tensor:
        """Decoded values, before they are rounded to the stored dtype."""

    @abstractmethod
    def payload(self, thorough: bool) -> bytes: ...

    def live_columns(self) -> np.ndarray:
        return (self.dense() != 0).any(0).numpy()

    def without_rows(self, dead: np.ndarray) -> "Coded":
        """The same with some rows zero, where that saves anything."""
        return self


@dataclass(frozen=True)
class Weighted(Coded):
    """A grid that follows rows and columns."""

    grid: Grid

    def dense(self) -> Tensor:
        return torch.from_numpy(self.grid.to_dense())

    def payload(self, thorough: bool) -> bytes:
        return bytes([WEIGHTED]) + weighted.encode(self.grid, thorough)

    def live_columns(self) -> np.ndarray:
        return self.grid.live_columns

    def without_rows(self, dead: np.ndarray) -> Coded:
        return replace(self, grid=self.grid.without_rows(dead))


@dataclass(frozen=True)
class Compact(Weighted):
    """A grid with few living lines, in whichever of the two forms of grids is smaller."""

    def payload(self, thorough: bool) -> bytes:
        return min(bytes([COMPACT]) + compact.encode(self.grid, thorough), super().payload(thorough), key=len)


@dataclass(frozen=True)
class Smooth(Coded):
    """Coefficients (m, n) of columns that are smooth functions of where rows stand."""

    layout: smooth.Layout
    grid: Grid

    def dense(self) -> Tensor:
        return torch.from_numpy(self.layout.inverse(self.grid.to_dense()))

    def payload(self, thorough: bool) -> bytes:
        return bytes([SMOOTH]) + smooth.encode(self.layout, self.grid, thorough)

    def live_columns(self) -> np.ndarray:
        return self.grid.live_columns


@dataclass(frozen=True)
class Product(Coded):
    """left (m, r) times right (r, n), each on a grid."""

    left: Grid
    right: Grid

    def dense(self) -> Tensor:
        return torch.from_numpy(self.left.to_dense() @ self.right.to_dense())

    def payload(self, thorough: bool) -> bytes:
        return bytes([PRODUCT]) + product.encode(self.left, self.right, thorough)

    def live_columns(self) -> np.ndarray:
        return self.right.live_columns

    def without_rows(self, dead: np.ndarray) -> Coded:
        return Product(self.left.without_rows(dead), self.right)


@dataclass(frozen=True)
class Positioned(Coded):
    """Functions of the positions (m, numbers) of points times a core, on grids."""

    form: positions.Form
    positions: Grid
    square: Grid  # (1, count), of the bases
    core: Grid

    def dense(self) -> Tensor:
        where, square, core = (grid.to_dense() for grid in (self.positions, self.square, self.core))
        left, right = self.form.factors(where, square[0], core)
        return torch.from_numpy(left @ right.T)

    def payload(self, thorough: bool) -> bytes:
        return bytes([POSITIONS]) + positions.encode(self.form, self.positions, self.square, self.core, thorough)


@dataclass(frozen=True)
class Slices(Coded):
    """A weight of any shape, each of its matrices coded by itself."""

    parts: tuple[Coded, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype

    def dense(self) -> Tensor:
        return from_matrices(torch.stack([part.dense() for part in self.parts]), self.shape, self.dtype)

    def payload(self, thorough: bool) -> bytes:
        return join([part.payload(thorough) for part in self.parts])


def living(parts: Iterable[Coded]) -> int:
    """Inputs of all layers that are read, biases among them: what a slim network keeps."""
    return sum(int(part.live_columns().sum()) for part in parts if isinstance(part, Weighted | Smooth))


@dataclass(frozen=True)
class Stored(Coded):
    """A payload of compress_matrix, or of several slices, and what it decodes to."""

    data: bytes
    values: Tensor

    def dense(self) -> Tensor:
        return self.values.to(torch.complex128 if self.values.is_complex() else torch.float64)

    def payload(self, thorough: bool) -> bytes:
        return self.data


def lossless(w: Tensor) -> Stored:
    """A weight of any shape, bit for bit."""
    return Stored(join([_exact(matrix) for matrix in to_matrices(w)]), w)


def _exact(matrix: Tensor) -> bytes:
    if not bool(matrix.any() or matrix.signbit().any()):
        return zero_payload(matrix.numel())
    return bytes([EXACT]) + exact.encode(matrix)


@dataclass
class Engine:
    """compress_matrix with a memory: passes of a search ask for the same matrix at the same tolerance."""

    effort: str = "default"
    _known: dict[tuple[str, float, float], Stored] = field(default_factory=dict)
    _cheap: dict[str, float] = field(default_factory=dict)
    _few: dict[tuple[str, int], list[Stored]] = field(default_factory=dict)

    def share_of_noise(self, name: str, w: Tensor) -> float:
        """What the engine takes for a matrix over what noise would cost: the more structure, the less."""
        if name not in self._cheap:
            corner = w[:_CORNER, :_CORNER]
            share = _share_of_noise(corner)
            self._cheap[name] = share if corner.numel() == w.numel() or share > _NOISE else _share_of_noise(w)
        return self._cheap[name]

    def exact(self, name: str, w: Tensor) -> Stored:
        """A weight of any shape, bit for bit."""
        key = (name, 0.0, 0.0)
        if key not in self._known:
            self._known[key] = lossless(w)
        return self._known[key]

    def matrix(self, name: str, w: np.ndarray, tol: float, dtype: torch.dtype) -> Stored:
        """A (m, n) matrix at a relative Frobenius error of about `tol`."""
        tol = _rounded(tol)
        key = (name, tol, float(np.sum(w * (1 + np.arange(w.shape[1])))))
        if key not in self._known:
            coded = compress_matrix(torch.from_numpy(w).to(dtype), tol, effort=self.effort)
            self._known[key] = Stored(coded.payload, coded.to_dense())
        return self._known[key]

    def tensor(self, name: str, w: Tensor, tol: float) -> Stored:
        """A weight of any shape, each of its matrices at a relative Frobenius error of about `tol`."""
        tol = _rounded(tol)
        key = (name, tol, 0.0)
        if key not in self._known:
            kernel = real_layout(w.shape, w.dtype).kernel
            slices = [compress_matrix(matrix, tol, effort=self.effort, kernel=kernel) for matrix in to_matrices(w)]
            self._known[key] = _stored(slices, w)
        return self._known[key]

    def few(self, name: str, w: Tensor, tol: float) -> list[Stored]:
        """A weight of few entries in a form that is found at once, at about this error; empty where that cannot be."""
        step = round(_LEVELS * math.log2(_rounded(tol)))
        if (name, step) not in self._few:
            asked = [Request(x, 2 ** (step / _LEVELS), "fro", self.effort, reference(x, "fro")) for x in to_matrices(w)]
            found = [matrix for request in asked if (matrix := tune_digits(request)) is not None]
            self._few[name, step] = [_stored(found, w)] if len(found) == len(asked) else []
        return self._few[name, step]


def _stored(slices: Sequence[HMatrix], w: Tensor) -> Stored:
    """Coded matrices of a weight."""
    values = from_matrices(torch.stack([s.to_dense() for s in slices]), w.shape, w.dtype)
    return Stored(join([s.payload for s in slices]), values)


def _share_of_noise(w: Tensor) -> float:
    return compress_matrix(w, _LOOK).nbytes / (w.numel() * (math.log2(1 / _LOOK) + 0.25) / 8)


def _rounded(tol: float) -> float:
    return float(f"{min(max(tol, _TIGHTEST), _LOOSEST):.3g}")
