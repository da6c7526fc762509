"""Codec `compact`: a grid of few living lines in as few bytes as can be, the form of the joint stage.

One arithmetic-coded stream: which lines live (the first ones, as a rule, and the last column for the bias), exponents
of their steps, the model of the scales where it is not the usual one, and the integers, as in `weighted`.
"""

from dataclasses import replace
from functools import partial

import numpy as np
import torch

from hmcompress.coding.arithmetic import ArithmeticDecoder, ArithmeticEncoder
from hmcompress.coding.symbols import Adaptive, Coder, code_flags
from hmcompress.hmatrix.basics.bodies import QuantizedBody
from hmcompress.hmatrix.grids.adaptive_scales import COLUMN_MEMORY, ROW_MEMORY, SHAPES, ScaleModel
from hmcompress.hmatrix.grids.grid import EXPONENT_LIMIT, Grid
from hmcompress.hmatrix.grids.weighted import STARTS, Preamble, code_grid, mean_exponent, smallest

_FIRST, _FIRST_AND_LAST, _ANY = range(3)
_PATTERNS = np.array([[6, 6, 1]], np.float32)  # frequencies of the three
_STEP, _STEP_SPREAD = -8, 8  # half octaves around which steps and weights are expected
_START, _START_SPREAD = 0, 4
_WIDEST = 64  # half octaves between the exponents of a layer
_USUAL = ScaleModel()


def canonical(grid: Grid) -> Grid:
    """The same grid with the least exponent of its living rows zero: only sums with those of the columns are stored."""
    rows = grid.live_rows
    least = int(grid.row_exponents[rows].min()) if rows.any() else 0
    return replace(grid, row_exponents=grid.row_exponents - least, column_exponents=grid.column_exponents + least)


def encode(grid: Grid, thorough: bool = True) -> bytes:
    """The bytes of a canonical grid. `thorough` tries the models of the scales one by one."""
    return smallest(partial(_encode, grid), usual_model(grid), thorough)


def usual_model(grid: Grid) -> ScaleModel:
    """The model of the scales that costs the least to name."""
    return replace(_USUAL, start=mean_exponent(grid))


def decode(data: bytes, shape: tuple[int, int], dtype: torch.dtype) -> QuantizedBody:
    """Inverse of encode. Raises FormatError."""
    grid = code_grid(ArithmeticDecoder(data), shape, None, _USUAL, _PREAMBLE)
    return QuantizedBody(torch.from_numpy(grid.to_dense()).to(dtype))


def _encode(grid: Grid, model: ScaleModel) -> bytes:
    encoder = ArithmeticEncoder()
    code_grid(encoder, (grid.q.shape[0], grid.q.shape[1]), grid, model, _PREAMBLE)
    return encoder.getvalue()


def _lines(coder: Coder, count: int, live: np.ndarray | None) -> np.ndarray:
    """Positions of the live lines among `count`."""
    first, pattern = (None, None) if live is None else _pattern(live)
    pattern = _one(coder, pattern, _PATTERNS)
    if pattern == _ANY:
        return code_flags(coder, count, live)
    first = _magnitude(coder, first, count)
    last = [count - 1] if pattern == _FIRST_AND_LAST and first < count else []
    return np.array([*range(min(first, count)), *last], np.int64)


def _pattern(live: np.ndarray) -> tuple[int, int]:
    """How many lines live from the first on, and what else does."""
    first = len(live) if live.all() else int(np.argmin(live))
    if not live[first:].any():
        return first, _FIRST
    return first, _FIRST_AND_LAST if not live[first:-1].any() else _ANY


def _magnitude(coder: Coder, value: int | None, largest: int) -> int:
    """A number in [0, largest], small ones in fewer bits: how many bits, then these."""
    bits = coder.number(None if value is None else value.bit_length(), largest.bit_length() + 1)
    if bits < 2:
        return bits
    half = 1 << bits - 1
    return half + coder.number(None if value is None else value - half, half)


def _one(coder: Coder, value: int | None, frequencies: np.ndarray) -> int:
    return int(coder.categorical(None if value is None else np.array([value], np.int32), frequencies)[0])


def _around(coder: Coder, value: int | None, middle: int, spread: int, limit: int) -> int:
    """A number in [-limit, limit], cheap near the middle."""
    numbers = np.arange(-limit, limit + 1)
    frequencies = np.rint(2.0**16 / (1.0 + ((numbers - middle) / spread) ** 2)) + 1.0
    return _one(coder, None if value is None else value + limit, frequencies[None].astype(np.float32)) - limit


def _exponents(
    coder: Coder, sizes: tuple[int, int], given: tuple[np.ndarray, np.ndarray] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Exponents of live rows, whose least is zero, and of columns."""
    m, n = sizes
    if not m * n:
        return np.zeros(m, np.int64), np.zeros(n, np.int64)
    least = None if given is None else int(given[1].min())
    base = _around(coder, least, _STEP, _STEP_SPREAD, 2 * EXPONENT_LIMIT)
    rows = _excess(coder, m, None if given is None else given[0])
    columns = _excess(coder, n, None if given is None else given[1] - given[1].min())
    return rows, base + columns


def _excess(coder: Coder, count: int, values: np.ndarray | None) -> np.ndarray:
    """`count` numbers of which the least is zero."""
    span = _magnitude(coder, None if values is None else int(values.max()), _WIDEST) if count > 1 else 0
    adaptive = Adaptive(span + 1, prior=0.3, spread=0.4)
    return adaptive.code_all(coder, values, count)


def _model(coder: Coder, model: ScaleModel) -> ScaleModel:
    half = STARTS // 2
    start = half + min(max(_around(coder, model.start - half, _START, _START_SPREAD, half), -half), half - 1)
    usual = replace(_USUAL, start=model.start) == model
    if _one(coder, int(usual), np.array([[1, 3]], np.float32)):
        return replace(_USUAL, start=start)
    return ScaleModel(
        start,
        coder.number(model.row_memory, len(ROW_MEMORY)),
        coder.number(model.column_memory, len(COLUMN_MEMORY)),
        coder.number(model.shape, len(SHAPES)),
    )


_PREAMBLE = Preamble(_lines, _exponents, _model)
