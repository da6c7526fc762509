"""Integers of a matrix whose diagonals are nearly constant, less what the entries before them on their diagonal say.

Toeplitz, circulant and Hankel matrices; convolutions. Each is predicted by the last one, or by the mean of all, which
is surer where they differ by noise. Convolutions of images are Toeplitz in blocks of Toeplitz blocks: at the edges of a
block, whose side is the period, its neighbour up the diagonal of blocks tells.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hmcompress.coding.buffer import Reader, Writer
from hmcompress.coding.sample import some_of

Array = np.ndarray
_ROWS = 24
_BITS, _LESS_THAN_ALONG = 0.5, 0.2  # an entry that neighbours on a diagonal save at least; more than those in a row do
_SAME_SIGN = 0.6  # the share of signs that agree where neighbours save so much; one half of noise
_EDGE = 4.0  # times what entries differ by: what they do at the edges of blocks


@dataclass(frozen=True)
class Way:
    """mean: of all on the diagonal, or the last. turned: diagonals run down to the left. period: side of a block."""

    mean: bool
    turned: bool
    period: int = 0

    def write(self, out: Writer) -> Writer:
        return out.uint(self.mean + 2 * self.turned).uint(self.period)

    @staticmethod
    def read(data: Reader, width: int) -> "Way":
        """Raises FormatError."""
        turned, mean = divmod(data.uint(3), 2)
        return Way(bool(mean), bool(turned), data.uint(width))


def promising(q: Array) -> Iterator[Way]:
    """What may pay for integers q (m, n)."""
    if min(q.shape) < 2:
        return
    rows = some_of(len(q) - 1, _ROWS)
    above, below = q[rows], q[rows + 1]
    if max(_agree(above, below), _agree(above[:, ::-1], below[:, ::-1])) < _SAME_SIGN:
        return
    above, below = above.astype(np.float64), below.astype(np.float64)
    limit = _digits(below) - _BITS
    for turned in (False, True):
        left = below[:, ::-1] - np.roll(above[:, ::-1], 1, 1) if turned else below - np.roll(above, 1, 1)
        digits = _digits(left[:, 1:])
        if digits < limit and digits < _digits_of_others(above, below):
            sizes = np.abs(left)  # a row that is the first of a block differs everywhere
            period = _period(np.median(sizes, 0)) or _period(sizes.mean(0))
            yield from (Way(mean, turned, period) for mean in (False, True))


def _agree(above: Array, below: Array) -> float:
    """The share of neighbours on a diagonal of which both are negative, or none is."""
    return float(((above[:, :-1] < 0) == (below[:, 1:] < 0)).mean())


def _digits_of_others(above: Array, below: Array) -> float:
    """What is left where strangers, or neighbours in a row, predict each other."""
    return min(_digits(below - above[:, ::-1]) - _BITS, _digits(np.diff(below, axis=1)) - _LESS_THAN_ALONG)


def _digits(x: Array) -> float:
    """Bits of numbers, about."""
    return float(np.log2(1 + np.abs(x)).mean())


def _period(sizes: Array) -> int:
    """The distance of the columns that stand out by the mean sizes (n,) of their entries, or 0."""
    edges = np.flatnonzero(sizes > _EDGE * np.median(sizes))
    period = int(np.gcd.reduce(edges)) if len(edges) > 2 else 0
    return period if period > 1 and len(edges) > len(sizes) // period - 2 else 0


def differences(q: Array, way: Way) -> Array:
    """q (m, n) less its predictions, int64."""
    x = _turned(q, way.turned)
    rest, memory = x.copy(), _Memory(x.shape, way)
    for i, row in enumerate(x):
        rest[i] -= memory.prediction(i)
        memory.learn(i, row)
    return _turned(rest, way.turned)


def restored(rest: Array, way: Way) -> Array:
    """Inverse of differences."""
    x = _turned(rest, way.turned)
    memory = _Memory(x.shape, way)
    for i, row in enumerate(x):
        row += memory.prediction(i)
        memory.learn(i, row)
    return _turned(x, way.turned)


def _turned(x: Array, turned: bool) -> Array:
    return np.array(x[:, ::-1] if turned else x, np.int64, order="C")


class _Memory:
    """Sums and counts of what each diagonal has held, a row for each of the last rows."""

    def __init__(self, shape: tuple[int, ...], way: Way) -> None:
        self._mean, self._period = way.mean, way.period
        self._sums, self._counts = np.zeros((2, max(way.period, 1), shape[1]), np.int64)

    def prediction(self, i: int) -> Array:
        """The mean of each diagonal that meets row i, rounded; 0 of none."""
        self._reached = self._before(i, self._sums), self._before(i, self._counts)
        sums, counts = self._reached[0], np.maximum(self._reached[1], 1)
        return (2 * sums + counts) // (2 * counts)

    def _before(self, i: int, kept: Array) -> Array:
        """What is kept of the entry before each of row i on its diagonal."""
        before, period = np.zeros_like(kept[0]), self._period
        if not period or i % period:
            before[1:] = kept[(i - 1) % len(kept)][:-1]
        if period:
            edges = slice(period, None, period if i % period else 1)
            before[edges] = kept[i % period][: len(before) - period][:: edges.step]
        return before

    def learn(self, i: int, row: Array) -> None:
        sums, counts = self._reached
        at = i % len(self._sums)
        self._sums[at], self._counts[at] = (sums + row, counts + 1) if self._mean else (row, 1)
