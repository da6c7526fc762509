"""Factor columns as integers: as they are, in a cosine or a sine basis, or predicted by interpolation.

A transform turns the columns of X (n, k) into integers in units of the step, and back; the integers come in bands of
similar size, in order. `interpolate` predicts each point from decoded neighbours twice as far apart (as SZ3 does), so
that smooth columns leave almost nothing but zeros.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.fft import dct, dst, idct, idst

from hmcompress.coding.classes import class_of
from hmcompress.hmatrix.basics import price

Array = np.ndarray
_ANCHORS = 3  # points coded without prediction, at least two


@dataclass(frozen=True)
class Transform:
    """forward: (n, k) columns in steps to integers, (n, k). inverse: the reverse. bands: sizes that add up to n."""

    forward: Callable[[Array], Array]
    inverse: Callable[[Array], Array]
    bands: Callable[[int], tuple[int, ...]]


def _octave_bands(n: int) -> tuple[int, ...]:
    edges = [0, *(1 << i for i in range(n.bit_length()) if 1 << i < n), n]
    return tuple(b - a for a, b in itertools.pairwise(edges))


@cache
def _strides(n: int) -> tuple[int, ...]:
    """How far apart the anchors are, and the points known after every further level, down to 1."""
    stride = 1
    while (n - 1) // stride > _ANCHORS:
        stride *= 2
    return tuple(stride >> i for i in range(stride.bit_length()))


@cache
def _levels(n: int) -> tuple[slice, ...]:
    """The anchors, and the points that every further level adds."""
    first, *finer = _strides(n)
    return (slice(0, n, first), *(slice(s, n, 2 * s) for s in finer))


@cache
def _interpolation_bands(n: int) -> tuple[int, ...]:
    return tuple(len(range(n)[points]) for points in _levels(n))


def _predict(known: Array, count: int) -> Array:
    """Predict `count` rows, each between one of the known rows (l, k) and the next, by the highest order that fits in.

    Of the last of the known rows there may be no next one.
    """
    n = len(known)
    found = np.empty((count, known.shape[1]))
    if n > 2:
        found[1 : n - 2] = (9 * (known[1:-2] + known[2:-1]) - known[:-3] - known[3:]) / 16
        found[0] = (3 * known[0] + 6 * known[1] - known[2]) / 8
        found[n - 2] = (3 * known[n - 1] + 6 * known[n - 2] - known[n - 3]) / 8
    elif n > 1:
        found[0] = (known[0] + known[1]) / 2
    if count == n:
        found[-1] = 1.5 * known[-1] - 0.5 * known[-2] if n > 1 else known[-1]
    return found


def _walk(n: int, columns: int, take: Callable[[int, int, Array], Array]) -> Array:
    """Rebuild columns level by level; take(start, stop, prediction) gives the true or decoded values of a band."""
    x, sizes = np.zeros((n, columns)), _interpolation_bands(n)
    anchors, *finer = _levels(n)
    x[anchors] = take(0, sizes[0], np.zeros((sizes[0], columns)))
    start = sizes[0]
    for points, size in zip(finer, sizes[1:], strict=True):
        x[points] = take(start, start + size, _predict(x[:: points.step], size))
        start += size
    return x


@cache
def _band_order(n: int) -> Array:
    """Row index of every integer, in band order."""
    return np.concatenate([np.arange(n)[points] for points in _levels(n)])


def _interpolation_forward(x: Array) -> Array:
    n, order, q = len(x), _band_order(len(x)), np.empty(x.shape)

    def take(start: int, stop: int, prediction: Array) -> Array:
        q[start:stop] = np.rint(x[order[start:stop]] - prediction)
        return prediction + q[start:stop]

    _walk(n, x.shape[1], take)
    return q


def _interpolation_inverse(q: Array) -> Array:
    return _walk(len(q), q.shape[1], lambda start, stop, prediction: prediction + q[start:stop])


TRANSFORMS = (
    Transform(np.rint, lambda q: q, lambda n: (n,)),
    Transform(lambda x: np.rint(dct(x, axis=0, norm="ortho")), lambda q: idct(q, axis=0, norm="ortho"), _octave_bands),
    Transform(_interpolation_forward, _interpolation_inverse, _interpolation_bands),
    Transform(
        lambda x: np.rint(dst(x, type=1, axis=0, norm="ortho")),
        lambda q: idst(q, type=1, axis=0, norm="ortho"),
        _octave_bands,
    ),
)


@dataclass(frozen=True)
class CodedColumns:
    """k columns of n numbers as integers q (n, k), the transform of each (k,), and the class of each band."""

    q: Array
    kinds: Array
    classes: tuple[Array, ...]  # for each column, one class per band

    @property
    def shape(self) -> tuple[int, int]:
        return self.q.shape

    def take(self, columns: Array) -> "CodedColumns":
        """Some of the columns."""
        return CodedColumns(self.q[:, columns], self.kinds[columns], tuple(self.classes[i] for i in columns))


def encode_columns(x: Array, smooth: bool = True) -> CodedColumns:
    """Choose the cheapest transform for every column of x (n, k), in steps."""
    trials = [_trial(t, x) for t in (TRANSFORMS if smooth and len(x) >= 8 else TRANSFORMS[:1])]
    kinds = np.argmin(np.stack([bits for _, _, bits in trials]), axis=0)
    columns = range(x.shape[1])
    q = np.stack([trials[kinds[i]][0][:, i] for i in columns], axis=1) if x.shape[1] else np.zeros(x.shape)
    classes = tuple(trials[kinds[i]][1][:, i] for i in columns)
    with np.errstate(invalid="ignore"):  # integers beyond 64 bits become others, and their error tells
        return CodedColumns(q.astype(np.int64), kinds, classes)


def price_columns(x: Array, smooth: bool = True) -> Array:
    """Estimated bits of every column of x (n, k), in steps, each in its cheapest transform."""
    trials = [_trial(t, x)[2] for t in (TRANSFORMS if smooth and len(x) >= 8 else TRANSFORMS[:1])]
    return np.min(np.stack(trials), axis=0)


def _trial(transform: Transform, x: Array) -> tuple[Array, Array, Array]:
    """Integers, classes by band and estimated bits of all columns under one transform."""
    q = transform.forward(x)
    sizes = np.array(transform.bands(len(x)))
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    power = np.add.reduceat(q * q, starts, axis=0) / sizes[:, None]
    rms = np.sqrt(power)
    side = np.where(power > 0, 4.0, 1.0)
    return q, class_of(rms), np.sum(sizes[:, None] * price.bits(rms) + side, axis=0)


def decode_columns(q: Array, kinds: Array) -> Array:
    """Columns (n, k), in steps, from their integers and transforms."""
    x = np.empty(q.shape)
    for i, transform in enumerate(TRANSFORMS):
        chosen = kinds == i
        if chosen.any():
            x[:, chosen] = transform.inverse(q[:, chosen].astype(float))
    return x


def expand_classes(kinds: Array, classes: tuple[Array, ...], n: int) -> Array:
    """The class of every integer, column after column: (k * n,)."""
    parts = [np.repeat(c, TRANSFORMS[kind].bands(n)) for kind, c in zip(kinds, classes, strict=True)]
    return np.concatenate(parts) if parts else np.zeros(0, np.int16)


def band_count(kind: int, n: int) -> int:
    return len(TRANSFORMS[kind].bands(n))
