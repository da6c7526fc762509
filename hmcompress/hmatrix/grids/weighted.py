"""Codec `weighted`: a grid whose steps follow rows and columns, zero lines left out; the form of the outputs metric.

One range-coded stream: flags of the lines that are not zero, exponents of their steps, the model of the scales, then
the integers column by column, finest first.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np
import torch

from hmcompress.coding.symbols import Adaptive, Coder, Decoder, Encoder, code_flags
from hmcompress.hmatrix.basics.bodies import QuantizedBody
from hmcompress.hmatrix.grids.adaptive_scales import (
    COLUMN_MEMORY,
    HIGH,
    ROW_MEMORY,
    SHAPES,
    AdaptiveScales,
    ScaleModel,
    chunks,
    known_classes,
    low_bits,
    tables,
)
from hmcompress.hmatrix.grids.grid import EXPONENT_LIMIT, Grid, powers

Array = np.ndarray
STARTS = 256
_SPAN = 2 * EXPONENT_LIMIT + 1
_ESCAPE_BITS = 31
CHOICES: tuple[tuple[str, Sequence[int]], ...] = (  # of the model of the scales, turned one by one
    ("shape", range(len(SHAPES))),
    ("row_memory", range(len(ROW_MEMORY))),
    ("column_memory", range(len(COLUMN_MEMORY))),
    ("start", (-3, 3)),
)
_LARGE = 1 << 17  # integers of a grid of which the model of the scales is chosen by what it would take
_CHOSEN_BY = 1 << 20  # integers by which it is chosen, at least
_NEVER = 1e6  # bits of what cannot be coded
_AT_ONCE = 1 << 12  # symbols, each with its table
_WIDEST = 128  # half octaves between the exponents of a layer


def encode(grid: Grid, thorough: bool = True) -> bytes:
    """The bytes of a grid. `thorough` tries the models of the scales one by one."""
    first = ScaleModel(start=mean_exponent(grid))
    if thorough and grid.q.size > _LARGE:
        return _encode(grid, best_model(partial(_bits, _some_rows(_living(grid))), first))
    return smallest(partial(_encode, grid), first, thorough)


def best_model(cost: Callable[[ScaleModel], float], model: ScaleModel) -> ScaleModel:
    """The cheapest model found from a first one by turning its choices one by one."""
    least = cost(model)
    for name, values in CHOICES:
        for value in values:
            other = replace(model, **{name: value if name != "start" else model.start + value})
            if other != model and (needed := cost(other)) < least:
                least, model = needed, other
    return model


def _living(grid: Grid) -> Grid:
    """Without its zero lines, columns in the order in which they are coded."""
    rows, columns = np.flatnonzero(grid.live_rows), np.flatnonzero(grid.live_columns)
    columns = columns[np.argsort(grid.column_exponents[columns], kind="stable")]
    return Grid(grid.q[np.ix_(rows, columns)], grid.row_exponents[rows], grid.column_exponents[columns])


def _some_rows(living: Grid) -> Grid:
    """Every so many rows of a very large grid: enough to choose a model by."""
    apart = max(living.q.size // _CHOSEN_BY, 1)
    return living.take_rows(slice(None, None, apart))


def _bits(living: Grid, model: ScaleModel) -> float:
    """About what the integers take."""
    start = float(powers(np.array(model.start - STARTS // 2)))
    steps = powers(living.row_exponents), powers(living.column_exponents)
    classes, q = known_classes(model, start, living.q, *steps), living.q.T
    shares = tables(model.shape).astype(np.float64)
    surprise = -np.log2(shares / shares.sum(1, keepdims=True))
    low = low_bits(classes)
    high = q >> low
    escaped = np.maximum(np.maximum(high - (HIGH - 1), -HIGH - high), 0)
    rest = low.sum() + np.log2(1 + escaped[escaped > 0]).sum() + np.log2(_ESCAPE_BITS + 1) * (escaped > 0).sum()
    return float(surprise[classes, np.clip(high, -HIGH, HIGH - 1) + HIGH].sum() + rest)


def smallest(encode: Callable[[ScaleModel], bytes], model: ScaleModel, thorough: bool) -> bytes:
    """What `encode` makes of a model or, where `thorough`, of the best one found from it."""
    if not thorough:
        return encode(model)
    coded = cache(encode)
    return coded(best_model(lambda other: len(coded(other)), model))


def decode(data: bytes, shape: tuple[int, int], dtype: torch.dtype) -> QuantizedBody:
    """Inverse of encode. Raises FormatError."""
    grid = code_grid(Decoder(data), shape, None, ScaleModel(), _PREAMBLE)
    return QuantizedBody(torch.from_numpy(grid.to_dense()).to(dtype))


def _encode(grid: Grid, model: ScaleModel) -> bytes:
    encoder = Encoder()
    code_grid(encoder, (grid.q.shape[0], grid.q.shape[1]), grid, model, _PREAMBLE)
    return encoder.getvalue()


def mean_exponent(grid: Grid) -> int:
    """Half octaves of the geometric mean size of the weights that are not zero, as stored."""
    i, j = np.nonzero(grid.q)
    if not len(i):
        return STARTS // 2
    exponents = 2 * np.log2(np.abs(grid.q[i, j])) + grid.row_exponents[i] + grid.column_exponents[j]
    return int(np.clip(np.rint(exponents.mean()), -STARTS // 2, STARTS // 2 - 1)) + STARTS // 2


@dataclass(frozen=True)
class Preamble:
    """How all but the integers is said: which of so many lines live, exponents of the rows' and of the columns' steps,
    the model of the scales. Each takes what is to be encoded, or None from a decoder."""

    lines: Callable[[Coder, int, Array | None], Array]
    exponents: Callable[[Coder, tuple[int, int], tuple[Array, Array] | None], tuple[Array, Array]]
    model: Callable[[Coder, ScaleModel], ScaleModel]


def code_grid(coder: Coder, shape: tuple[int, int], grid: Grid | None, model: ScaleModel, preamble: Preamble) -> Grid:
    """Run a grid through a coder, or a coder's grid out of it."""
    columns = preamble.lines(coder, shape[1], None if grid is None else grid.live_columns)
    rows = preamble.lines(coder, shape[0], None if grid is None else grid.live_rows)
    given = None if grid is None else (grid.row_exponents[rows], grid.column_exponents[columns])
    exponents = preamble.exponents(coder, (len(rows), len(columns)), given)
    q = np.zeros((len(rows), len(columns)), np.int64) if grid is None else grid.q[np.ix_(rows, columns)]
    if q.size:
        q = code_integers(coder, q, grid is not None, *exponents, preamble.model(coder, model))
    whole, of_rows, of_columns = np.zeros(shape, np.int64), np.zeros(shape[0], np.int64), np.zeros(shape[1], np.int64)
    whole[np.ix_(rows, columns)] = q
    of_rows[rows], of_columns[columns] = exponents
    return Grid(whole, of_rows, of_columns)


