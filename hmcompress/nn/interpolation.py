"""A matrix that is stored as corrections of predictions from coarser grids, and multiplies without being expanded.

Every prediction is linear in the points known so far, along rows or along columns: a sparse matrix from the left or
from the right. A product goes through those of all levels.
"""

from functools import reduce

import numpy as np
from scipy import sparse

from hmcompress.hmatrix.blocks import Block
from hmcompress.hmatrix.grid_prediction import Band
from hmcompress.hmatrix.interpolated import Correction, read_corrections
from hmcompress.nn.blocks import Matrix
from hmcompress.nn.grid import Grid

Array = np.ndarray
_STRIPE = 32  # columns multiplied at once: as many copies are held as there are levels
_MOST = 1 / 16  # share of entries above which corrections take as much memory as entries do


class InterpolatedMatrix(Matrix):
    """The matrix that Correction after Correction gives. Energies are those of blocks made of the grid's cells."""

    def __init__(self, corrections: tuple[Correction, ...], shape: tuple[int, int], cubic: bool, columns: int) -> None:
        """shape (m, n) of the stored matrix, of which the first `columns` columns count."""
        self._stored, self._shape = shape, (shape[0], columns)
        self._steps = [
            (c.band.axis, _predictor(c.band, shape[c.band.axis], cubic), _added(c, shape)) for c in corrections
        ]
        self._grid = Grid.of(self._shape)
        self._cells = self._squared()

    @property
    def shape(self) -> tuple[int, int]:
        return self._shape

    def times(self, block: Block, x: Array) -> Array:
        return self._product(_spread(x, block.c0, self._stored[1]), False)[block.r0 : block.r1]

    def transposed_times(self, block: Block, x: Array) -> Array:
        return self._product(_spread(x, block.r0, self._stored[0]), True)[block.c0 : block.c1]

    def last_column(self) -> Array:
        """The stored matrix's last column (m,)."""
        return self._product(_spread(np.ones((1, 1)), self._stored[1] - 1, self._stored[1]), False)[:, 0]

    def dense(self, block: Block) -> Array:
        return self.times(block, np.eye(block.shape[1]))

    def energy(self, block: Block) -> float:
        m, n = self._grid.m, self._grid.n
        assert block.r0 % m == 0 and block.c0 % n == 0
        return float(self._cells[block.r0 // m : -(-block.r1 // m), block.c0 // n : -(-block.c1 // n)].sum())

    def energies(self, m: int, n: int) -> Array:
        assert (m, n) == (self._grid.m, self._grid.n)
        return self._cells

    def _squared(self) -> Array:
        """The squared norm of every cell of the grid, a stripe of its rows at a time."""
        starts = np.arange(0, self._shape[1], self._grid.n)
        stripes = (Block(r, min(r + self._grid.m, self._shape[0]), 0, self._shape[1]) for r in self._rows())
        rows = (np.square(self.transposed_times(stripe, np.eye(stripe.shape[0]))).sum(1) for stripe in stripes)
        return np.stack([np.add.reduceat(row, starts) for row in rows])

    def _rows(self) -> range:
        return range(0, self._shape[0], self._grid.m)

    def _product(self, x: Array, transposed: bool) -> Array:
        """The stored matrix, or its transpose, times x."""
        stripes = np.split(x, range(_STRIPE, x.shape[1], _STRIPE), axis=1)
        return np.concatenate([self._through_levels(stripe, transposed) for stripe in stripes], axis=1)

    def _through_levels(self, x: Array, transposed: bool) -> Array:
        """The same of few columns.

        X_k = P_k X_{k-1} + C_k where band k predicts along axis 0, X_k = X_{k-1} P_k^T + C_k along axis 1. What stands
        right of the matrix acts on x first, the last band's before the others'.
        """
        inner = 0 if transposed else 1
        inputs = [x]
        for axis, predictor, _ in reversed(self._steps):
            inputs.append(predictor.T @ inputs[-1] if axis == inner else inputs[-1])

        def step(y: Array, at: int) -> Array:
            axis, predictor, added = self._steps[at]
            y = y if axis == inner else predictor @ y
            given = inputs[len(self._steps) - 1 - at]
            return y if added is None else y + (added.T if transposed else added) @ given

        start = np.zeros((self._stored[inner == 0], x.shape[1]))
        return reduce(step, range(len(self._steps)), start)


def interpolated_matrix(data: bytes, shape: tuple[int, int], columns: int) -> InterpolatedMatrix | None:
    """The matrix of a payload's body, or None where its corrections are not few. Raises FormatError."""
    scheme, corrections = read_corrections(data, shape)
    if sum(len(c.values) for c in corrections) > _MOST * shape[0] * shape[1]:
        return None
    return InterpolatedMatrix(corrections, shape, scheme.cubic, columns)


def _spread(x: Array, first: int, size: int) -> Array:
    """x (k, r) as rows first, first + 1, ... of `size`, all others zero."""
    whole = np.zeros((size, x.shape[1]))
    whole[first : first + len(x)] = x
    return whole


def _added(correction: Correction, shape: tuple[int, int]) -> sparse.csr_array | None:
    """A band's corrections where they stand in the matrix."""
    band = correction.band
    if not len(correction.values):
        return None
    at = (band.points[correction.rows], correction.columns * band.spacing)
    return sparse.csr_array((correction.values, at if band.axis == 0 else at[::-1]), shape=shape)


def _predictor(band: Band, size: int, cubic: bool) -> sparse.csr_array:
    """A band's prediction along its axis as a matrix (size, size): its points from others, these as they are."""
    p, s, last = band.points, band.stride, size - 1
    kept = np.setdiff1d(np.arange(size), p)
    entries = [(kept, kept, np.ones(len(kept)))]
    if s:
        outside = p + s > last
        inner = (p >= 3 * s) & (p + 3 * s <= last) & cubic
        carried = outside & (p >= 3 * s)
        near = np.where(inner, 9 / 16, 0.5)
        entries.append((p, p - s, np.where(carried, 1.5, np.where(outside, 1.0, near))))
        entries.append((p[~outside], p[~outside] + s, near[~outside]))
        entries += [(p[inner], p[inner] + far, np.full(inner.sum(), -1 / 16)) for far in (-3 * s, 3 * s)]
        entries.append((p[carried], p[carried] - 3 * s, np.full(carried.sum(), -0.5)))
    rows, columns, values = (np.concatenate(parts) for parts in zip(*entries, strict=True))
    return sparse.csr_array((values, (rows, columns)), shape=(size, size))
