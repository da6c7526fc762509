"""Weights of 16 bits as words: there are few enough for tables of all, so what is asked of many is looked up."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray
SHORT = (torch.bfloat16, torch.float16)
WORDS = 1 << 16
_AT_ONCE = 1 << 16  # entries


def words_of(w: Tensor) -> Array:
    """The bits (n,) of 16-bit weights w (n,), as numbers from 0 to 65,535."""
    return w.view(torch.int16).numpy().view(np.uint16)


def floats_of(words: Array, dtype: torch.dtype) -> Array:
    """What words (n,) stand for, in float32."""
    return torch.from_numpy(words.view(np.int16)).view(dtype).float().numpy()


def look_up(table: Array, places: Array) -> Array:
    """table[places] (n,), some at a time: places take eight bytes each meanwhile."""
    found = np.empty(len(places), table.dtype)
    for start in range(0, len(places), _AT_ONCE):
        found[start : start + _AT_ONCE] = table[places[start : start + _AT_ONCE]]
    return found


@dataclass(frozen=True)
class Histogram:
    """The words (k,) that stand in a 16-bit matrix, and how often each does: all that errors of rounding need."""

    words: Array
    counts: Array
    dtype: torch.dtype

    @staticmethod
    def of(w: Tensor, dtype: torch.dtype) -> "Histogram":
        """Of w (m, n), all of whose values the dtype holds."""
        counts = np.zeros(WORDS, np.int64)
        for part in w.reshape(-1).split(_AT_ONCE):
            counts += np.bincount(words_of(part.to(dtype)), minlength=WORDS)
        words = np.flatnonzero(counts)
        return Histogram(words.astype(np.uint16), counts[words], dtype)

    @cached_property
    def values(self) -> Array:
        """What the words stand for (k,), float32."""
        return floats_of(self.words, self.dtype)

    def norm(self, changes: Array) -> float:
        """The Frobenius norm of a matrix whose entries are `changes` (k,), one for each word."""
        wide = changes.astype(np.float64)
        return float(np.sqrt(np.dot(np.square(wide), self.counts)))

    def share_from(self, height: float) -> float:
        """The share of entries whose magnitude is at least this."""
        return float(self.counts[np.abs(self.values) >= height].sum() / self.counts.sum())
