"""Points of which rows are smooth functions: found in singular directions of a matrix, fitted by Gauss-Newton steps."""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_triangular

from hmcompress.hmatrix.grids.polynomials import count, orthonormal, polynomials, slopes
from hmcompress.hmatrix.grids.positions import MOST_COORDINATES, functions

Array = np.ndarray
_LOOKED_AT, _LARGE = 16, 0.01  # leading singular vectors that the points must tell; over the largest singular value
_ROWS_EACH = 8  # for each function, at least
_TELLING = {1: 12, 2: 10, 3: 5, 4: 3}  # degree up to which functions tell vectors, by the number of coordinates
_LEAST_TELLING = 3
_UNTOLD, _NEGATIVE = 0.3, 0.02  # shares of a vector's energy: left by functions, of the other sign in a base
_SMALL = 0.02  # of the largest base: rows in which coordinates are too vague to tell how far these reach
_DAMPING, _DEPENDENT = 1e-3, 1e-8  # of the mean; of the largest: functions that follow from others tell nothing


@dataclass(frozen=True)
class Points:
    """t (m, d) and a base (m,), if there is one: the functions are it times polynomials of sin(pi t)."""

    t: Array
    base: Array | None

    @property
    def coordinates(self) -> int:
        return self.t.shape[1]

    def functions(self, degree: int) -> Array:
        """(m, count)."""
        return functions(self.t, self.base, degree)

    def derivatives(self, degree: int) -> Array:
        """Of the functions by t, and by the base if there is one: (m, d or d + 1, count)."""
        x, inner = np.sin(np.pi * self.t), np.pi * np.cos(np.pi * self.t)
        along = inner[..., None] * slopes(x, degree)
        if self.base is None:
            return along
        return np.concatenate([along * self.base[:, None, None], polynomials(x, degree)[:, None]], 1)

    def moved(self, by: Array) -> "Points":
        """By numbers in that order (m, d or d + 1)."""
        d = self.coordinates
        return Points(self.t + by[:, :d], None if self.base is None else self.base + by[:, d])

    def where(self, chosen: Array, others: "Points") -> "Points":
        """These points where a mask (m,) says so, else the others."""
        base = None if self.base is None or others.base is None else np.where(chosen, self.base, others.base)
        return Points(np.where(chosen[:, None], self.t, others.t), base)


class Target:
    """Rows (m, r) that functions times `core` (count, r) should give."""

    def __init__(self, rows: Array, core: Array) -> None:
        self._cross, self._gram = rows @ core.T, core @ core.T

    def losses(self, f: Array) -> Array:
        """Squared error of each row but for a constant (m,), by its functions f (m, count)."""
        return ((f @ self._gram - 2 * self._cross) * f).sum(1)

    def slope(self, f: Array, along: Array) -> tuple[Array, Array]:
        """Gauss-Newton matrices (m, k, k) and right-hand sides (m, k), by derivatives (m, k, count)."""
        moved = along @ self._gram
        return moved @ along.swapaxes(1, 2), ((self._cross - f @ self._gram)[:, None] * along).sum(2)


def least_squares(rows: Array, points: Points, degree: int) -> Target:
    """The core that gives rows (m, r) best at these points."""
    q, r = orthonormal(points.functions(degree))
    return Target(rows, solve_triangular(r, q.T @ rows))


def find_points(directions: Array, sizes: Array) -> Points | None:
    """Points of the fewest numbers that tell the leading ones of singular vectors (m, k), if few do.

    The first one, where it has one sign, is the base, as it vanishes at a boundary; others over it are coordinates, as
    those of diffusion maps are (Coifman & Lafon 2006).
    """
    leading = directions[:, :_LOOKED_AT][:, sizes[:_LOOKED_AT] > _LARGE * sizes[0]]
    base = leading[:, 0] * (-1.0 if leading[:, 0].sum() < 0 else 1.0)
    found = [_told(leading, None)]
    if np.square(np.minimum(base, 0)).sum() < _NEGATIVE:
        found.append(_told(leading[:, 1:], base / base.max()))
    points = [p for p in found if p is not None]
    return min(points, key=lambda p: (p.coordinates + (p.base is not None), p.coordinates), default=None)


def _told(leading: Array, base: Array | None) -> Points | None:
    """Coordinates, one by one, that of the vectors (m, k) tell the others."""
    points = Points(np.empty((len(leading), 0)), base)
    for d in range(MOST_COORDINATES + 1):
        untold = np.flatnonzero(_untold(leading, points) > _UNTOLD)
        if not len(untold):
            return points if d else None
        if d == MOST_COORDINATES or _telling(d + 1, len(leading)) < _LEAST_TELLING:
            return None
        t = _coordinate(leading[:, untold[0]], base)
        points = Points(np.concatenate([points.t, t[:, None]], 1), base)
    return None


def _untold(leading: Array, points: Points) -> Array:
    """Shares of the vectors' energies (k,) that are no functions of the points."""
    if not points.coordinates:
        return np.ones(leading.shape[1])
    q, r = orthonormal(points.functions(_telling(points.coordinates, len(leading))))
    told = np.square(q.T @ leading)
    return np.asarray(1 - told[np.diag(r) > _DEPENDENT * np.abs(r).max()].sum(0))


def _telling(coordinates: int, rows: int) -> int:
    """The degree up to which functions tell vectors of so many rows; no more functions than would tell noise."""
    degrees = range(1, _TELLING[coordinates] + 1)
    return max((d for d in degrees if _ROWS_EACH * count(coordinates, d) <= rows), default=0)


def _coordinate(vector: Array, base: Array | None) -> Array:
    """t (m,) of which the sine is the vector over the base, made as large as it may be."""
    firm = np.ones(len(vector), np.bool_)
    if base is not None:
        vector, firm = np.divide(vector, base, out=np.zeros_like(vector), where=base > 0), base > _SMALL
    return np.arcsin(np.clip(vector / max(float(np.abs(vector[firm]).max()), 1e-300), -1, 1)) / np.pi


def fitted(points: Points, degree: int, target: Target) -> Points:
    """The points after a Gauss-Newton step of each, where that brings its row nearer."""
    f = points.functions(degree)
    matrices, sides = target.slope(f, points.derivatives(degree))
    k = sides.shape[1]
    unit = max(np.trace(matrices, axis1=1, axis2=2).mean() / k, 1e-300)
    moved = points.moved(np.linalg.solve(matrices + _DAMPING * unit * np.eye(k), sides[..., None])[..., 0])
    return moved.where(target.losses(moved.functions(degree)) < target.losses(f), points)
