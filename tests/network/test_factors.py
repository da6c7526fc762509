"""Moments that are diagonal are held as their diagonals, and give what the matrices give."""

import numpy as np
import pytest

import hmcompress.hmatrix.grids.factors as factors
import hmcompress.hmatrix.grids.feedback as feedback
import hmcompress.hmatrix.grids.smooth as smooth
from hmcompress.hmatrix.grids.factors import Factor, added, factorise, factorise_towards, mean_diagonal
from hmcompress.hmatrix.grids.smooth import COSINES, PLAIN, Layout
from hmcompress.network.layerwise.moments import regularised


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def test_a_diagonal_stands_for_its_matrix() -> None:
    diagonal = np.random.default_rng(1).uniform(0.5, 2, 40)
    short, whole, x = factorise(diagonal), factorise(np.diag(diagonal)), random(40, 7)
    assert short.is_diagonal and whole.is_diagonal and not short.is_even
    assert mean_diagonal(diagonal) == pytest.approx(mean_diagonal(np.diag(diagonal)))
    np.testing.assert_allclose(np.diag(regularised(diagonal, 0.1)), regularised(np.diag(diagonal), 0.1))
    np.testing.assert_allclose(short.weighed(x), short.matrix.T @ x)
    np.testing.assert_array_equal(short.block(slice(3, 9)), short.matrix[3:9, 3:9])
    layout = Layout((5, 8), (PLAIN, COSINES))
    np.testing.assert_allclose(layout.moment(diagonal), layout.moment(np.diag(diagonal)))


def test_coefficients_of_many_points_weigh_what_these_do_on_average(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, layout = np.repeat([1.0, 2, 3, 4, 5], 8), Layout((5, 8), (PLAIN, COSINES))
    whole = layout.moment(weights)
    monkeypatch.setattr(smooth, "MOST_PAIRED", 10)
    np.testing.assert_allclose(np.diag(layout.moment(weights)), whole, atol=1e-12)  # exact: alike along the cosines
    uneven = Layout((40,), (COSINES,)).moment(weights)
    np.testing.assert_allclose(uneven, np.full(40, 3.0))


def test_sums_of_a_diagonal_and_a_matrix_are_matrices() -> None:
    diagonal, whole = np.arange(1.0, 4), random(3, 3)
    np.testing.assert_array_equal(added(diagonal, whole), whole + np.diag(diagonal))
    np.testing.assert_array_equal(added(whole, diagonal), whole + np.diag(diagonal))
    assert added(diagonal, diagonal).shape == (3,)


def test_outputs_that_weigh_nothing_have_a_factor() -> None:
    factor = factorise(np.array([4.0, 0.0]))
    assert factor.pivots[0] == 2 and 0 < factor.pivots[1] < 1e-7
    assert factorise(np.zeros(3)).pivots.min() > 0


def test_rows_by_themselves_are_rounded_as_in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    w, x = random(300, 70), random(400, 70, seed=1)
    columns, rows = factorise(x.T @ x / 400), factorise(np.random.default_rng(2).uniform(0.5, 2, 300))
    found = []
    for most in (2e8, 0.0):
        monkeypatch.setattr(feedback, "_MOST_OF_ROWS", most)
        monkeypatch.setattr(feedback, "_MOST_AT_ONCE", most)
        monkeypatch.setattr(feedback, "_EVEN", 1.0)  # both in double precision
        found.append(feedback.quantise(w, columns, rows, 0.1, 0.1).q)
    np.testing.assert_array_equal(*found)


def test_of_many_rows_fewer_tell_the_order_of_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    w, x = random(500, 12) * np.linspace(0.1, 2, 12), random(100, 12, seed=1)
    rows = Factor(np.arange(500), np.random.default_rng(2).uniform(0.5, 2, 500))
    plain = factorise_towards(x.T @ x, w, rows, 0.3)
    monkeypatch.setattr(factors, "_MANY_ROWS", 100)
    few = factorise_towards(x.T @ x, w, rows, 0.3)
    np.testing.assert_array_equal(few.order, plain.order)
    np.testing.assert_allclose(few.lower, plain.lower)
