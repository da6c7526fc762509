"""Bases of a quantised remainder: entries as they are, cosine transforms, differences of neighbours, or Fourier ones.

Rows or columns that stand for points of a grid are smooth. The cosine bases are orthonormal, so that rounding errors
count the same as without them; differences are taken of the rounded integers, so that they lose nothing. Kernels of
short-time Fourier transforms are few whole waves: the real Fourier transform (Hartley 1942) is orthonormal too, and its
own inverse.
"""

from dataclasses import dataclass

import numpy as np
from scipy.fft import dctn, idctn, rfft

Array = np.ndarray


@dataclass(frozen=True)
class Basis:
    """How a remainder (m, n) is turned into integers. axes: -2 runs down the columns, -1 along the rows."""

    axes: tuple[int, ...] = ()
    difference: bool = False
    fourier: bool = False

    @property
    def keeps_entries(self) -> bool:
        """Whether no entry is off by more than half a step."""
        return self.difference or not self.axes

    def integers(self, x: Array) -> Array:
        """Integers, as floats, of a remainder x (..., m, n) in steps."""
        if not self.difference:
            return np.rint(self.spread(x))
        return self.spread(np.rint(x))

    def spread(self, x: Array) -> Array:
        """What `integers` rounds, or the differences of x: its size by row and column sets the price."""
        if not self.axes:
            return x
        if not (self.difference or self.fourier):
            return dctn(x, axes=self.axes, norm="ortho")
        for axis in self.axes:
            x = _differences(x, axis) if self.difference else _hartley(x, axis)
        return x

    def restore(self, q: Array) -> Array:
        """The remainder, in steps, that integers q (m, n) stand for."""
        if not self.axes:
            return q
        if self.fourier:
            return self.spread(q.astype(np.float64))
        if not self.difference:
            return idctn(q.astype(np.float64), axes=self.axes, norm="ortho")
        q = q.astype(np.int64)
        for axis in self.axes:
            q = np.cumsum(q, axis=axis)
        return q


def _differences(x: Array, axis: int) -> Array:
    """Of neighbours along an axis, the first entry as it is; np.diff would copy x once more to put a zero first."""
    out = np.empty_like(x)
    lines, differences = np.moveaxis(x, axis, 0), np.moveaxis(out, axis, 0)
    differences[:1] = lines[:1]
    np.subtract(lines[1:], lines[:-1], out=differences[1:])
    return out


def _hartley(x: Array, axis: int) -> Array:
    """Real parts less imaginary parts of the Fourier transform along an axis, which for the upper half are the sums of
    those of the lower one."""
    waves = np.moveaxis(rfft(x, axis=axis, norm="ortho"), axis, -1)
    mirrored = waves[..., (x.shape[axis] - 1) // 2 : 0 : -1]
    out = np.concatenate([waves.real - waves.imag, mirrored.real + mirrored.imag], axis=-1)
    return np.moveaxis(out, -1, axis)


DOWN, ALONG, BOTH = (-2,), (-1,), (-2, -1)
BASES = (
    Basis(),
    Basis(DOWN),
    Basis(ALONG),
    Basis(BOTH),
    Basis(DOWN, True),
    Basis(ALONG, True),
    Basis(BOTH, True),
    Basis(DOWN, fourier=True),
    Basis(ALONG, fourier=True),
    Basis(BOTH, fourier=True),
)
PLAIN = 0
USUAL = 7  # bases, which any leaf may be in; the others are for whole matrices of few waves
TRANSPOSED = (0, 2, 1, 3, 5, 4, 6, 8, 7, 9)
