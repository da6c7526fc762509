"""A cheap look, about ten operations an entry: does a matrix have structure worth a search?

Most trained layers are noise with row and column scales. What a search could find shows, once the scales are divided
out, as large singular values, as neighbours that resemble each other, as blocks of unequal energy, or as blocks that
repeat.
"""

from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from hmcompress.hmatrix.concentration import LINES, LONGEST, concentration
from hmcompress.hmatrix.likeness import likeness
from hmcompress.hmatrix.tree.deficiency import deficiency, some_lines
from hmcompress.hmatrix.tree.repeats import find_repeats
from hmcompress.hmatrix.whitened import PART, Whitened, as_array, spike_bits, spread, total, whitened

Array = np.ndarray
_PROBE = 16
LEAST_LOOK, _LEAST_SMOOTH = 32, 16  # rows and columns below which a look tells nothing, and even of smoothness
_SPIKE = {"default": 0.06, "max": 0.02}  # bits an entry: smaller gains are not searched for
_SMOOTH = {"default": 0.2, "max": 0.06}
_UNEVEN = {"default": 2.4, "max": 1.5}
_PREDICTABLE, _ROUGH = 0.5, 0.05
_CELLS = 16
_SHUFFLED = {"default": 0.15, "max": 0.02}
_SMOOTHER, _MORE_UNEVEN = 0.15, 3.0  # how much more structure makes another order worth a search
# Share of the bits. Without scales a general coder serves, which decodes many times faster.
_SCALES = 0.005
_COARSEST = 2.0**32  # of a step over the largest entry looked at: weights of dead neurons tell as little as zeros do
_GLANCE, _LOOK = 256, 512  # rows and columns looked at, at most, first and then
_NO_SPIKE, _EVEN, _UNSCALED = 0.02, 1.3, 0.0045  # what few entries show at most where many show nothing
_QUICK, _CLEAR = 128, 0.3  # rows and columns of the quickest look, and the bits an entry that it must promise
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


_UNKNOWN = Structure(1.0, 1.0, 100.0, False, 1.0, 0.0, 1.0, 1.0, 0.0)  # all is worth a try


def find_structure(w: Array | Tensor, step: float, thorough: bool = False) -> Structure:
    """Look for structure in w (m, n) that matters at this step: unless `thorough`, at few rows and columns first."""
    if min(w.shape) < LEAST_LOOK:
        return _UNKNOWN if thorough or min(w.shape) < _LEAST_SMOOTH else _small_look(w, step)
    if thorough or max(w.shape) <= _GLANCE:
        return _look(w, step, _LOOK)
    found = _look(w, step, _GLANCE)
    return found if found.is_nothing() else _look(w, step, _LOOK)


def _small_look(w: Array | Tensor, step: float) -> Structure:
    """Of a small matrix, whether neighbours predict each other: what else may help is tried in any case."""
    x = _some(w, step, _LOOK)
    if x is None:
        return _UNKNOWN
    return replace(_UNKNOWN, smoothness=max(_smoothness(x.corner()), 2 * _ROUGH), waves=_concentration(w))


def has_few_directions(w: Tensor, step: float) -> bool:
    """Whether a low-rank part of w (m, n) clearly pays at this step, as far as very few rows and columns show it."""
    if min(w.shape) < LEAST_LOOK:
        return False
    x = _some(w, step, _QUICK)
    spike = None if x is None else spike_bits(x, (min(w.shape[0], _LOOK), min(w.shape[1], _LOOK)))
    return spike is not None and max(spike, deficiency(spread(w, _QUICK) / step, w.shape)) > _CLEAR


def _some(w: Array | Tensor, step: float, most: int) -> Whitened | None:
    """So many rows and columns without their scales; None where they tell nothing."""
    some = spread(w, most)
    x = whitened(some, step) if some.any() else None
    return None if x is None or x.step > _COARSEST else x


def _look(w: Array | Tensor, step: float, most: int) -> Structure:
    """What `most` rows and columns show, spread over the matrix."""
    x = _some(w, step, most)
    if x is None:
        return _UNKNOWN
    part = whitened(as_array(w[:PART, :PART]), step) if x.entries.shape != w.shape else x
    spike = spike_bits(x, (min(w.shape[0], _LOOK), min(w.shape[1], _LOOK)))
    uneven, tails = _unevenness(x)
    repeats, alike = _repeats(_samples(w), step), likeness(x.entries, x.square, x.step)
    low = 0.0 if spike is None else deficiency(as_array(w[some_lines(w.shape)]) / step, w.shape)
    smoothness, waves = _smoothness(part.corner()), _concentration(w)
    return Structure(spike or 0.0, smoothness, uneven, repeats, x.saved, tails, alike, low, waves)


def _smoothness(part: Array) -> float:
    power = max(2 * float(np.vdot(part, part)) / part.size, 1e-30)  # a corner of zeros is smooth: the rest decides
    differences = (part[1:] - part[:-1], part[:, 1:] - part[:, :-1])
    return max(1 - float(np.vdot(d, d)) / d.size / power for d in differences)


def _concentration(w: Array | Tensor) -> float:
    """How few cosines make up rows or columns, judged by some."""
    rows, columns = (-(-side // LINES) for side in w.shape)
    return max(concentration(as_array(w[::rows, :LONGEST])), concentration(as_array(w[:LONGEST, ::columns].T)))


def _unevenness(x: Whitened) -> tuple[float, float]:
    """How uneven cells are, and how much of that a few large entries would make by chance."""
    m, n = (s // _CELLS * _CELLS for s in x.square.shape)
    square, rows, columns = x.square[:m, :n], x.rows[:m] ** 2, x.columns[:n] ** 2
    cells = square.reshape(m, _CELLS, -1).transpose(1, 0, 2) @ columns.reshape(_CELLS, -1, 1)  # of each row, by columns
    energy = (rows[:, None] * cells[..., 0].T).reshape(_CELLS, -1, _CELLS).sum(1) * (_CELLS**2 / (m * n))
    mean = float(energy.mean())
    kurtosis = total(np.square(square), rows**2, columns**2) / (m * n) / max(mean**2, 1e-30)
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
    return [as_array(a[r : r + _PROBE, c : c + _PROBE]) for r in rows for c in columns]


def _corners(n: int) -> list[int]:
    half = -(-n // 2)
    corners = (min(c, n - _PROBE) for c in (0, -(-half // 2), half, half + -(-(n - half) // 2)))
    return list(dict.fromkeys(corners))  # of 32 the last two are one, which must not count as a repetition
