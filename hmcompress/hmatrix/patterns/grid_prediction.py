"""A matrix whose rows, columns or both are points of a grid, predicted from its own coarser points, level by level.

Every point is predicted from decoded neighbours on the next coarser grid and only the rest is rounded, so that smooth
matrices leave almost nothing but zeros and no entry is off by more than half a step (the interpolation predictor of
SZ3, Zhao et al. 2021).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

Array = np.ndarray
_ANCHORS = 3  # intervals of the coarsest grid, at most


@dataclass(frozen=True)
class Scheme:
    """axes: those that are predicted along, in this order. cubic: from four neighbours where there are as many."""

    axes: tuple[int, ...]
    cubic: bool


SCHEMES = tuple(Scheme(axes, cubic) for axes in ((0, 1), (1, 0), (0,), (1,)) for cubic in (False, True))


@dataclass(frozen=True)
class Band:
    """Points of one level: rows `points` of a view whose rows run along `axis`, every `spacing`-th of its columns.

    stride: distance of the neighbours they are predicted from; 0 for the coarsest grid, which is not predicted.
    """

    axis: int
    spacing: int
    points: Array
    stride: int
    level: int

    def view(self, x: Array) -> Array:
        """The lines of x (m, n) that the points lie on, as columns."""
        return x[:, :: self.spacing] if self.axis == 0 else x[:: self.spacing].T

    def size(self, shape: tuple[int, int]) -> int:
        return len(self.points) * -(-shape[1 - self.axis] // self.spacing)

    def predict(self, lines: Array, cubic: bool) -> Array:
        """What the neighbours say about the points, (points, lines)."""
        return self.predict_some(self.points, lines, np.arange(len(lines)), cubic)

    def predict_some(self, p: Array, lines: Array, at: Array, cubic: bool) -> Array:
        """The same for some of the points, where row i of the view is row at[i] of `lines`."""
        if not self.stride:
            return np.zeros((len(p), lines.shape[1]))
        s, last = self.stride, len(at) - 1
        left, right = lines[at[p - s]], lines[at[np.minimum(p + s, last)]]
        found = (left + right) / 2
        if cubic:
            inner = (p >= 3 * s) & (p + 3 * s <= last)
            far = lines[at[p[inner] - 3 * s]] + lines[at[p[inner] + 3 * s]]
            found[inner] = (9 * (left[inner] + right[inner]) - far) / 16
        outside = p + s > last
        if outside.any():  # at most the last point: carried on from the left
            before = lines[at[np.maximum(p[outside] - 3 * s, 0)]]
            straight = (p[outside] >= 3 * s)[:, None]
            found[outside] = np.where(straight, 1.5 * left[outside] - 0.5 * before, left[outside])
        return found

    def neighbours(self, p: Array, last: int) -> Array:
        """Every row that predict_some reads for the points p, and perhaps others."""
        near = (p + far * self.stride for far in (-3, -1, 1, 3))
        return np.clip(np.concatenate(list(near)), 0, last) if self.stride else p


def bands(shape: tuple[int, int], axes: tuple[int, ...]) -> Iterator[Band]:
    """All points of a (m, n), coarsest first; bands without points are left out."""
    stride = 1
    while (max(shape[axis] for axis in axes) - 1) // stride > _ANCHORS:
        stride *= 2
    top = stride.bit_length() - 1
    spacing = stride if len(axes) == 2 else 1
    yield Band(axes[0], spacing, np.arange(0, shape[axes[0]], stride), 0, top)
    while stride > 1:
        stride //= 2
        for i, axis in enumerate(axes):
            spacing = (2 * stride if i == 0 else stride) if len(axes) == 2 else 1
            points = np.arange(stride, shape[axis], 2 * stride)
            if len(points):
                yield Band(axis, spacing, points, stride, stride.bit_length() - 1)


Take = Callable[[Band, Array], Array]


def walk(shape: tuple[int, int], scheme: Scheme, take: Take) -> Array:
    """Rebuild a matrix (m, n) band by band; take(band, prediction) gives the decoded values of its points."""
    x = np.zeros(shape)
    for band in bands(shape, scheme.axes):
        lines = band.view(x)
        lines[band.points] = take(band, band.predict(lines, scheme.cubic))
    return x