def _exponents(coder: Coder, sizes: tuple[int, int], given: tuple[Array, Array] | None) -> tuple[Array, Array]:
    columns = _exponents_of(coder, sizes[1], None if given is None else given[1])
    return _exponents_of(coder, sizes[0], None if given is None else given[0]), columns


def _exponents_of(coder: Coder, count: int, exponents: Array | None) -> Array:
    """Exponents of `count` live lines."""
    if count == 0:
        return np.zeros(0, np.int64)
    low = coder.number(None if exponents is None else int(exponents.min()) + EXPONENT_LIMIT, _SPAN) - EXPONENT_LIMIT
    span = coder.number(None if exponents is None else int(exponents.max()) - low, _WIDEST) if count > 1 else 0
    adaptive = Adaptive(span + 1, prior=0.3, spread=0.4)
    return low + adaptive.code_all(coder, None if exponents is None else exponents - low, count)


def _model(coder: Coder, model: ScaleModel) -> ScaleModel:
    return ScaleModel(
        coder.number(model.start, STARTS),
        coder.number(model.row_memory, len(ROW_MEMORY)),
        coder.number(model.column_memory, len(COLUMN_MEMORY)),
        coder.number(model.shape, len(SHAPES)),
    )


_PREAMBLE = Preamble(code_flags, _exponents, _model)


