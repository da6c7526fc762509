"""A layer as an operator between points of which few coordinates are found, where they come in no order.

Leading singular vectors of what the outputs see are smooth functions of where a point lies, so few of them tell the
others (`points.py`). The core is the least-squares solution in the metric of the inputs, quantised with feedback; then
positions are rounded towards what it has become.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular

from hmcompress.hmatrix.grids.factors import factorise, factorise_towards, mean_diagonal
from hmcompress.hmatrix.grids.feedback import quantise
from hmcompress.hmatrix.grids.grid import Grid, half_octaves, powers
from hmcompress.hmatrix.grids.polynomials import count, orthonormal, polynomials
from hmcompress.hmatrix.grids.positions import MOST_FUNCTIONS, ROWS_EACH, Form, root
from hmcompress.network.layerwise.coded import Positioned
from hmcompress.network.layerwise.low_rank import PRIOR, with_prior
from hmcompress.network.layerwise.points import Points, Target, find_points, fitted, least_squares

Array = np.ndarray
_HIGHEST = 16  # degree that is tried
_FITS, _TOWARDS, _ROUNDS, _SWEEPS = 3, 3, 2, 2
_LOADING = 1e-12
_LEAST_PIVOT = 1e-6  # of functions at the points, below which their order decides what is stored
_SLOPE = 6 / np.log(2)  # bits for a squared step
_START, _BITS = 0.5, 2.0  # of the water level: directions that are fitted; bits for an octave of a core's number
_SQUARES, _SMALL = (0, 4, 6, 8), 0.05  # degrees of bases' square that are tried; bases below which all count alike
_FINER, _PRECISE = 1 / 8, 12  # steps of its numbers over those of bases; their bits
_PRIOR = 0.03 * PRIOR  # functions of points follow from fewer inputs than products
_TALL = 2  # times as many rows as columns, of which products of rows take longer than the rows themselves
_FREE = 0.3  # share of the variance in the order of a core's columns


@dataclass(frozen=True)
class Seen:
    """A matrix w (m, n), its rows times `lower` (n, n), a factor of the inputs' metric, and the leading directions."""

    w: Array
    lower: Array
    rows: Array  # (m, n), w @ lower
    leading: Array  # (m, r), unit columns
    sizes: Array  # (r,)
    delta: float

    @property
    def target(self) -> Array:
        """The rows in the leading directions (m, r)."""
        return self.leading * self.sizes


def as_positions(w: Array, moment: Array, sensitivity: Array, delta: float, dead_zone: float) -> Positioned | None:
    """w (m, n) in that form at a water level `delta`, or None where its rows are no functions of few coordinates.

    Moments (n, n) and (m, m) or (m,); of the outputs' sensitivity the mean counts, since a row's error is its own.
    """
    seen = _seen(w, with_prior(moment, w, _PRIOR) * mean_diagonal(sensitivity), delta)
    points = find_points(seen.leading, seen.sizes)
    if points is None:
        return None
    form = _best_form(seen, points)
    for _ in range(_FITS):
        points = fitted(points, form.degree, least_squares(seen.target, points, form.degree))
    return _rounded(seen, points, _best_form(seen, points), dead_zone)


def _seen(w: Array, metric: Array, delta: float) -> Seen:
    lower = np.linalg.cholesky(metric)
    rows = w @ lower
    leading, sizes = _directions(rows)
    rank = max(int((sizes > _START * delta * (sum(w.shape) / 12) ** 0.5).sum()), 1)
    return Seen(w, lower, rows, leading[:, :rank], sizes[:rank], delta)


def _directions(rows: Array) -> tuple[Array, Array]:
    """Left singular vectors (m, r) and singular values of rows (m, n), largest first."""
    if len(rows) > _TALL * rows.shape[1]:
        leading, sizes, _ = np.linalg.svd(rows, full_matrices=False)
        return leading, sizes
    values, vectors = np.linalg.eigh(rows @ rows.T)
    return vectors[:, ::-1], np.sqrt(np.maximum(values[::-1], 0.0))


