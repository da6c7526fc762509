"""Every entry of a matrix to a whole number of steps, and the error that makes, in one pass that stays in the cache."""

import math

import numpy as np
import torch
from torch import Tensor

from hmcompress.hmatrix.basics.words import SHORT, WORDS, Histogram, look_up, words_of

Array = np.ndarray
_CHUNK = 1 << 15  # entries: they, their integers and their errors fit into the cache
_SOME = 1 << 14  # entries that are looked at for a magnitude that many have
_NEAR, _MANY = 0.95, 0.1  # of the largest magnitude; the share of entries above, of which uniform numbers have half
_COARSER, _COUNT = 3.0, 24  # how much larger a step may be, and how many are tried
_OCTAVES = 2  # powers of two above a step that are tried for numbers of 16 bits
_BESIDE = (0.0, 0.1)  # parts of a step by which they miss that magnitude, as the other entries may want it
_NARROW, _WIDE = 2.0**15 - 1, 2.0**31 - 128  # the largest integers that are held in 16 and 32 bits


def finer_steps(step: float, count: int, per_octave: int) -> list[float]:
    """Steps below this one, of one grid for all tolerances: a larger one is then hardly the worse for it."""
    top = math.ceil(per_octave * math.log2(step)) - 1
    return [2.0 ** (k / per_octave) for k in range(top, top - count, -1)]


class Rounder:
    """Rounds w (m, n), of up to 32 bits an entry, at one step after another; the last integers are kept."""

    def __init__(self, w: Tensor) -> None:
        self._w, self._largest = w.reshape(-1), max(map(abs, map(float, torch.aminmax(w))))
        self._q = np.empty(0, np.int16)
        many = w.dtype in SHORT and w.numel() >= 2 * WORDS
        self._histogram = Histogram.of(w, w.dtype) if many else None
        self._last: tuple[float, tuple[float, float]] | None = None

    def errors(self, step: float) -> tuple[float, float]:
        """The Frobenius norm and the largest magnitude of what decoding leaves of w; inf where integers are too large.

        The differences are of float32 numbers within a factor of two of each other, or from zero, so they are exact
        (Sterbenz); they are summed up in float64.
        """
        if self._last is None or self._last[0] != step:
            self._last = step, self._round(step)
        return self._last[1]

    def coarser_steps(self, step: float) -> list[float]:
        """Steps above this one that may make no larger error, the largest first; few matrices have any.

        Numbers of 16 bits are multiples of powers of two: such a step rounds the large ones exactly. Where many entries
        share the largest magnitude (clipped weights, and dead ones that decayed until numbers had no smaller
        neighbour), a step of which that is a multiple rounds these exactly.
        """
        return sorted(self._powers_of_two(step) + self._parts_of_the_largest(step), reverse=True)

    def _powers_of_two(self, step: float) -> list[float]:
        if self._w.dtype not in SHORT or step <= 0:
            return []
        above = math.floor(math.log2(step)) + 1
        return [2.0**k for k in range(above, above + _OCTAVES) if 2.0**k <= self._largest]

    def _parts_of_the_largest(self, step: float) -> list[float]:
        some = self._w[:: -(-len(self._w) // _SOME)].float().abs()
        near = some[some >= _NEAR * self._largest]
        if len(near) < _MANY * len(some) or not 0 < step <= self._largest:
            return []
        top = float(near.median())
        multiples = np.unique(np.rint(np.geomspace(max(top / step / _COARSER, 1), top / step, _COUNT)))
        steps = (float(np.float32(top / (k + beside))) for k in multiples for beside in _BESIDE)
        return [coarser for coarser in steps if coarser > step]

    def integers(self, step: float) -> Array:
        """The integers (m * n,) at this step, int16 where they fit; valid until another step is asked for."""
        self.errors(step)
        return self._q if self._histogram is None else look_up(self._q, words_of(self._w))

    def _round(self, step: float) -> tuple[float, float]:
        if self._largest / step > _WIDE:
            return math.inf, math.inf
        dtype = np.int16 if self._largest / step <= _NARROW else np.int32
        if self._histogram is not None:
            return self._round_words(self._histogram, np.float32(step), dtype)
        if self._q.dtype != dtype or len(self._q) != len(self._w):
            self._q = np.empty(len(self._w), dtype)
        squares = largest = 0.0
        for start in range(0, len(self._w), _CHUNK):
            e = self._round_some(slice(start, start + _CHUNK), np.float32(step))
            wide = e.astype(np.float64)
            squares += float(np.dot(wide, wide))
            largest = max(largest, float(e.max()), -float(e.min()))
        return math.sqrt(squares), largest

    def _round_some(self, where: slice, step: np.float32) -> Array:
        """Round some entries; their errors."""
        x = self._w[where]
        values = (x if x.dtype == torch.float32 else x.float()).numpy()
        e = values / step
        np.rint(e, out=e)
        self._q[where] = e
        return self._errors(e, values, step)

    def _round_words(self, histogram: Histogram, step: np.float32, dtype: type) -> tuple[float, float]:
        """As _round, each word once; the integers (65,536,) are those of the words."""
        e = np.rint(histogram.values / step)
        self._q = np.zeros(WORDS, dtype)
        self._q[histogram.words] = e
        e = self._errors(e, histogram.values, step)
        return histogram.norm(e), float(np.abs(e).max())

    def _errors(self, e: Array, values: Array, step: np.float32) -> Array:
        """What decoding leaves of values that became the integers e, in place of these."""
        e *= step
        if self._w.dtype != torch.float32:  # what is decoded is rounded once more
            e = torch.from_numpy(e).to(self._w.dtype).float().numpy()
        return np.subtract(e, values, out=e)
