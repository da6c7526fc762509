"""The scale of each entry: one for a block, or a row scale times a column scale.

Scales are classes, whole quarter octaves of the root mean square in steps. Row scales say how a row differs from the
block, column scales likewise, so that class(i, j) = block + row(i) + column(j).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

from hmcompress.coding.classes import CLASSES_PER_OCTAVE, MAX_CLASS, ZERO_CLASS, class_of
from hmcompress.coding.pool import price_pool
from hmcompress.coding.sample import jittered
from hmcompress.hmatrix import price

Array = np.ndarray
_SIDE_BITS = 3.0  # what a row's or column's scale costs, about
_SMALL = 256  # entries below which one scale will do
_SAMPLE = 1 << 14
_CAREFUL = 1 << 13  # entries from which scales are chosen by real tables
_FLOOR, _TINY = 2.0**-16, 1e-18
_LARGE = 1 << 13  # entries from which joint scales are priced in a search
_WORTH = 0.9995  # of the bits under one scale: what row or column scales must promise
_LEAST = 1e-30
_LOWEST = -200  # the scale of an empty row or column


@dataclass(frozen=True)
class Scales:
    """block: class. rows (m,), columns (n,): differences in classes, or None where there are none."""

    block: int
    rows: Array | None = None
    columns: Array | None = None

    def classes(self, shape: tuple[int, int]) -> Array:
        """The class of every entry, (m * n,), or a single one, (1,)."""
        if self.rows is None and self.columns is None:
            return np.array([self.block], np.int16)
        e = np.full(shape, self.block, np.int16)
        if self.rows is not None:
            e += self.rows.astype(np.int16)[:, None]
        if self.columns is not None:
            e += self.columns.astype(np.int16)[None]
        return np.clip(e, ZERO_CLASS, MAX_CLASS).reshape(-1)


def fit_scales(x: Array, alone: bool = False) -> Scales:
    """The cheapest scales of a block x (m, n), in steps. alone: it shares its tables with no other block."""
    square = np.square(x)
    flat = Scales(int(class_of(np.sqrt(square.mean())))) if x.size else Scales(ZERO_CLASS)
    if x.size < _SMALL:
        return flat
    trials = [_quantize(rows, columns) for rows, columns in _rank_one(square)]
    plain, *bits = (_class_bits(s, x.shape) for s in (flat, *trials))
    if min(bits) > _WORTH * plain:
        return flat
    if alone or x.size > _CAREFUL:  # estimates are for Gaussian entries, and may be far off for others
        return min([flat, *trials], key=lambda s: _price(s, x))
    estimates = [own + _sides_bits(s) for own, s in zip(bits, trials, strict=True)]
    return [flat, *trials][int(np.argmin([plain, *estimates]))]


def _price(scales: Scales, x: Array) -> float:
    """Bits of the block under these scales, from a sample of its rows and columns, and of the scales themselves."""
    stride = max(1, round(np.sqrt(x.size / _SAMPLE)))
    i, j = (jittered(n, stride) for n in x.shape)
    sample = x[i[:, None], j]
    rows = None if scales.rows is None else scales.rows[i]
    columns = None if scales.columns is None else scales.columns[j]
    bits = price_pool(sample.reshape(-1), Scales(scales.block, rows, columns).classes(sample.shape))
    return bits * (x.size / sample.size) + _sides_bits(scales)


def _sides_bits(scales: Scales) -> float:
    return sum(_side_bits(part) for part in (scales.rows, scales.columns) if part is not None)


def _side_bits(part: Array) -> float:
    """Bits of row or column scales: their empirical entropy and a little for their model."""
    counts = np.bincount(part - part.min())
    counts = counts[counts > 0]
    return float(np.sum(counts * np.log2(len(part) / counts))) + 16.0 * np.log2(1 + len(counts))


def _rank_one(square: Array) -> Iterator[tuple[Array | None, Array | None]]:
    """Row-only, column-only and joint root mean squares, as pairs (rows or None, columns or None)."""
    rows, columns = np.sqrt(square.mean(1)), np.sqrt(square.mean(0))
    yield rows, None
    yield None, columns
    yield rank_one_scales(square)


def rank_one_scales(square: Array) -> tuple[Array, Array]:
    """Row scales (m,) and column scales (n,) with square(i, j) about (row(i) * column(j)) ** 2."""
    columns = np.sqrt(square.mean(0))
    for _ in range(3):
        columns = np.maximum(columns, max(_FLOOR * float(columns.max(initial=0)), _TINY))
        rows = np.sqrt((square @ (1 / columns**2)) / len(columns))
        rows = np.maximum(rows, max(_FLOOR * float(rows.max(initial=0)), _TINY))
        columns = np.sqrt(((1 / rows**2) @ square) / len(rows))
    return rows, columns


def _quantize(rows: Array | None, columns: Array | None) -> Scales:
    """Move the middle of the row and column scales into the block's class, so that differences stay small."""
    block = 0.0
    parts: list[Array | None] = []
    for scale in (rows, columns):
        if scale is None:
            parts.append(None)
            continue
        e = np.maximum(CLASSES_PER_OCTAVE * np.log2(np.maximum(scale, _LEAST)), _LOWEST)
        middle = _median(e[e > _LOWEST])
        block += middle
        parts.append(np.maximum(e - middle, _LOWEST))
    whole = int(np.clip(np.rint(block), ZERO_CLASS, MAX_CLASS))
    # What lies below the zero class on its own needs no exact scale: equal values code better.
    rounded = [None if p is None else np.maximum(np.rint(p), ZERO_CLASS - 24 - whole).astype(np.int16) for p in parts]
    return Scales(whole, *rounded)