def _best_form(seen: Seen, points: Points) -> Form:
    """The degree, and whether functions stand on both sides, of the least price of core and error."""
    d, most, degree = points.coordinates, min(MOST_FUNCTIONS, len(points.t) // ROWS_EACH, seen.w.shape[1]), 1
    while degree < _HIGHEST and count(d, degree + 1) <= most:
        degree += 1
    q, r = orthonormal(points.functions(degree))
    pivots, core = np.abs(np.diag(r)), q.T @ seen.rows
    right = q.T @ seen.lower if seen.w.shape[0] == seen.w.shape[1] else None
    prices = dict[Form, float]()
    for k in range(1, degree + 1):
        some = slice(0, count(d, k))
        if prices and pivots[some].min() < _LEAST_PIVOT * pivots[0]:
            break
        form = Form(k, d, False, None if points.base is None else 0)
        prices[form] = _price(seen, core[some])
        if right is not None:
            prices[replace(form, mirrored=True)] = _price(seen, _projected(core[some], right[some]))
    return min(prices, key=lambda form: prices[form])


def _projected(core: Array, right: Array) -> Array:
    """Rows (k, n) in the space of the rows `right` (k, n), in an orthonormal basis of it: (k, k)."""
    lower = np.linalg.cholesky(_loaded(right @ right.T))
    return np.asarray(solve_triangular(lower, right @ core.T, lower=True))


def _price(seen: Seen, core: Array) -> float:
    """Bits of a core, as it is seen, and of the error."""
    error = max(float(np.square(seen.rows).sum() - np.square(core).sum()), 0.0)
    bits = _BITS * np.log1p(np.abs(core) / seen.delta).sum() / np.log(2)
    return float(bits) + _SLOPE * error / seen.delta**2


def _rounded(seen: Seen, points: Points, form: Form, dead_zone: float) -> Positioned | None:
    """Positions and core, in turns, each towards what the other has become."""
    exponents = _exponents(seen, points, form.degree)
    form, square = _with_square(points, form, exponents)
    grid = _grid_of(points, square, form, exponents)
    for _ in range(_ROUNDS):
        basis, r = form.basis(grid.to_dense(), square.to_dense()[0])
        if np.abs(np.diag(r)).min() < _LEAST_PIVOT * abs(r[0, 0]):
            return None
        right = basis.T @ seen.lower if form.mirrored else seen.lower
        target = Target(seen.rows, solve_triangular(r, _core(seen, basis, form, dead_zone).to_dense() @ right))
        for _ in range(_TOWARDS):
            points = fitted(points, form.degree, target)
        grid = _nearest(_grid_of(points, square, form, exponents), square, form, target)
    basis, _ = form.basis(grid.to_dense(), square.to_dense()[0])
    return Positioned(form, grid, square, _core(seen, basis, form, dead_zone))


def _exponents(seen: Seen, points: Points, degree: int) -> Array:
    """Of steps that make an error of the water level in each number of a position, on average."""
    target = least_squares(seen.target, points, degree)
    mean = target.slope(points.functions(degree), points.derivatives(degree))[0].mean(0)
    lower = np.linalg.cholesky(_loaded(mean[::-1, ::-1]))  # what later numbers make up for is no error
    return half_octaves(seen.delta / np.diag(lower)[::-1])


def _with_square(points: Points, form: Form, exponents: Array) -> tuple[Form, Grid]:
    """The polynomial near the bases' square that saves most of what they take, as it is stored."""
    if points.base is None:
        return form, Grid(np.zeros((1, 0), np.int64), np.zeros(1, np.int64), np.zeros(0, np.int64))
    step, found = float(powers(exponents[-1:])[0]), list[tuple[float, Form, Grid]]()
    weights = 1 / np.maximum(points.base, _SMALL)
    for degree in (d for d in _SQUARES if count(form.coordinates, d) <= len(points.t) // ROWS_EACH):
        f = polynomials(np.sin(np.pi * points.t), degree)
        square = np.linalg.lstsq(f * weights[:, None], np.square(points.base) * weights, rcond=None)[0]
        finer = np.full(len(square), half_octaves(np.array(step * _FINER)))
        grid = Grid(np.rint(square / powers(finer)).astype(np.int64)[None], np.zeros(1, np.int64), finer)
        above = (points.base - root(points.t, grid.to_dense()[0], degree)) / step
        bits = float(np.log2(1 + np.abs(above)).sum()) + _PRECISE * len(square)
        found.append((bits, replace(form, base_degree=degree), grid))
    return min(found, key=lambda f: f[0])[1:]


def _grid_of(points: Points, square: Grid, form: Form, exponents: Array) -> Grid:
    """Points as positions, rounded: bases to what they lie above the root at the rounded coordinates."""
    steps = powers(exponents)
    q = np.rint(points.t / steps[: form.coordinates])
    if points.base is not None and form.base_degree is not None:
        near = root(q * steps[: form.coordinates], square.to_dense()[0], form.base_degree)
        q = np.concatenate([q, np.rint((points.base - near) / steps[-1])[:, None]], 1)
    return Grid(q.astype(np.int64), np.zeros(len(q), np.int64), exponents)


def _nearest(grid: Grid, square: Grid, form: Form, target: Target) -> Grid:
    """The grid of least error, each integer moved by one while that helps."""
    best = target.losses(form.functions(grid.to_dense(), square.to_dense()[0]))
    for move in [sign * line for line in np.eye(form.numbers, dtype=np.int64) for sign in (1, -1)] * _SWEEPS:
        moved = replace(grid, q=grid.q + move)
        losses = target.losses(form.functions(moved.to_dense(), square.to_dense()[0]))
        grid = replace(grid, q=np.where((losses < best)[:, None], moved.q, grid.q))
        best = np.minimum(losses, best)
    return grid


def _core(seen: Seen, q: Array, form: Form, dead_zone: float) -> Grid:
    """The core (count, count or n) of least error, quantised with feedback."""
    rows = factorise(np.eye(q.shape[1]))
    if not form.mirrored:
        metric, core = seen.lower @ seen.lower.T, q.T @ seen.w
        return quantise(core, factorise_towards(metric, core, rows, _FREE), rows, seen.delta, dead_zone)
    right = q.T @ seen.lower
    gram = _loaded(right @ right.T)
    core = cho_solve(cho_factor(gram), right @ (q.T @ seen.rows).T).T
    return quantise(core, factorise(gram), rows, seen.delta, dead_zone)


def _loaded(gram: Array) -> Array:
    return gram + _LOADING * max(np.trace(gram), 1e-300) / len(gram) * np.eye(len(gram))
