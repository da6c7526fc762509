"""Codec `smooth`: columns that are smooth functions on a line or a mesh, the form of a layer that writes a field.

Rows are the points of a mesh of up to three axes, the last one fastest. Along each axis columns are taken in cosines,
in polynomials orthonormal at equidistant points, or as they are. The coefficients, lowest frequencies first, are a grid
as in `compact`. All functions are orthonormal: an error of the coefficients is one of the matrix.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import prod

import numpy as np
import torch
from numpy.polynomial import chebyshev
from scipy.fft import dct, idct

from hmcompress.coding.buffer import Reader, Writer
from hmcompress.errors import FormatError
from hmcompress.hmatrix.basics.bodies import QuantizedBody
from hmcompress.hmatrix.grids import compact, weighted
from hmcompress.hmatrix.grids.grid import Grid
from hmcompress.hmatrix.grids.polynomials import orthonormal

Array = np.ndarray
PLAIN, COSINES, POLYNOMIALS = range(3)
KINDS, MOST_AXES = 3, 3
_COMBINATIONS = KINDS**MOST_AXES
_LAYOUTS = MOST_AXES * _COMBINATIONS
FEW = 4096  # integers that `compact` codes fast
MOST_PAIRED = 1024  # points of which products of all pairs are taken
_LEAST_POINTS, _MOST_POINTS = 4, 4096  # along an axis; with polynomials
_DEGREES = 2.0  # times the root of the points: more polynomials are hardly told apart at equidistant ones


@dataclass(frozen=True)
class Layout:
    """Points along each axis of a mesh, and which functions are taken there."""

    sizes: tuple[int, ...]
    kinds: tuple[int, ...]

    def forward(self, x: Array) -> Array:
        """Coefficients (m, n), lowest frequencies first, of columns x (m, n)."""
        return self._along_axes(x, _forward)[self._order()]

    def inverse(self, coefficients: Array) -> Array:
        """The columns that have these coefficients."""
        unsorted = np.empty_like(coefficients)
        unsorted[self._order()] = coefficients
        return self._along_axes(unsorted, _inverse)

    def moment(self, moment: Array) -> Array:
        """Of coefficients, from the moment (m, m) or (m,) of the columns' entries: (m, m), or (m,) as if points along
        an axis of functions weighed alike, where a matrix of all would be too much."""
        if moment.ndim == 1 and len(moment) > MOST_PAIRED:
            smooth = tuple(axis for axis, kind in enumerate(self.kinds) if kind != PLAIN)
            means = moment.reshape(self.sizes).mean(smooth, keepdims=True)
            return np.broadcast_to(means, self.sizes).reshape(-1)[self._order()]
        whole = np.diag(moment) if moment.ndim == 1 else moment
        return self.forward(self.forward(whole).T)

    def _along_axes(self, x: Array, step: Callable[[Array, int], Array]) -> Array:
        found = x.reshape(*self.sizes, x.shape[1])
        for axis, kind in enumerate(self.kinds):
            found = np.moveaxis(step(np.moveaxis(found, axis, 0), kind), 0, axis)
        return found.reshape(x.shape)

    def _order(self) -> Array:
        """Where coefficients stand on the mesh, by the sum of their frequencies."""
        total = np.zeros(self.sizes, np.int64)
        for axis, kind in enumerate(self.kinds):
            if kind != PLAIN:
                total += np.arange(self.sizes[axis]).reshape(-1, *[1] * (len(self.sizes) - axis - 1))
        return np.argsort(total.reshape(-1), kind="stable")


def _forward(x: Array, kind: int) -> Array:
    """Coefficients of x (m, ...) along its first axis."""
    if kind == COSINES:
        return dct(x, axis=0, norm="ortho")
    if kind == POLYNOMIALS:
        basis = _polynomials(len(x))
        found = np.zeros_like(x)
        found[: basis.shape[1]] = np.tensordot(basis.T, x, 1)
        return found
    return x


def _inverse(x: Array, kind: int) -> Array:
    if kind == COSINES:
        return idct(x, axis=0, norm="ortho")
    if kind == POLYNOMIALS:
        basis = _polynomials(len(x))
        return np.tensordot(basis, x[: basis.shape[1]], 1)
    return x


@lru_cache(maxsize=16)
def _polynomials(size: int) -> Array:
    """Orthonormal ones (size, count) of ascending degree at equidistant points."""
    count = min(size, int(_DEGREES * size**0.5) + 1)
    return orthonormal(chebyshev.chebvander(np.linspace(-1, 1, size), count - 1))[0]


def layouts(sizes: tuple[int, ...]) -> Iterator[Layout]:
    """Of a mesh: the same functions along all axes, or none along the first, as where channels stand there."""
    for kind in (COSINES, POLYNOMIALS) if max(sizes) <= _MOST_POINTS else (COSINES,):
        yield Layout(sizes, (kind,) * len(sizes))
        if len(sizes) > 1:
            yield Layout(sizes, (PLAIN, *(kind,) * (len(sizes) - 1)))


def finer(sizes: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Meshes of the same points in the same order with one axis more: one of these is two."""
    for axis, size in enumerate(sizes if len(sizes) < MOST_AXES else ()):
        for a in range(2, size // _LEAST_POINTS + 1):
            if size % a == 0:
                yield (*sizes[:axis], a, size // a, *sizes[axis + 1 :])


def encode(layout: Layout, grid: Grid, thorough: bool = True) -> bytes:
    """The bytes of the coefficients (m, n) on a canonical grid."""
    return min((_joined(layout, *coded) for coded in _coded(grid, thorough)), key=len)


def _joined(layout: Layout, form: int, data: bytes) -> bytes:
    kinds = 0
    for kind in layout.kinds:
        kinds = KINDS * kinds + kind
    out = Writer().uint(_LAYOUTS * form + _COMBINATIONS * (len(layout.sizes) - 1) + kinds)
    for size in layout.sizes[:-1]:
        out.uint(size)
    return out.raw(data).getvalue()


def _coded(grid: Grid, thorough: bool) -> Iterator[tuple[int, bytes]]:
    """In the forms of grids, by their numbers; many integers take long in the first one, and gain little."""
    if np.count_nonzero(grid.q) <= FEW:
        yield 0, compact.encode(grid, thorough)
    yield 1, weighted.encode(grid, thorough)


def decode(data: bytes, shape: tuple[int, int], dtype: torch.dtype) -> QuantizedBody:
    """Inverse of encode. Raises FormatError."""
    stream = Reader(data)
    form, numbers = divmod(stream.uint(2 * _LAYOUTS - 1), _LAYOUTS)
    layout = _read_layout(stream, numbers, shape[0])
    coefficients = (compact, weighted)[form].decode(stream.rest(), shape, torch.float64).to_dense().numpy()
    return QuantizedBody(torch.from_numpy(layout.inverse(coefficients)).to(dtype))


def _read_layout(stream: Reader, numbers: int, rows: int) -> Layout:
    axes, kinds = divmod(numbers, _COMBINATIONS)
    sizes = [stream.uint(rows) for _ in range(axes)]
    lines = prod(sizes)
    if not lines or rows % lines or not rows:
        raise FormatError(f"a mesh of {lines} lines cannot have {rows} points: the file is damaged")
    layout = Layout((*sizes, rows // lines), tuple(kinds // KINDS**k % KINDS for k in reversed(range(axes + 1))))
    for size, kind in zip(layout.sizes, layout.kinds, strict=True):
        if kind == POLYNOMIALS and size > _MOST_POINTS:
            raise FormatError(f"polynomials at {size} points, at most {_MOST_POINTS} can be: the file is damaged")
    return layout
