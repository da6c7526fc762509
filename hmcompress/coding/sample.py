"""Which entries stand for many, and how they are read."""

from collections.abc import Sequence

import numpy as np


def golden(n: int) -> np.ndarray:
    """Fixed numbers (n,) in [0, 1) that stand for random ones: multiples of the golden section, less whole ones."""
    return np.modf(np.arange(n) * 0.6180339887498949)[0]


def some_of(n: int, about: int) -> np.ndarray:
    """About so many of the indices below n, up to twice as many, or all of few."""
    return jittered(n, max(1, n // about))


def jittered(n: int, stride: int) -> np.ndarray:
    """One of every `stride` indices below n, at changing places: of a spectrum, every second entry may vanish."""
    starts = np.arange(0, n, stride)
    if stride == 1:
        return starts
    places = starts + (golden(len(starts)) * stride).astype(np.int64)
    return np.minimum(places, n - 1)


class InSteps:
    """A matrix (m, n) over a step, of which only some entries are read: all would take as much memory again."""

    def __init__(self, a: np.ndarray, step: float) -> None:
        self._flat, self._step = a.reshape(-1), a.dtype.type(step)
        self.size = a.size

    def __getitem__(self, places: np.ndarray) -> np.ndarray:
        """The entries at these places (k,) of the matrix, row by row, in float32."""
        return (self._flat[places] / self._step).astype(np.float32, copy=False)


class FromTable:
    """What words (n,) stand for in a table, likewise."""

    def __init__(self, table: np.ndarray, words: np.ndarray) -> None:
        self._table, self._words = table, words
        self.size = words.size

    def __getitem__(self, places: np.ndarray | slice) -> np.ndarray:
        return self._table[self._words[places]]


class Joined:
    """Arrays one after the other, likewise."""

    def __init__(self, arrays: Sequence[np.ndarray | InSteps | FromTable]) -> None:
        self._arrays = [a.reshape(-1) if isinstance(a, np.ndarray) else a for a in arrays]
        self._ends = np.cumsum([0, *(a.size for a in self._arrays)])

    def __getitem__(self, places: np.ndarray) -> np.ndarray:
        """The entries at these places (k,), which ascend."""
        own = np.split(places, np.searchsorted(places, self._ends[1:-1]))
        runs = zip(self._arrays, own, self._ends[:-1], strict=True)
        return np.concatenate([a[at - start] for a, at, start in runs])
