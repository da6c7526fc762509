"""Integers as rungs of a ladder: even up to some height, from there on as far apart as floating-point numbers are.

Weights of 16 bits that are rounded to a step finer than their own resolution take fewer values than steps: a rung is a
value that there is.
"""

import math
from dataclasses import dataclass

import numpy as np

_BINS_BITS = 4  # an octave of rungs is split into so many bins, as a power of two, within which all are as likely


@dataclass(frozen=True)
class Ladder:
    """top: height, in steps, of the first rung that is a float; per_octave: floats between two powers of two."""

    top: float
    per_octave: int

    @property
    def most_low_bits(self) -> int:
        """Low bits of a rung that are no part of its bin, at most."""
        return max(self.per_octave.bit_length() - 1 - _BINS_BITS, 0)

    @property
    def first(self) -> int:
        """Number of the rung at `top`; at the edge of a bin."""
        width = 1 << self.most_low_bits
        return math.ceil(self.top / width) * width

    def rung(self, height: float) -> float:
        """Number of the rung at a height, about."""
        if height < self.top:
            return height
        octave = math.frexp(height / self.top)[1] - 1
        return self.first + self.per_octave * (octave + height / self.top / 2.0**octave - 1)

    def positions(self, rungs: np.ndarray) -> np.ndarray:
        """Heights, in steps, of places between rungs, either sign; by exact operations and divisions only."""
        size = np.abs(rungs)
        octave, part = np.divmod(np.maximum(size - self.first, 0), self.per_octave)
        floats = np.ldexp(self.top * (1 + part / self.per_octave), octave.astype(np.int32))
        return np.sign(rungs) * np.where(size < self.first, np.minimum(size, self.top), floats)


class _Even(Ladder):
    """No floats: every integer is a step."""

    most_low_bits = 1 << 10

    def rung(self, height: float) -> float:
        return height

    def positions(self, rungs: np.ndarray) -> np.ndarray:
        return rungs


EVEN = _Even(math.inf, 1)
