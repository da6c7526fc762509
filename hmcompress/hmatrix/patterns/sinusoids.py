"""Matrices whose columns, or rows, are single sinusoids of any frequency: a cos(w t) + b sin(w t).

Positional encodings and the caches of rotary embeddings are such: no basis has their frequencies, and their rank is
full. Each line is three whole numbers, multiples of a step of frequencies and of one of amplitudes.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from hmcompress.coding.buffer import Reader, Writer
from hmcompress.coding.streams import decode_ints, encode_ints
from hmcompress.errors import FormatError
from hmcompress.hmatrix.basics.bodies import QuantizedBody
from hmcompress.hmatrix.basics.measure import reference

Array = np.ndarray
_LEAST_LENGTH, _LEAST_LINES, _LEAST = 32, 8, 1 << 11  # entries of a line, lines, entries of a matrix
_SOME = 8  # lines looked at
_ROUNDS, _STARTS = 12, (0.5, 1.5, 3.0)  # of the search; first frequencies of slow lines, in radians over the line
_FINE, _AT_ONCE = 0.25, 1 << 18  # of the tolerance, an error that ends the search; entries of lines searched together
_RIDGE = 1e-10
_APART, _UNEVEN = 0.05, 4.0  # radians over the line by which frequencies differ; the largest gap over the least


@dataclass(frozen=True)
class Sinusoids:
    """Lines of `length` entries: frequencies (n,) in radians, and amplitudes of cosines and of sines (n,)."""

    length: int
    frequencies: Array
    cosines: Array
    sines: Array

    def lines(self) -> Array:
        """The lines as columns, (length, n)."""
        with np.errstate(over="ignore", invalid="ignore"):  # of damaged files
            angles = np.outer(np.arange(self.length), self.frequencies)
            return self.cosines * np.cos(angles) + self.sines * np.sin(angles)

    def part(self, where: slice) -> "Sinusoids":
        """Some of the lines."""
        return Sinusoids(self.length, self.frequencies[where], self.cosines[where], self.sines[where])

    def variety(self) -> float:
        """How many frequencies there are for each line; 0 where they lie evenly, as those of transforms do."""
        places = np.unique(np.rint(self.frequencies * self.length / _APART)) if self.length else np.zeros(0)
        gaps = np.diff(places)
        uneven = len(gaps) > 1 and gaps.max() > _UNEVEN * gaps.min()
        return len(places) / len(self.frequencies) if uneven else 0.0


def find_sinusoids(w: torch.Tensor, tol: float) -> tuple[Sinusoids, bool] | None:
    """The sinusoids that the columns of w (m, n) are, or its rows (True), but for less than tol of its norm."""
    if w.numel() < _LEAST:
        return None
    for transposed in (False, True):
        x = w.T if transposed else w
        if len(x) >= _LEAST_LENGTH and x.shape[1] >= _LEAST_LINES and _may_be(_wide(x[:, :: x.shape[1] // _SOME]), tol):
            found = _fit_all(x, tol)
            if found is not None:
                return found, transposed
    return None


def _wide(x: torch.Tensor) -> Array:
    return np.ascontiguousarray(x.to(torch.float64).numpy())


def _may_be(some: Array, tol: float) -> bool:
    """Whether columns follow from their last two entries, as those of sinusoids do, and are found."""
    middle, around = some[1:-1], some[2:] + some[:-2]
    squares = np.maximum(np.square(middle).sum(0), 1e-300)
    rest = around - middle * ((middle * around).sum(0) / squares)
    if not (np.square(rest).sum(0) <= tol**2 * squares).all():
        return False
    return _error(some, _fit(some, tol)) <= tol * float(np.linalg.norm(some))


def _fit_all(x: torch.Tensor, tol: float) -> Sinusoids | None:
    """All columns, some at a time; None where they are others."""
    size, squares, found = reference(x, "fro"), 0.0, list[Sinusoids]()
    lines = max(1, _AT_ONCE // len(x))
    for start in range(0, x.shape[1], lines):
        part = _wide(x[:, start : start + lines])
        found.append(_fit(part, tol))
        squares += _error(part, found[-1]) ** 2
        if squares > (tol * size) ** 2:
            return None
    columns = (np.concatenate([getattr(f, key) for f in found]) for key in ("frequencies", "cosines", "sines"))
    return Sinusoids(len(x), *columns)


def _error(x: Array, found: Sinusoids) -> float:
    return float(np.linalg.norm(x - found.lines()))


def _fit(x: Array, tol: float) -> Sinusoids:
    """Of each column of x (m, n) the nearest sinusoid, by Gauss-Newton steps from the highest place of its spectrum."""
    m, n = x.shape
    points = 1 << math.ceil(math.log2(4 * m))
    peak = 2 * np.pi * np.abs(np.fft.rfft(x, points, axis=0)).argmax(0) / points
    best, left = np.zeros((3, n)), np.full(n, np.inf)
    fine = (_FINE * tol) ** 2 * np.square(x).sum(0)
    for start in (None, *_STARTS):
        slow = (left > fine) & ((peak < 4 * np.pi / m) | (start is None))
        if slow.any():
            first = peak[slow] if start is None else np.full(int(slow.sum()), start / m)
            found, rest = _steps(x[:, slow], first)
            at = np.flatnonzero(slow)
            better = rest < left[at]
            best[:, at[better]], left[at[better]] = found[:, better], rest[better]
    return Sinusoids(m, *best)


def _steps(x: Array, frequencies: Array) -> tuple[Array, Array]:
    """Frequencies, cosines and sines (3, n) after some steps, and the squares that they leave (n,)."""
    m, t = len(x), np.arange(len(x))[:, None]
    best, left = np.zeros((3, x.shape[1])), np.full(x.shape[1], np.inf)
    for _ in range(_ROUNDS):
        waves = np.stack([np.cos(t * frequencies), np.sin(t * frequencies)])
        a, b = _solved(waves, x)
        rest = x - a * waves[0] - b * waves[1]
        squares = np.square(rest).sum(0)
        better = squares < left
        best[:, better], left[better] = np.stack([frequencies, a, b])[:, better], squares[better]
        if not better.any():
            break
        slope = t * (b * waves[0] - a * waves[1])
        step = _solved(np.concatenate([waves, slope[None]]), rest)[2]
        frequencies = np.clip(frequencies + np.clip(step, -1 / m, 1 / m), 1e-7 / m, np.pi)
    return best, left


def _solved(basis: Array, x: Array) -> Array:
    """Coefficients (k, n) of each column of x (m, n) in its own basis (k, m, n)."""
    gram = np.einsum("ktj,ltj->jkl", basis, basis)
    gram += (_RIDGE * gram.trace(axis1=1, axis2=2) + 1e-300)[:, None, None] * np.eye(len(basis))
    return np.linalg.solve(gram, np.einsum("ktj,tj->jk", basis, x)[..., None])[..., 0].T


def encode(found: Sinusoids, transposed: bool, turn: float, size: float) -> bytes:
    """The sinusoids in multiples of these steps of frequencies and of amplitudes."""
    turn, size = float(np.float32(turn)), float(np.float32(size))
    out = Writer().uint(int(transposed)).step(turn).step(size)
    whole = (np.rint(p / s).astype(np.int64) for p, s in _with_steps(found, turn, size))
    frequencies, *amplitudes = whole
    for values in (np.diff(frequencies, prepend=0), *amplitudes):
        out.section(encode_ints(values, "max"))
    return out.getvalue()


def _with_steps(found: Sinusoids, turn: float, size: float) -> list[tuple[Array, float]]:
    return [(found.frequencies, turn), (found.cosines, size), (found.sines, size)]


def decode(data: bytes, shape: tuple[int, int], dtype: torch.dtype) -> QuantizedBody:
    """The inverse of encode. Raises FormatError."""
    stream = Reader(data)
    transposed, turn, size = stream.uint(limit=1), stream.step(), stream.step()
    length, n = shape[::-1] if transposed else shape
    frequencies, cosines, sines = (decode_ints(stream.section(), n, None).astype(np.float64) for _ in range(3))
    if stream.left:
        raise FormatError(f"{stream.left} bytes follow the sinusoids: the file is damaged")
    found = Sinusoids(length, turn * np.cumsum(frequencies), size * cosines, size * sines)
    out, lines = torch.empty((length, n), dtype=dtype), max(1, _AT_ONCE // max(length, 1))
    for start in range(0, n, lines):
        where = slice(start, start + lines)
        out[:, where] = torch.from_numpy(found.part(where).lines()).to(dtype)
    return QuantizedBody(out.T.contiguous() if transposed else out)
