"""Claims about the nearest plane: a reduced basis is of the same lattice, and makes less of errors where it serves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hmcompress.hmatrix.grids.factors import factorise
from hmcompress.hmatrix.grids.feedback import nearest_plane_in_tiles
from hmcompress.hmatrix.grids.kernels import kronecker_nearest_plane, reduce_basis
from hmcompress.network.joint import nearest_plane as module
from hmcompress.network.joint.nearest_plane import nearest_plane


def slanted(count: int, seed: int = 0) -> np.ndarray:
    """The factor of a metric of features that are much alike, whose pivots fall steeply."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((200, 4)) @ rng.standard_normal((4, count)) + 0.01 * rng.standard_normal(
        (200, count)
    )
    return np.linalg.cholesky(features.T @ features / 200)


def error(lower: np.ndarray, w: np.ndarray, q: np.ndarray, steps: np.ndarray) -> float:
    return float(np.linalg.norm(lower.T @ (w - q * steps)))


@settings(deadline=None)  # the first call compiles
@given(st.integers(1, 12), st.integers(0, 1000))
def test_a_reduced_basis_spans_the_same_lattice_and_is_reduced(count: int, seed: int) -> None:
    basis = np.random.default_rng(seed).integers(-20, 21, (count, count)).astype(float) + 50 * np.eye(count)
    short = basis.copy()
    reduce_basis(short, 0.99, 10_000)
    change = short @ np.linalg.inv(basis)
    assert np.abs(change - np.rint(change)).max() < 1e-6
    assert abs(np.linalg.det(change)) == pytest.approx(1, rel=1e-6)
    upper = np.linalg.qr(short.T)[1]
    along, sides = np.triu(upper / np.diag(upper)[:, None], 1), np.square(np.diag(upper))
    assert np.abs(along).max() <= 0.5 + 1e-9  # the definition: as little along those before as can be,
    assert (sides[1:] >= (0.99 - np.diag(along, 1) ** 2) * sides[:-1] * (1 - 1e-9)).all()  # and no swap would gain


def test_no_swap_is_made_beyond_those_allowed() -> None:
    basis = np.ascontiguousarray(slanted(20))
    few, many = basis.copy(), basis.copy()
    reduce_basis(few, 0.99, 3)
    reduce_basis(many, 0.99, 10_000)
    assert np.linalg.norm(many, axis=1).prod() < np.linalg.norm(few, axis=1).prod()


def test_features_that_are_alike_cost_half_the_error_in_a_reduced_basis(monkeypatch: pytest.MonkeyPatch) -> None:
    rng, lower, steps = np.random.default_rng(1), slanted(24), np.full(24, 0.02)
    errors: dict[int, list[float]] = {0: [], 128: []}
    for most, found in errors.items():
        monkeypatch.setattr(module, "_MOST", most)
        for w in rng.standard_normal((20, 24)):
            found.append(error(lower, w, nearest_plane(w, np.arange(24), lower, steps, 0.0), steps))
    assert np.mean(errors[128]) < 0.5 * np.mean(errors[0])


def test_small_integers_keep_their_zeros() -> None:
    rng, lower = np.random.default_rng(2), slanted(24)
    w, steps = rng.standard_normal(24), np.full(24, 1.0)
    narrow, wide = (nearest_plane(w, np.arange(24), lower, steps, zone) for zone in (0.0, 0.3))
    assert np.count_nonzero(wide) < np.count_nonzero(narrow)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_integers_are_rounded_as_well(count: int) -> None:
    lower, w, steps = slanted(5)[:count, :count], np.linspace(3, 7, count), np.full(count, 0.1)
    q = nearest_plane(w, np.arange(count), lower, steps, 0.1)
    assert q.shape == (count,) and error(lower, w, q, steps) <= 0.05 * np.abs(lower).sum() + 1e-12


@settings(deadline=None, max_examples=10)
@given(st.sampled_from([(5, 3), (64, 64), (65, 130), (200, 70)]), st.integers(0, 1000))
def test_tiles_give_the_integers_that_entries_one_by_one_give(shape: tuple[int, int], seed: int) -> None:
    (m, n), rng = shape, np.random.default_rng(seed)
    w = rng.standard_normal((m, n))
    rows, columns = (factorise(a @ a.T / len(a)) for a in (rng.standard_normal((m, 2 * m)), slanted(n, seed)))
    steps = 0.1 / columns.pivots, 1 / rows.pivots
    wanted = kronecker_nearest_plane(w, columns.lower, rows.lower, *steps, 0.1, np.zeros(shape))[0]
    assert np.array_equal(nearest_plane_in_tiles(w, columns.lower, rows, *steps, 0.1), wanted)
