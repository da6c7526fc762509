"""A cheap look, about ten operations an entry: does a matrix have structure worth a search?

Most trained layers are noise with row and column scales. What a search could find shows, once the scales are divided
out, as large singular values, as neighbours that resemble each other, as blocks of unequal energy, or as blocks that
repeat.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from hmcompress.hmatrix.basics.scales import rank_one_scales
from hmcompress.hmatrix.concentration import LINES, LONGEST, concentration
from hmcompress.hmatrix.likeness import likeness
from hmcompress.hmatrix.tree.deficiency import deficiency, some_lines
from hmcompress.hmatrix.tree.repeats import find_repeats

Array = np.ndarray
_PROBE = 16
LEAST_LOOK = 32  # rows and columns below which a look tells nothing
_LEAST_SHARE = 1e-9  # of the energy, that directions leave
_DEPENDENT = 1e-12  # of the largest eigenvalue of a Gram matrix: what is below is rounding
_POWERS, _HOPELESS = 2, 0.5  # iterations; the share of its cost that a direction must save after the first
_FACTOR_BITS = 3.0  # an entry of a factor
_SPIKE = {"default": 0.06, "max": 0.02}  # bits an entry: smaller gains are not searched for
_SMOOTH = {"default": 0.2, "max": 0.06}
_UNEVEN = {"default": 2.4, "max": 1.5}
_PREDICTABLE, _ROUGH = 0.5, 0.05
_CELLS = 16
_SHUFFLED = {"default": 0.15, "max": 0.02}
_SMOOTHER, _MORE_UNEVEN = 0.15, 3.0  # how much more structure makes another order worth a search
# Share of the bits. Without scales a general coder serves, which decodes many times faster.
_SCALES = 0.005
_NORMAL = (2.0**-100, 2.0**100)
_COARSEST = 2.0**32  # of a step over the largest entry looked at: weights of dead neurons tell as little as zeros do
_GLANCE, _LOOK = 256, 512  # rows and columns looked at, at most, first and then
_NO_SPIKE, _EVEN, _UNSCALED = 0.02, 1.3, 0.0045  # what few entries show at most where many show nothing
_PART = 256
_GAUSSIAN_BITS, _LEAST_BITS = 2.05, 0.5  # entropy of a Gaussian rounded to its own standard deviation; a floor
_ALIKE = 0.05  # steps, root mean square: more than blocks that repeat each other differ by
_ALIKE_BITS = 0.1
_HEAVY = 12.0  # kurtosis of what is not zero, beyond which large entries are cut: tails say nothing about structure


@dataclass(frozen=True)
class Structure:
    """What a cheap look finds; bits are those that an entry may save."""

    spike: float  # bits, by leading singular directions
    smoothness: float  # how much less neighbours differ than strangers do, 0 to 1
    unevenness: float  # variance of block energies over that of independent entries
    repeats: bool  # blocks repeat
    scales: float  # share of all bits that row and column scales may save
    tails: float  # how far a few large entries exceed the others, which may stand together in another order
    alike: float  # bits, by the nearest of all other rows or columns
    deficiency: float  # bits, by low rank, if singular values do not fall
    waves: float  # how few cosines make up a line, 0 to 1

    def is_nothing(self) -> bool:
        """Whether a closer look could hardly find more: few entries show all, though less of it than many do."""
        uneven = max(self.unevenness, self.tails) > _EVEN
        small = max(self.spike, self.deficiency) < _NO_SPIKE and not uneven and self.scales < _UNSCALED
        return small and not (self.repeats or self.may_be_smooth("default") or self.has_like_lines())

    def is_global(self, effort: str) -> bool:
        """Whether one low-rank part of the whole promises enough."""
        return max(self.spike, self.deficiency) > _SPIKE[effort] or self.is_local(effort)

    def has_like_lines(self) -> bool:
        """Whether rows or columns are like others, wherever these stand."""
        return self.alike > _ALIKE_BITS

    def is_smooth(self) -> bool:
        """Whether neighbours resemble each other so much that they may predict each other."""
        return self.smoothness > _PREDICTABLE

    def may_be_smooth(self, effort: str) -> bool:
        """Whether neighbours resemble each other at all: without that no basis is worth a try."""
        return effort == "max" or self.smoothness > _ROUGH or self.waves > 0

    def is_scaled(self) -> bool:
        """Whether row or column scales promise enough where decoding speed counts too."""
        return self.scales > _SCALES

    def may_be_shuffled(self, effort: str) -> bool:
        """Whether rows and columns may belong together without standing together."""
        return self.spike > _SHUFFLED[effort] or max(self.unevenness, self.tails) > _UNEVEN[effort]

    def is_plainer_than(self, other: "Structure", share: float = 1.0) -> bool:
        """Whether `other`, the same matrix in another order, has clearly more of its structure in place.

        share: of what would be clear, in smoothness and in the logarithm of unevenness.
        """
        smoother = other.smoothness > self.smoothness + share * _SMOOTHER
        uneven = max(_MORE_UNEVEN**share * self.unevenness, share * _UNEVEN["default"])
        return smoother or other.unevenness > uneven

    def is_local(self, effort: str) -> bool:
        """Whether parts that differ from place to place promise enough."""
        smooth = self.smoothness > _SMOOTH[effort] or self.waves > 0
        return self.repeats or smooth or self.unevenness > _UNEVEN[effort]


@dataclass(frozen=True)
class _Whitened:
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
        return self.entries[:_PART, :_PART] * self.rows[:_PART, None] * self.columns[:_PART]


_UNKNOWN = Structure(1.0, 1.0, 100.0, False, 1.0, 0.0, 1.0, 1.0, 0.0)  # all is worth a try


def find_structure(w: Array | Tensor, step: float, thorough: bool = False) -> Structure:
    """Look for structure in w (m, n) that matters at this step: unless `thorough`, at few rows and columns first."""
    if min(w.shape) < LEAST_LOOK:
        return _UNKNOWN
    if thorough or max(w.shape) <= _GLANCE:
        return _look(w, step, _LOOK)
    found = _look(w, step, _GLANCE)
    return found if found.is_nothing() else _look(w, step, _LOOK)


def _look(w: Array | Tensor, step: float, most: int) -> Structure:
    """What `most` rows and columns show, spread over the matrix."""
    row_stride, column_stride = (-(-s // most) for s in w.shape)
    some = _array(w[::row_stride, ::column_stride])
    if not some.any():
        return _UNKNOWN
    x = _whitened(some, step)
    if x.step > _COARSEST:
        return _UNKNOWN
    part = _whitened(_array(w[:_PART, :_PART]), step) if max(row_stride, column_stride) > 1 else x
    spike = _spike(x, (min(w.shape[0], _LOOK), min(w.shape[1], _LOOK)))
    uneven, tails = _unevenness(x)
    repeats, alike = _repeats(_samples(w), step), likeness(x.entries, x.square, x.step)
    low = 0.0 if spike is None else deficiency(_array(w[some_lines(w.shape)]) / step, w.shape)
    smoothness, waves = _smoothness(part.corner()), _concentration(w)
    return Structure(spike or 0.0, smoothness, uneven, repeats, x.saved, tails, alike, low, waves)


def _array(w: Array | Tensor) -> Array:
    """As an array; some of a matrix of 16-bit numbers is widened, not all of it."""
    if isinstance(w, np.ndarray):
        return w
    return (w if w.dtype in (torch.float32, torch.float64) else w.float()).numpy()


def _whitened(a: Array, step: float) -> _Whitened:
    x, largest = _unit(a)
    square = np.square(x)
    rows, columns = rank_one_scales(square)
    rows, columns = (np.maximum(s, 1e-6 * max(float(s.max()), 1e-12)).astype(np.float32) for s in (rows, columns))
    log_rms = 0.5 * np.log2(max(float(square.mean()), 1e-30))
    saved = log_rms - float(np.log2(rows).mean() + np.log2(columns).mean())
    bits = max(log_rms + np.log2(largest / step) + _GAUSSIAN_BITS, _LEAST_BITS)
    return _Whitened(x, square, 1 / rows, 1 / columns, float(step / largest), saved / bits)


def _unit(a: Array) -> tuple[Array, np.float64]:
    """a over its largest magnitude, float32, whose squares neither overflow nor vanish; and that magnitude."""
    x = np.array(a, order="C")
    largest = np.float64(max(x.max(initial=0), -x.min(initial=0)) or 1.0)
    if x.dtype == np.float32 and _NORMAL[0] < largest < _NORMAL[1]:
        x *= np.float32(1 / largest)
        return x, largest
    return (x / largest).astype(np.float32), largest


def _spike(x: _Whitened, shape: tuple[int, int]) -> float | None:
    """Bits an entry that leading singular directions take out of a matrix of this shape, less what their factors need.

    None where they are as those of noise; 0 where each costs more than it saves, which all together need not do.
    x: its entries, or some of its rows and columns, of which noise takes a larger share into its leading directions.
    """
    energy = _sum(x.square, x.rows**2, x.columns**2)
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


def _sum(a: Array, rows: Array, columns: Array) -> float:
    """The sum of rows[i] * a[i, j] * columns[j]."""
    return float(rows.astype(np.float64) @ (a @ columns))


def _smoothness(part: Array) -> float:
    power = max(2 * float(np.vdot(part, part)) / part.size, 1e-30)  # a corner of zeros is smooth: the rest decides
    differences = (part[1:] - part[:-1], part[:, 1:] - part[:, :-1])
    return max(1 - float(np.vdot(d, d)) / d.size / power for d in differences)


def _concentration(w: Array | Tensor) -> float:
    """How few cosines make up rows or columns, judged by some."""
    rows, columns = (-(-side // LINES) for side in w.shape)
    return max(concentration(_array(w[::rows, :LONGEST])), concentration(_array(w[:LONGEST, ::columns].T)))


def _unevenness(x: _Whitened) -> tuple[float, float]:
    """How uneven cells are, and how much of that a few large entries would make by chance."""
    m, n = (s // _CELLS * _CELLS for s in x.square.shape)
    square, rows, columns = x.square[:m, :n], x.rows[:m] ** 2, x.columns[:n] ** 2
    cells = square.reshape(m, _CELLS, -1).transpose(1, 0, 2) @ columns.reshape(_CELLS, -1, 1)  # of each row, by columns
    energy = (rows[:, None] * cells[..., 0].T).reshape(_CELLS, -1, _CELLS).sum(1) * (_CELLS**2 / (m * n))
    mean = float(energy.mean())
    kurtosis = _sum(np.square(square), rows**2, columns**2) / (m * n) / max(mean**2, 1e-30)
    most = _HEAVY * square.size / max(int(np.count_nonzero(square)), 1)
    tails = kurtosis / _HEAVY
    if kurtosis <= most:
        return _over_chance(energy, kurtosis, square.size), tails
    whole = np.minimum(rows[:, None] * square * columns, most * mean)  # a few large entries make cells uneven alone
    energy = whole.reshape(_CELLS, m // _CELLS, _CELLS, n // _CELLS).mean((1, 3))
    kurtosis = float(np.mean(np.square(whole, dtype=np.float64))) / max(float(energy.mean()) ** 2, 1e-30)
    return _over_chance(energy, kurtosis, square.size), tails


def _over_chance(energy: Array, kurtosis: float, count: int) -> float:
    """The variance of the mean squares of cells over what independent entries would give them."""
    expected = (kurtosis - 1) * _CELLS**2 / count * float(energy.mean()) ** 2
    return float(np.var(energy)) / max(expected, 1e-30)


def _repeats(blocks: list[Array], step: float) -> bool:
    """Whether one of the blocks, all of one shape, repeats another; few that do not are alike in size and in sum."""
    stack = np.stack(blocks).reshape(len(blocks), -1).astype(np.float64)
    sizes, sums = np.sqrt(np.vecdot(stack, stack)), stack.sum(1)
    allowed = _ALIKE * step * np.sqrt(stack.shape[1])
    near = np.abs(sizes[:, None] - sizes) <= allowed
    near &= np.abs(sums[:, None] - sums) <= allowed * np.sqrt(stack.shape[1])
    return int(near.sum()) > len(blocks) and any(r is not None for r in find_repeats(blocks, step))


def _samples(a: Array | Tensor) -> list[Array]:
    """Blocks at the corners that two splits give, where what repeats begins."""
    rows, columns = (_corners(n) for n in a.shape)
    return [_array(a[r : r + _PROBE, c : c + _PROBE]) for r in rows for c in columns]


def _corners(n: int) -> list[int]:
    half = -(-n // 2)
    corners = (min(c, n - _PROBE) for c in (0, -(-half // 2), half, half + -(-(n - half) // 2)))
    return list(dict.fromkeys(corners))  # of 32 the last two are one, which must not count as a repetition
