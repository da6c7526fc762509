"""Codec `interpolated`: a whole matrix predicted from its own coarser grid, for rows and columns that are smooth."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from hmcompress.coding.buffer import Reader, Writer
from hmcompress.coding.classes import MAX_CLASS, ZERO_CLASS, class_of
from hmcompress.coding.pool import decode_pool_runs, encode_pool
from hmcompress.coding.side import decode_side, encode_side
from hmcompress.coding.thrift import shrunk
from hmcompress.errors import FormatError
from hmcompress.hmatrix.basics.bodies import QuantizedBody
from hmcompress.hmatrix.basics.rounding import finer_steps
from hmcompress.hmatrix.patterns.grid_prediction import SCHEMES, Band, Scheme, bands, walk

Array = np.ndarray
FINER = (1.0, 1.5)  # by which the step falls from level to level: coarse points predict all others
_FINEST = 8.0
_WINDOW = 192  # rows and columns on which schemes are compared
_SPARSE, _LOW_RATE = 0.5, 2.0  # bits an entry
_MAY_SHRINK = 16.0  # how much smaller than its first estimate a sparse form may become
_MIXED_MAY_SHRINK, _MIXED_GROWTH = 2.0, 0.75  # the same between sparse and dense; the power of the entries it grows by
_FINER_STEPS, _PER_OCTAVE = 8, 4
_GROWTH = 2.0  # of the step, about, where most of the error is left to zeros
_ROWS = 128  # decoded at once
_FEW = 8  # entries for each that is not zero from which integers are held as a sparse matrix


@dataclass(frozen=True)
class Interpolator:
    """Codes one matrix, values (m, n) of the given dtype, at one step after another. finer: index of FINER."""

    values: Array
    dtype: torch.dtype
    scheme: Scheme
    finer: int
    is_sparse: bool = False  # whether nearly all entries follow from their neighbours
    thrift: float = 0.0  # by which what is left is rounded

    def decoded(self, step: float) -> Tensor:
        """The matrix that a decoder would return."""
        return torch.from_numpy(self._coded(step)[0] * step).to(self.dtype)

    def finer_steps(self, step: float) -> list[float]:
        """Where most integers are zero, steps below the largest that are worth a try.

        Their errors carry on from level to level, and more of them or fewer, by chance, break the pattern of the rest.
        """
        return finer_steps(step, _FINER_STEPS, _PER_OCTAVE) if self.is_sparse else []

    def encode(self, step: float) -> bytes:
        """The payload's body; `step` must be a float32 value."""
        _, integers = self._coded(step)
        classes = np.array([int(class_of(math.sqrt(float(np.mean(q * q))))) for q in integers])
        out = Writer().step(step).uint(self.finer * len(SCHEMES) + SCHEMES.index(self.scheme))
        out.section(encode_side(classes))
        q = np.concatenate([np.where(e > ZERO_CLASS, q, 0).reshape(-1) for e, q in zip(classes, integers, strict=True)])
        e = np.repeat(classes.astype(np.int16), [part.size for part in integers])
        return out.raw(encode_pool(q.astype(np.int64), e, width=q.size)).getvalue()

    def _coded(self, step: float) -> tuple[Array, list[Array]]:
        """The decoded matrix in steps, and the integers of each band. Bands of hardly any size are left out."""
        a, integers = self.values.astype(np.float64) / step, []

        def take(band: Band, prediction: Array) -> Array:
            fine = _step(band, self.finer)
            rest = (band.view(a)[band.points] - prediction) / fine
            if self.thrift:
                rest = shrunk(rest, np.sqrt(np.mean(np.square(rest))), self.thrift)
            q = np.rint(rest)
            silent = class_of(math.sqrt(float(np.mean(q * q)))) <= ZERO_CLASS
            integers.append(np.zeros_like(q) if silent else q)
            return prediction + integers[-1] * fine

        return walk(a.shape, self.scheme, take), integers


