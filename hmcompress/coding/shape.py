"""One smooth distribution shape, scaled to give the probabilities of integers at any rate.

A shape is the distribution of |z| for a symmetric variable z of unit scale, known at a few tail probabilities and
interpolated by monotone cubics (Fritsch & Carlson 1980). Only additions, multiplications and divisions are used between
stored integers and probabilities, so that every machine derives the same tables.
"""

import itertools
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hmcompress.coding.buffer import Reader, Writer
from hmcompress.errors import FormatError

# P(|z| > t) at the knots; the last knot bounds the support.
TAILS = np.array([1, 14, 12, 10, 8, 6, 4, 3, 2, 1, 0.5, 0.25, 1 / 16, 1 / 64, 1 / 512, 0]) / np.array([1] + [16] * 15)
RESOLUTION = 32  # knots are stored as whole 1/32 octaves
# 2 ** (i / 32), rounded far above the last bit so that no two libraries can disagree about it.
_OCTAVE = np.rint(np.exp2(np.arange(RESOLUTION) / RESOLUTION) * 2.0**40) / 2.0**40
_GAUSSIAN = np.array([-85, -53, -33, -18, -6, 6, 13, 20, 29, 35, 41, 49, 55, 62, 76])
_LAPLACE = np.array([-109, -74, -51, -33, -17, -1, 8, 18, 31, 41, 50, 63, 73, 85, 110])
_UNIFORM = np.array([-71, -39, -20, -7, 4, 12, 16, 19, 22, 24, 25, 26, 27, 28, 29])
BUILT_IN = {1: _GAUSSIAN, 2: _LAPLACE, 3: _UNIFORM}
CUSTOM = 0


def octaves(n: np.ndarray) -> np.ndarray:
    """2 ** (n / 32), the same on every machine."""
    return np.ldexp(_OCTAVE[n % RESOLUTION], (n // RESOLUTION).astype(np.int32))


@dataclass(frozen=True)
class Shape:
    """Knots of |z| in 1/32 octaves, one for each entry of TAILS but the first (which is 0)."""

    knots: tuple[int, ...]

    @cached_property
    def _positions(self) -> np.ndarray:
        return np.concatenate([[0.0], octaves(np.array(self.knots))])

    @cached_property
    def _slopes(self) -> np.ndarray:
        h = np.diff(self._positions)
        d = -np.diff(TAILS) / h
        left, right = 2 * h[1:] + h[:-1], h[1:] + 2 * h[:-1]
        inner = (left + right) * d[:-1] * d[1:] / (left * d[1:] + right * d[:-1])
        return np.concatenate([[d[0]], inner, [0.0]])

    @property
    def support(self) -> float:
        """Largest |z|."""
        return float(self._positions[-1])

    def cdf(self, t: np.ndarray) -> np.ndarray:
        """P(|z| <= t) for t >= 0."""
        x, y, slope = self._positions, 1 - TAILS, self._slopes
        t = np.minimum(t, x[-1])
        i = np.clip(np.searchsorted(x, t, side="right") - 1, 0, len(x) - 2)
        h = x[i + 1] - x[i]
        u = (t - x[i]) / h
        v = 1 - u
        cubic = y[i] * v * v * (1 + 2 * u) + y[i + 1] * u * u * (3 - 2 * u)
        return cubic + h * (slope[i] * u * v * v - slope[i + 1] * u * u * v)

    def divergence(self, other: "Shape") -> float:
        """Bits a number more where `other` codes what has this shape, as far as the masses between its knots tell."""
        masses = -np.diff(TAILS)
        given = np.maximum(np.diff(other.cdf(self._positions)), 2.0**-26)
        return float(np.sum(masses * np.log2(masses / given)))

    def probabilities(self, edges: np.ndarray) -> np.ndarray:
        """For signed edges (n,), of which runs ascend, the probability of each interval between neighbours: (n - 1,).

        In float64: the range coder adds them up, and in float32 the last of many can be rounded away.
        """
        signed = np.sign(edges) * self.cdf(np.abs(edges))
        return np.maximum(np.diff(signed) / 2, 2.0**-26)


def fit_shape(z: np.ndarray) -> Shape:
    """The shape of a sample of |z|, (n,), n >= 1."""
    z = np.sort(np.abs(z).astype(np.float32, copy=False))  # several times faster than finding so many ranks
    ranks = np.minimum(((1 - TAILS[1:]) * len(z)).astype(int), len(z) - 1)
    at = np.maximum(z[ranks].astype(np.float64), 2.0**-20)
    knots = np.rint(RESOLUTION * np.log2(at)).astype(int)
    knots[-1] = int(np.ceil(RESOLUTION * np.log2(max(z[-1], 2.0**-20)))) + 1
    return Shape(tuple(int(k) for k in _increasing(knots)))


def built_in_shapes(like: Shape) -> list[Shape]:
    """The built-in shapes, which take three bytes to store, at the size and with the support of another."""
    own, found = np.array(like.knots), []
    for knots in BUILT_IN.values():
        inner = knots[:-1] + int(np.median(own[4:9] - knots[4:9]))
        found.append(Shape((*(int(k) for k in inner), max(like.knots[-1], int(inner[-1]) + 1))))
    return found


def _increasing(knots: np.ndarray) -> np.ndarray:
    """Make the knots strictly increasing, moving them up as little as possible."""
    index = np.arange(len(knots))
    return np.maximum.accumulate(knots - index) + index


def write_shape(out: Writer, shape: Shape) -> None:
    """Store a shape: a number for a built-in one with its shift and support, else the knots' differences."""
    for code, knots in BUILT_IN.items():
        shift = shape.knots[0] - knots[0]
        if shape.knots[:-1] == tuple(int(k) for k in knots[:-1] + shift):
            out.uint(code).sint(int(shift)).uint(shape.knots[-1] - shape.knots[-2])
            return
    out.uint(CUSTOM).sint(shape.knots[0])
    for step in np.diff(shape.knots):
        out.uint(int(step))


def read_shape(data: Reader) -> Shape:
    """Inverse of write_shape. Raises FormatError."""
    code, first = data.uint(), data.sint()
    if code in BUILT_IN:
        base = BUILT_IN[code] + first
        knots = [*base[:-1], base[-2] + data.uint(1 << 12)]
    elif code == CUSTOM:
        knots = [first]
        for _ in range(len(TAILS) - 2):
            knots.append(knots[-1] + data.uint(1 << 12))
    else:
        raise FormatError(f"distribution shape {code} is unknown: the file is damaged or newer than this release")
    if not all(-4096 < k < 4096 for k in knots) or any(b <= a for a, b in itertools.pairwise(knots)):
        raise FormatError("a distribution shape is impossible: the file is damaged")
    return Shape(tuple(int(k) for k in knots))