def code_integers(
    coder: Coder, q: Array, given: bool, row_exponents: Array, column_exponents: Array, model: ScaleModel
) -> Array:
    start = float(powers(np.array(model.start - STARTS // 2)))
    row_steps, column_steps = powers(row_exponents), powers(column_exponents)
    frequencies, order = tables(model.shape), np.argsort(column_exponents, kind="stable")
    if given:
        known = known_classes(model, start, q[:, order], row_steps, column_steps[order])
        _send(coder, q[:, order].T.reshape(-1), known.reshape(-1), _ends(*q.shape), frequencies)
        return q
    scales, coded = AdaptiveScales(model, len(row_exponents), start), np.zeros_like(q)
    for j in order:
        steps = row_steps * column_steps[j]
        for chunk, classes in scales.column(steps):
            coded[chunk, j] = _chunk(coder, None, classes, frequencies)
            scales.learn(chunk, coded[chunk, j], steps)
    return coded


def _ends(rows: int, columns: int) -> Array:
    """Of the chunks of all columns, one column after another."""
    stops = np.array([chunk.stop for chunk in chunks(rows)])
    return (rows * np.arange(columns)[:, None] + stops).reshape(-1)


def _send(coder: Coder, q: Array, classes: Array, ends: Array, frequencies: Array) -> None:
    """Chunks one by one or, where nothing but their symbols is sent, many at once, which is the same to the decoder."""
    special = (low_bits(classes) > 0) | (q <= -HIGH) | (q >= HIGH - 1)
    apart = np.logical_or.reduceat(special, np.append(0, ends[:-1]))
    begin = 0
    for k, end in enumerate(ends):
        last = k + 1 == len(ends) or apart[k + 1] or ends[k + 1] - begin > _AT_ONCE
        if apart[k]:
            _chunk(coder, q[begin:end], classes[begin:end], frequencies)
        elif last:
            coder.categorical(q[begin:end] + HIGH, frequencies[classes[begin:end]])
        begin = end if apart[k] or last else begin


def integer_bits(grid: Grid, model: ScaleModel, span: int) -> Array:
    """(m, n, 2 span + 1) bits that integers of a grid take, and that their neighbours up to `span` away would.

    Living lines stay those: zeros in others take no bits, and nothing else can stand there.
    """
    rows, columns = np.flatnonzero(grid.live_rows), np.flatnonzero(grid.live_columns)
    bits = np.full((*grid.q.shape, 2 * span + 1), _NEVER)
    bits[..., span] = 0.0
    row_steps, column_steps = powers(grid.row_exponents[rows]), powers(grid.column_exponents)
    scales = AdaptiveScales(model, len(rows), float(powers(np.array(model.start - STARTS // 2))))
    frequencies = tables(model.shape)
    for j in sorted(columns, key=lambda j: grid.column_exponents[j]):
        steps, q = row_steps * column_steps[j], grid.q[rows, j]
        for chunk, classes in scales.column(steps):
            low, near = low_bits(classes)[:, None], q[chunk, None] + np.arange(-span, span + 1)
            high = np.clip(near >> low, -HIGH, HIGH - 1) + HIGH
            shares = np.take_along_axis(frequencies[classes], high, 1) / frequencies[classes].sum(1, keepdims=True)
            bits[rows[chunk], j] = low - np.log2(shares)
            scales.learn(chunk, q[chunk], steps)
    return bits


def _chunk(coder: Coder, q: Array | None, classes: Array, frequencies: Array) -> Array:
    low = low_bits(classes)
    clipped = None if q is None else np.clip(q >> low, -HIGH, HIGH - 1)
    high = coder.categorical(None if clipped is None else clipped + HIGH, frequencies[classes]).astype(np.int64) - HIGH
    for i in np.flatnonzero((high == -HIGH) | (high == HIGH - 1)):
        high[i] = _escape(coder, None if q is None else int(q[i] >> low[i]), int(high[i]))
    split = np.flatnonzero(low)
    rest = np.zeros(len(classes), np.int64)
    if len(split):
        sizes = np.left_shift(1, low[split])
        rest[split] = coder.uniform(None if q is None else q[split] & (sizes - 1), sizes)
    return (high << low) + rest


def _escape(coder: Coder, high: int | None, end: int) -> int:
    """A high part at or beyond the end of its table: the bits of what is left, then the bits themselves."""
    excess = None if high is None else abs(high - end)
    bits = coder.number(None if excess is None else excess.bit_length(), _ESCAPE_BITS + 1)
    value = 0
    for k in range(bits):
        value |= coder.number(None if excess is None else excess >> k & 1, 2) << k
    return end - value if end < 0 else end + value