def interpolator(values: Array, dtype: torch.dtype, step: float, size: int) -> Interpolator | None:
    """The coder for a matrix (m, n), or None where it is no match for a form of `size` bytes.

    What its integers cost at this step is judged in the middle of the matrix. Where that is little, most of the error
    is left to zeros: the step will grow far, and coarse points are worth a finer one. What is not zero then may stand
    along lines, such as the diagonal, and grow with the sides only.
    """
    (m, n), half = values.shape, _WINDOW // 2
    window = values[max(m // 2 - half, 0) : m // 2 + half, max(n // 2 - half, 0) : n // 2 + half]
    priced = ((_entropy(Interpolator(window, dtype, s, 0)._coded(step)[1]), s) for s in SCHEMES)
    (bits, scheme), *others = sorted(priced, key=lambda found: found[0])
    sparse, low = (bits < rate * window.size for rate in (_SPARSE, _LOW_RATE))
    larger = values.size / window.size
    if sparse:
        hopeless = bits / 8 * math.sqrt(larger) > size * _MAY_SHRINK
    elif low:
        hopeless = bits / 8 * larger**_MIXED_GROWTH > size * _MIXED_MAY_SHRINK
    else:
        hopeless = bits / 8 * larger > size
    if hopeless:
        return None
    found = [Interpolator(values, dtype, scheme, int(low), sparse)]
    if low and larger > 1:  # lines may suit the middle, where an edge is, and cubics the rest, or the other way round
        rival = next(s for _, s in others if s.cubic != scheme.cubic)
        found.append(Interpolator(values, dtype, rival, 1, sparse))
    return min(found, key=lambda coder: len(coder.encode(_GROWTH * step))) if len(found) > 1 else found[0]


def _entropy(integers: list[Array]) -> float:
    """Bits of all bands, each under its own histogram."""
    total = 0.0
    for q in integers:
        counts = np.unique(q, return_counts=True)[1]
        total += float(np.sum(counts * np.log2(q.size / counts)))
    return total


def decode(data: bytes, shape: tuple[int, int], dtype: torch.dtype) -> QuantizedBody:
    """Inverse of Interpolator.encode. Raises FormatError."""
    found = read(data, shape)
    values = torch.empty(shape, dtype=dtype)
    for start in range(0, shape[0], _ROWS):
        values[start : start + _ROWS] = torch.from_numpy(found.rows(start, min(start + _ROWS, shape[0])))
    return QuantizedBody(values)


@dataclass(frozen=True)
class Predicted:
    """A decoded matrix (m, n) of which any rows can be had without the others.

    Every band has its integers (lines of the matrix's rows, others), sparse where few are not zero, and the step they
    count, which is `step` times finer.
    """

    shape: tuple[int, int]
    scheme: Scheme
    step: float
    bands: tuple[tuple[Band, Array | sparse.csr_array | None, float], ...]

    def rows(self, begin: int, end: int) -> Array:
        """Rows begin .. end as a decoder gives them, in float64: those that they are predicted from come along."""
        rows = self._needed(begin, end)
        at = np.full(self.shape[0], -1)
        at[rows] = np.arange(len(rows))
        x = np.zeros((len(rows), self.shape[1]))
        for band, q, fine in self.bands:
            if band.axis == 0:
                few = np.isin(band.points, rows)
                p, lines = band.points[few], x[:, :: band.spacing]
                found = band.predict_some(p, lines, at, self.scheme.cubic)
                lines[at[p]] = found if q is None else found + _dense(q[np.flatnonzero(few)]) * fine
            else:
                own = np.flatnonzero(rows % band.spacing == 0)
                lines = x[own]
                found = band.predict(lines.T, self.scheme.cubic).T
                if q is not None:
                    found = found + _dense(q[rows[own] // band.spacing]) * fine
                x[own[:, None], band.points] = found
        return x[at[begin:end]] * self.step

    def column(self, j: int) -> Array:
        """Column j (m,)."""
        return np.concatenate(
            [self.rows(r, min(r + _ROWS, self.shape[0]))[:, j] for r in range(0, self.shape[0], _ROWS)]
        )

    def _needed(self, begin: int, end: int) -> Array:
        needed = np.zeros(self.shape[0], np.bool_)
        needed[begin:end] = True
        for band, _, _ in reversed(self.bands):
            if band.axis == 0:
                needed[band.neighbours(band.points[needed[band.points]], self.shape[0] - 1)] = True
        return np.flatnonzero(needed)


def _dense(q: Array | sparse.csr_array) -> Array:
    return q.toarray() if isinstance(q, sparse.csr_array) else q


def read(data: bytes, shape: tuple[int, int]) -> Predicted:
    """A payload's body; no array of the matrix's size is made where few integers are not zero. Raises FormatError."""
    head, stream = _read_head(data, shape)
    runs = decode_pool_runs(stream.rest(), head.classes, head.sizes, shape[0] * shape[1])
    found = [
        (band, _integers(band, *run, shape), _step(band, head.finer))
        for band, run in zip(head.bands, runs, strict=True)
    ]
    return Predicted(shape, head.scheme, head.step, tuple(found))


def _integers(
    band: Band, places: Array | None, values: Array, shape: tuple[int, int]
) -> Array | sparse.csr_array | None:
    """A band's integers, one line for each row of the matrix that it has points in."""
    lines = (len(band.points), band.size(shape) // len(band.points))
    if places is None:
        q = values.reshape(lines)
        q = q if band.axis == 0 else q.T
        return sparse.csr_array(q) if _FEW * np.count_nonzero(q) < q.size else q
    if not len(places):
        return None
    row, column = np.divmod(places, lines[1])
    if band.axis == 0:
        return sparse.csr_array((values, (row, column)), shape=lines)
    return sparse.csr_array((values, (column, row)), shape=lines[::-1])


@dataclass(frozen=True)
class _Head:
    step: float
    finer: int
    scheme: Scheme
    bands: list[Band]
    sizes: Array
    classes: Array


def _read_head(data: bytes, shape: tuple[int, int]) -> tuple[_Head, Reader]:
    """All but the integers, and where they begin."""
    stream = Reader(data)
    step = stream.step()
    finer, number = divmod(stream.uint(len(FINER) * len(SCHEMES) - 1), len(SCHEMES))
    found = list(bands(shape, SCHEMES[number].axes))
    classes = decode_side(stream.section(), len(found))
    if classes.min() < ZERO_CLASS or classes.max() > MAX_CLASS:
        raise FormatError("a scale is out of range: the file is damaged")
    sizes = np.array([band.size(shape) for band in found])
    return _Head(step, finer, SCHEMES[number], found, sizes, classes.astype(np.int16)), stream


def _step(band: Band, finer: int) -> float:
    """The step of a band, in steps of the finest level."""
    return 1 / min(FINER[finer] ** band.level, _FINEST)