def _median(values: Array) -> float:
    """As np.median, in a fraction of its time for few values; 0 for none."""
    values, n = np.sort(values), len(values)
    return float((values[(n - 1) // 2] + values[n // 2]) / 2) if n else 0.0


def _class_bits(scales: Scales, shape: tuple[int, int]) -> float:
    """Bits of the block under these scales: counts of each class by convolution, not entry by entry."""
    counts, lowest = np.ones(1), scales.block
    for part, size in ((scales.rows, shape[0]), (scales.columns, shape[1])):
        if part is None:
            counts = counts * size
            continue
        counts = np.convolve(counts, np.bincount(part - part.min()))
        lowest += int(part.min())
    e = np.clip(lowest + np.arange(len(counts)), ZERO_CLASS, MAX_CLASS)
    return float(counts @ _bits_by_class()[e - ZERO_CLASS])


@cache
def _bits_by_class() -> Array:
    """Bits of an entry of each class from ZERO_CLASS, which takes none, to MAX_CLASS."""
    bits = price.bits(np.exp2(np.arange(ZERO_CLASS, MAX_CLASS + 1) / CLASSES_PER_OCTAVE))
    bits[0] = 0
    return bits


def price_quantized(stack: Array, noise: float = 0.0) -> Array:
    """Price of every block of a stack (b, m, n), in steps, quantised with its cheapest kind of scales: (b,).

    noise: mean square that rounding adds before the integers are coded.
    """
    _, m, n = stack.shape
    square = np.square(stack) + noise
    flat = m * n * price.cost(np.sqrt(square.mean((1, 2))))
    rows, columns = square.mean(2), square.mean(1)
    by_row = n * price.cost(np.sqrt(rows)).sum(1) + _SIDE_BITS * m
    by_column = m * price.cost(np.sqrt(columns)).sum(1) + _SIDE_BITS * n
    best = np.minimum(np.minimum(flat, by_row), by_column)
    return best if m * n < _LARGE else np.minimum(best, [price_jointly(s) for s in square])


def price_jointly(square: Array) -> float:
    """Price of a block given its squares (m, n), each entry at its own row's times its own column's scale."""
    rows, columns = rank_one_scales(square)
    return price.product_cost(rows, columns) + _SIDE_BITS * (len(rows) + len(columns))
