"""The scale of each entry: one for a block, or a row scale times a column scale.

Scales are classes, whole quarter octaves of the root mean square in steps. Row scales say how a row differs from the
block, column scales likewise, so that class(i, j) = block + row(i) + column(j).
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

from hmcompress.coding.buffer import Reader, Writer
from hmcompress.coding.classes import CLASSES_PER_OCTAVE, MAX_CLASS, ZERO_CLASS, class_of
from hmcompress.coding.pool_shapes import price_pool
from hmcompress.coding.sample import jittered
from hmcompress.coding.side import decode_side, encode_side
from hmcompress.errors import FormatError
from hmcompress.hmatrix.basics import price

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

    @property
    def head(self) -> int:
        """The class from that of zeros on, and whether rows and columns have scales, as one number that is stored."""
        return (self.block - ZERO_CLASS) * 4 + (self.rows is not None) + 2 * (self.columns is not None)

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


Kind = tuple[Array, Array | None, Array | None]  # of b blocks: classes (b,), differences of rows (b, m), columns (b, n)


def fit_scales(x: Array, alone: bool = False) -> Scales:
    """The cheapest scales of a block x (m, n), in steps. alone: it shares its tables with no other block."""
    flat, *trials, bits = _kinds(x[None])
    if x.size < _SMALL or bits[1:].min() > _WORTH * bits[0, 0]:
        return _scales(flat, 0)
    if alone or x.size > _CAREFUL:  # estimates are for Gaussian entries, and may be far off for others
        return min((_scales(kind, 0) for kind in (flat, *trials)), key=lambda s: _price(s, x))
    return _cheapest([flat, *trials], bits)[0]


def fit_scales_of(blocks: list[Array]) -> list[Scales]:
    """As fit_scales of each block, but many of one shape take hardly longer than one of them."""
    found: list[Scales | None] = [None] * len(blocks)
    by_shape = defaultdict(list)
    for i, x in enumerate(blocks):
        by_shape[x.shape].append(i)
    for shape, places in by_shape.items():
        if _SMALL <= shape[0] * shape[1] <= _CAREFUL:
            *kinds, bits = _kinds(np.stack([blocks[i] for i in places]))
            for i, scales in zip(places, _cheapest(kinds, bits), strict=True):
                found[i] = scales
    return [fit_scales(x) if s is None else s for x, s in zip(blocks, found, strict=True)]


def _kinds(stack: Array) -> list:
    """One scale for each block of a stack (b, m, n), the other kinds, and last the bits of the entries, (kinds, b)."""
    _, m, n = stack.shape
    square = np.square(stack)
    flat = class_of(np.sqrt(square.mean(axis=(1, 2)))).astype(np.int64)
    kinds = [_quantize(rows, columns) for rows, columns in _rank_one(square)]
    bits = [m * n * _bits_by_class()[flat - ZERO_CLASS], *(_class_bits(*kind, (m, n)) for kind in kinds)]
    return [(flat, None, None), *kinds, np.stack(bits)]


def _cheapest(kinds: list[Kind], bits: Array) -> list[Scales]:
    """Of each block by estimated bits, those of the scales themselves included, where any promise to pay."""
    total = bits + np.stack([np.zeros(bits.shape[1])] + [sum(map(_side_bits, kind[1:])) for kind in kinds[1:]])
    best = np.where(bits[1:].min(axis=0) > _WORTH * bits[0], 0, np.argmin(total, axis=0))
    return [_scales(kinds[k], i) for i, k in enumerate(best)]


def _scales(kind: Kind, i: int) -> Scales:
    """The scales of one of the blocks."""
    blocks, rows, columns = kind
    return Scales(int(blocks[i]), None if rows is None else rows[i], None if columns is None else columns[i])


def _price(scales: Scales, x: Array) -> float:
    """Bits of the block under these scales, from a sample of its rows and columns, and of the scales themselves."""
    stride = max(1, round(np.sqrt(x.size / _SAMPLE)))
    i, j = (jittered(n, stride) for n in x.shape)
    sample = x[i[:, None], j]
    rows = None if scales.rows is None else scales.rows[i]
    columns = None if scales.columns is None else scales.columns[j]
    bits = price_pool(sample.reshape(-1), Scales(scales.block, rows, columns).classes(sample.shape))
    return bits * (x.size / sample.size) + sum(float(_side_bits(_one(p))[0]) for p in (scales.rows, scales.columns))


def _one(part: Array | None) -> Array | None:
    return None if part is None else part[None]


def _side_bits(parts: Array | None) -> Array:
    """Bits of row or column scales (b, k), each k by itself: their empirical entropy and a little for their model."""
    if parts is None:
        return np.zeros(1)
    counts = _histograms(parts - parts.min(axis=1, keepdims=True))
    entropy = (counts * np.log2(parts.shape[1] / np.maximum(counts, 1))).sum(axis=1)
    return entropy + 16.0 * np.log2(1 + (counts > 0).sum(axis=1))


def _histograms(x: Array) -> Array:
    """How often each number from 0 on stands in each row of x (b, k)."""
    span = int(x.max(initial=0)) + 1
    places = x + span * np.arange(len(x))[:, None]
    return np.bincount(places.reshape(-1), minlength=span * len(x)).reshape(len(x), span)


def _rank_one(square: Array) -> Iterator[tuple[Array | None, Array | None]]:
    """Row-only, column-only and joint root mean squares of blocks (b, m, n): pairs of rows or None, columns or None."""
    rows, columns = np.sqrt(square.mean(2)), np.sqrt(square.mean(1))
    yield rows, None
    yield None, columns
    yield rank_one_scales(square)


def rank_one_scales(square: Array) -> tuple[Array, Array]:
    """Row scales (..., m) and column scales (..., n) with square(..., i, j) about (row(i) * column(j)) ** 2."""
    columns = np.sqrt(square.mean(-2))
    for _ in range(3):
        columns = _not_tiny(columns)
        rows = _not_tiny(np.sqrt((square @ (1 / columns**2)[..., None])[..., 0] / columns.shape[-1]))
        columns = np.sqrt(((1 / rows**2)[..., None, :] @ square)[..., 0, :] / rows.shape[-1])
    return rows, columns


def _not_tiny(scales: Array) -> Array:
    return np.maximum(scales, np.maximum(_FLOOR * scales.max(axis=-1, keepdims=True, initial=0), _TINY))


def _quantize(rows: Array | None, columns: Array | None) -> Kind:
    """Classes of blocks, and how those of rows (b, m) and columns (b, n) differ from them, as little as they can."""
    parts = [None if scales is None else _octaves(scales) for scales in (rows, columns)]
    middles = [np.zeros(1) if p is None else _middles(p) for p in parts]
    blocks = np.clip(np.rint(middles[0] + middles[1]), ZERO_CLASS, MAX_CLASS).astype(np.int64)
    # What lies below the zero class on its own needs no exact scale: equal values code better.
    least = ZERO_CLASS - 24 - blocks[:, None]
    rounded = [
        None if p is None else np.maximum(np.rint(np.maximum(p - middle[:, None], _LOWEST)), least).astype(np.int16)
        for p, middle in zip(parts, middles, strict=True)
    ]
    return blocks, rounded[0], rounded[1]


def _octaves(scales: Array) -> Array:
    return np.maximum(CLASSES_PER_OCTAVE * np.log2(np.maximum(scales, _LEAST)), _LOWEST)


def _middles(x: Array) -> Array:
    """The median of each row of x (b, k), empty ones left out; 0 where all are: (b,)."""
    x, n = np.sort(x, axis=1), x.shape[1]
    empty = (x <= _LOWEST).sum(axis=1)
    some = np.arange(len(x))
    low, high = (x[some, (empty + n - odd) // 2 - (empty == n)] for odd in (1, 0))
    return np.where(empty < n, (low + high) / 2, 0.0)


def _class_bits(blocks: Array, rows: Array | None, columns: Array | None, shape: tuple[int, ...]) -> Array:
    """Bits of blocks (b,) of this shape under these scales: by how often classes meet, not entry by entry."""
    r = blocks[:, None] + (0 if rows is None else rows)
    c = np.zeros((len(blocks), 1), np.int64) if columns is None else columns.astype(np.int64)
    low_r, low_c = int(r.min()), int(c.min())
    counts = _histograms(c - low_c)
    met = low_r + low_c + np.arange(int(r.max()) - low_r + 1)[:, None] + np.arange(counts.shape[1])
    of_rows = counts @ _bits_by_class()[np.clip(met, ZERO_CLASS, MAX_CLASS) - ZERO_CLASS].T
    bits = of_rows[np.arange(len(r))[:, None], r - low_r].sum(axis=1)
    return bits * (1 if rows is not None else shape[0]) * (1 if columns is not None else shape[1])


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
    square = np.square(stack)
    square += square.dtype.type(noise)
    rows, columns = square.mean(2), square.mean(1)
    flat = m * n * price.cost(np.sqrt(rows.mean(1)))
    by_row = n * price.cost(np.sqrt(rows)).sum(1) + _SIDE_BITS * m
    by_column = m * price.cost(np.sqrt(columns)).sum(1) + _SIDE_BITS * n
    best = np.minimum(np.minimum(flat, by_row), by_column)
    return best if m * n < _LARGE else np.minimum(best, [price_jointly(s) for s in square])


def price_jointly(square: Array) -> float:
    """Price of a block given its squares (m, n), each entry at its own row's times its own column's scale."""
    rows, columns = rank_one_scales(square)
    return price.product_cost(rows, columns) + _SIDE_BITS * (len(rows) + len(columns))


def write_scales(out: Writer, scales: Scales) -> None:
    """Store the scales of one matrix."""
    sides = [side for side in (scales.rows, scales.columns) if side is not None]
    out.uint(scales.head)
    if sides:
        out.section(encode_side(np.concatenate(sides), "max"))


def read_scales(data: Reader, shape: tuple[int, int]) -> Scales:
    """Inverse of write_scales for a (m, n) matrix. Raises FormatError."""
    number = data.uint((MAX_CLASS - ZERO_CLASS) * 4 + 3)
    has = bool(number & 1), bool(number & 2)
    counts = [n if present else 0 for n, present in zip(shape, has, strict=True)]
    values = decode_side(data.section(), sum(counts)) if any(has) else np.zeros(0, np.int64)
    if np.abs(values).max(initial=0) > 1 << 12:
        raise FormatError("a scale is out of range: the file is damaged")
    rows, columns = np.split(values, [counts[0]])
    return Scales(number // 4 + ZERO_CLASS, rows if has[0] else None, columns if has[1] else None)
