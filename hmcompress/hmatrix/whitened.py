"""Some rows and columns of a matrix without their scales, and what its leading directions would save."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from hmcompress.hmatrix.basics.scales import rank_one_scales

Array = np.ndarray
PART = 256  # rows and columns of a corner
_LEAST_SHARE = 1e-9  # of the energy, that directions leave
_DEPENDENT = 1e-12  # of the largest eigenvalue of a Gram matrix: what is below is rounding
_POWERS, _HOPELESS = 2, 0.5  # iterations; the share of its cost that a direction must save after the first
_FACTOR_BITS = 3.0  # an entry of a factor
_NORMAL = (2.0**-100, 2.0**100)
_GAUSSIAN_BITS, _LEAST_BITS = 2.05, 0.5  # entropy of a Gaussian rounded to its own standard deviation; a floor


@dataclass(frozen=True)
class Whitened:
    """A matrix divided by row and column scales: rows[i] * entries[i, j] * columns[j], float32, never multiplied out.

    square: entries squared. step: in units of the entries. saved: the share of the bits that the scales save.
    """

    entries: Array
    square: Array
    rows: Array
    columns: Array
    step: float
    saved: float

    def times(self, x: Array) -> Array:
        """x (k, m) times the matrix. Few rows from the left are what torch multiplies in a fraction of numpy's time."""
        return (torch.from_numpy(x * self.rows) @ torch.from_numpy(self.entries)).numpy() * self.columns

    def times_transpose(self, x: Array) -> Array:
        """x (k, n) times the transpose."""
        return (torch.from_numpy(x * self.columns) @ torch.from_numpy(self.entries).T).numpy() * self.rows

    def corner(self) -> Array:
        """Its first rows and columns."""
        return self.entries[:PART, :PART] * self.rows[:PART, None] * self.columns[:PART]


def spread(w: Array | Tensor, most: int) -> Array:
    """So many rows and columns at most, spread over the matrix."""
    row_stride, column_stride = (-(-s // most) for s in w.shape)
    return as_array(w[::row_stride, ::column_stride])


def as_array(w: Array | Tensor) -> Array:
    """As an array; some of a matrix of 16-bit numbers is widened, not all of it."""
    if isinstance(w, np.ndarray):
        return w
    return (w if w.dtype in (torch.float32, torch.float64) else w.float()).numpy()


def whitened(a: Array, step: float) -> Whitened:
    """A matrix (m, n) without its scales; step: in units of its entries."""
    x, largest = _unit(a)
    square = np.square(x)
    rows, columns = rank_one_scales(square)
    rows, columns = (np.maximum(s, 1e-6 * max(float(s.max()), 1e-12)).astype(np.float32) for s in (rows, columns))
    log_rms = 0.5 * np.log2(max(float(square.mean()), 1e-30))
    saved = log_rms - float(np.log2(rows).mean() + np.log2(columns).mean())
    bits = max(log_rms + np.log2(largest / step) + _GAUSSIAN_BITS, _LEAST_BITS)
    return Whitened(x, square, 1 / rows, 1 / columns, float(step / largest), saved / bits)


def _unit(a: Array) -> tuple[Array, np.float64]:
    """a over its largest magnitude, float32, whose squares neither overflow nor vanish; and that magnitude."""
    x = np.array(a, order="C")
    largest = np.float64(max(x.max(initial=0), -x.min(initial=0)) or 1.0)
    if x.dtype == np.float32 and _NORMAL[0] < largest < _NORMAL[1]:
        x *= np.float32(1 / largest)
        return x, largest
    return (x / largest).astype(np.float32), largest


def spike_bits(x: Whitened, shape: tuple[int, int]) -> float | None:
    """Bits an entry that leading singular directions take out of a matrix of this shape, less what their factors need.

    None where they are as those of noise; 0 where each costs more than it saves, which all together need not do.
    x: its entries, or some of its rows and columns, of which noise takes a larger share into its leading directions.
    """
    energy = total(x.square, x.rows**2, x.columns**2)
    image = x.times_transpose(_directions(x.entries.shape[1]))
    cost = _FACTOR_BITS * (1 / shape[0] + 1 / shape[1]) + _noise_gain(x.entries.shape) - _noise_gain(shape)
    gains = np.zeros(1)
    for _ in range(_POWERS):
        image = x.times_transpose(_orthonormal(x.times(image)))
        gains = -0.5 * np.log2(np.maximum(1 - np.linalg.eigvalsh(_gram(image)) / energy, _LEAST_SHARE))
        if gains.max() < _HOPELESS * cost:  # as of noise: no further power can bring out what pays
            return None
    return float(np.sum(np.maximum(gains - cost, 0)))


def _noise_gain(shape: tuple[int, ...]) -> float:
    """Bits an entry that the leading direction of noise takes: its singular value is about sqrt(m) + sqrt(n)."""
    return -0.5 * float(np.log2(max(1 - sum(n**-0.5 for n in shape) ** 2, _LEAST_SHARE)))


@cache
def _directions(n: int) -> Array:
    """Six quasi-random directions (6, n)."""
    x = np.outer([0.618034, 0.414214, 0.732051, 0.236068, 0.645751, 0.316625], np.arange(n) + 1)
    return (np.modf(x)[0] - 0.5).astype(np.float32)


def _gram(x: Array) -> Array:
    wide = x.astype(np.float64)
    return wide @ wide.T


def _orthonormal(x: Array) -> Array:
    """An orthonormal basis of the rows of x (k, n), by its Gram matrix; zeros in place of what depends on others."""
    values, vectors = np.linalg.eigh(_gram(x))
    scales = np.where(values > _DEPENDENT * values[-1], values, np.inf) ** -0.5
    return (vectors * scales).T.astype(np.float32) @ x


def total(a: Array, rows: Array, columns: Array) -> float:
    """The sum of rows[i] * a[i, j] * columns[j]."""
    return float(rows.astype(np.float64) @ (a @ columns))
