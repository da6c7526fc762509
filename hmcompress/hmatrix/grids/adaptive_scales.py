"""The expected size of the next integers of a grid, from those already coded: no scales are stored.

Columns come finest first. A row's scale is the mean size of its weights so far; a column's factor is learned from its
own first rows, in chunks that double. Only element-wise additions, multiplications and divisions of stored integers are
used, in a fixed order, so that every machine derives the same classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import ndtr

from hmcompress.coding.classes import CLASSES_PER_OCTAVE

LOWEST_CLASS, HIGHEST_CLASS = -14, 100  # standard deviations 2 ** (class / 4)
_FLAT = 2  # octaves: wider classes split off low bits
HIGH = 32  # high parts lie in [-HIGH, HIGH); the ends are escapes
_ROUNDING = 0.1  # steps added to the size of every integer, so that zeros tell little
_SPREAD = 1.1  # standard deviation over mean size
_FIRST_CHUNK = 4
ROW_MEMORY = (1.0, 2.0, 4.0, 8.0)
COLUMN_MEMORY = (8.0, 16.0, 48.0, 1e9)
# Mixtures of zero-mean Gaussians: (weight, standard deviation) pairs.
SHAPES = (
    ((0.75, 0.9), (0.25, 1.5)),
    ((0.5, 0.6), (0.4, 1.2), (0.1, 2.5)),
    ((0.4, 0.4), (0.4, 1.0), (0.16, 2.2), (0.04, 5.0)),
    ((0.4, 0.2), (0.3, 0.8), (0.2, 2.2), (0.1, 6.0)),
)
_EDGES = np.rint(2.0 ** ((np.arange(LOWEST_CLASS, HIGHEST_CLASS) + 0.5) / CLASSES_PER_OCTAVE) * 2.0**20) / 2.0**20


@dataclass(frozen=True)
class ScaleModel:
    """What is stored about the scales of a layer: where they start, how fast they adapt, the shape around them."""

    start: int = 0  # half octaves of a weight
    row_memory: int = 2
    column_memory: int = 1
    shape: int = 1


class AdaptiveScales:
    """Classes of the integers to come, column by column."""

    def __init__(self, model: ScaleModel, rows: int, start: float) -> None:
        self._rows = np.zeros(rows)
        self._seen = 0
        self._start = start
        self._row_memory = ROW_MEMORY[model.row_memory]
        self._column_memory = COLUMN_MEMORY[model.column_memory]

    def column(self, steps: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        """Chunks of a column with the classes of their integers; send the integers' sizes back by `learn`."""
        expected = (self._rows + self._row_memory * self._start) / (self._seen + self._row_memory)
        self._sizes = np.zeros(len(steps))
        factor = 1.0
        for chunk in chunks(len(steps)):
            ratio = expected[chunk] * (factor * _SPREAD) / steps[chunk]
            yield chunk, np.searchsorted(_EDGES, ratio)
            relative = np.cumsum(self._sizes[: chunk.stop] / expected[: chunk.stop])[-1]  # in order, unlike sum
            factor = (relative + self._column_memory) / (chunk.stop + self._column_memory)
        self._rows += self._sizes
        self._seen += 1

    def learn(self, chunk: slice, q: np.ndarray, steps: np.ndarray) -> None:
        self._sizes[chunk] = (np.abs(q) + _ROUNDING) * steps[chunk]


def known_classes(
    model: ScaleModel, start: float, q: np.ndarray, row_steps: np.ndarray, column_steps: np.ndarray
) -> np.ndarray:
    """(n, m) classes of all integers q (m, n), in the order of the columns, as AdaptiveScales gives them."""
    from hmcompress.hmatrix.grids.kernels import adaptive_classes  # here: decoding needs no compiler

    memories = (start, ROW_MEMORY[model.row_memory], COLUMN_MEMORY[model.column_memory])
    ends = np.array([chunk.stop for chunk in chunks(len(q))])
    return adaptive_classes(q, row_steps, column_steps, memories, _SPREAD, _ROUNDING, ends, _EDGES)


def chunks(rows: int) -> Iterator[slice]:
    begin, size = 0, _FIRST_CHUNK
    while begin < rows:
        end = min(begin + size, rows)
        yield slice(begin, end)
        begin, size = end, 2 * size


def low_bits(classes: np.ndarray) -> np.ndarray:
    """How many low bits of an integer of each class are coded as uniform."""
    return np.maximum((classes + LOWEST_CLASS) // CLASSES_PER_OCTAVE - _FLAT, 0)


@lru_cache(maxsize=len(SHAPES))
def tables(shape: int) -> np.ndarray:
    """Relative frequencies of the high parts for every class, (classes, 2 HIGH) float32 whole numbers."""
    classes = np.arange(HIGHEST_CLASS - LOWEST_CLASS + 1)
    sigma = 2.0 ** ((classes + LOWEST_CLASS) / CLASSES_PER_OCTAVE)
    edges = np.arange(-HIGH, HIGH + 1) * 2.0 ** low_bits(classes)[:, None] - 0.5
    cdf = sum(weight * ndtr(edges / (sigma[:, None] * width)) for weight, width in SHAPES[shape])
    cdf[:, 0], cdf[:, -1] = 0.0, 1.0
    return (np.rint(np.diff(cdf, axis=1) * 2.0**20) + 1).astype(np.float32)
