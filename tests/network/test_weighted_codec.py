"""The weighted grid: what is coded comes back, steps follow the metric, bytes follow the model."""

import contextlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hmcompress.errors import FormatError
from hmcompress.hmatrix import HMatrix
from hmcompress.hmatrix.codecs import WEIGHTED
from hmcompress.hmatrix.grids import weighted
from hmcompress.hmatrix.grids.factors import factorise, factorise_towards
from hmcompress.hmatrix.grids.feedback import quantise
from hmcompress.hmatrix.grids.grid import Grid


def random_moment(n: int, decay: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.standard_normal((n, n)))
    return (basis * np.exp(-decay * np.arange(n))) @ basis.T


def restored(grid: Grid, thorough: bool = False) -> np.ndarray:
    payload = bytes([WEIGHTED]) + weighted.encode(grid, thorough)
    shape = (grid.q.shape[0], grid.q.shape[1])
    return HMatrix.from_payload(payload, shape, torch.float64).to_dense().numpy()


@given(
    m=st.integers(1, 20),
    n=st.integers(1, 20),
    scale=st.sampled_from([0.0, 0.3, 3.0, 300.0, 1e7]),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_every_grid_comes_back(m: int, n: int, scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    q = (
        np.rint(scale * rng.standard_normal((m, n)) * rng.lognormal(0, 2, (m, 1)))
        .clip(-(2**30), 2**30)
        .astype(np.int64)
    )
    grid = Grid(q, rng.integers(-20, 20, m), rng.integers(-30, 30, n))
    assert np.array_equal(restored(grid), grid.to_dense())


def test_bits_of_integers_add_up_to_the_stream_and_neighbours_cost_what_they_would() -> None:
    rng = np.random.default_rng(3)
    q = np.rint(rng.standard_normal((40, 50)) * rng.lognormal(1, 1.5, (40, 1))).astype(np.int64)
    grid = Grid(q, np.zeros(40, np.int64), np.arange(50) // 9)
    model = weighted.ScaleModel(start=weighted.mean_exponent(grid))
    bits = weighted.integer_bits(grid, model, 2)
    assert bits[..., 2].sum() == pytest.approx(8 * len(weighted.encode(grid, thorough=False)), rel=0.03)
    q = q.copy()
    q[-1, -1] += 2  # the last one that is coded, so that no other changes
    assert weighted.integer_bits(Grid(q, grid.row_exponents, grid.column_exponents), model, 2)[
        -1, -1, 2
    ] == pytest.approx(bits[-1, -1, 4])


def test_zero_lines_cost_next_to_nothing() -> None:
    q = np.zeros((128, 129), np.int64)
    q[3, 5] = 1
    grid = Grid(q, np.arange(128) % 7, np.arange(129) % 5)
    assert len(weighted.encode(grid)) <= 16


@pytest.mark.parametrize("sigma", [0.7, 3.0, 50.0])
def test_gaussian_integers_cost_their_entropy(sigma: float) -> None:
    q = np.rint(sigma * np.random.default_rng(0).standard_normal((64, 128))).astype(np.int64)
    _, counts = np.unique(q, return_counts=True)
    p = counts / q.size
    entropy = -(p * np.log2(p)).sum()
    grid = Grid(q, np.zeros(64, np.int64), np.zeros(128, np.int64))
    assert 8 * len(weighted.encode(grid)) / q.size < entropy + 0.08


def test_thorough_encoding_is_never_larger() -> None:
    rng = np.random.default_rng(1)
    q = np.rint(rng.standard_normal((40, 40)) * rng.lognormal(0, 1.5, (40, 1))).astype(np.int64)
    grid = Grid(q, np.zeros(40, np.int64), np.zeros(40, np.int64))
    assert len(weighted.encode(grid)) <= len(weighted.encode(grid, thorough=False))


def test_damaged_payloads_raise_or_decode_but_never_crash() -> None:
    rng = np.random.default_rng(2)
    grid = Grid(rng.integers(-3, 4, (30, 20)), rng.integers(0, 5, 30), rng.integers(0, 5, 20))
    payload = bytes([WEIGHTED]) + weighted.encode(grid)
    for k in range(1, 60):
        damaged = bytearray(payload)
        damaged[1 + k % (len(payload) - 1)] ^= 1 << k % 8
        with contextlib.suppress(FormatError):
            HMatrix.from_payload(bytes(damaged), (30, 20), torch.float32).to_dense()


def test_factor_reproduces_the_moment() -> None:
    moment = random_moment(24, 0.3, 0)
    factor = factorise(moment)
    product = factor.lower @ factor.lower.T
    assert np.allclose(product, moment[np.ix_(factor.order, factor.order)], atol=1e-10)
    assert (np.diff(factor.pivots) <= 1e-12).all()


@pytest.mark.parametrize("decay", [0.0, 0.2, 1.0])
def test_error_in_the_metric_is_the_water_level(decay: float) -> None:
    rng = np.random.default_rng(3)
    w = rng.standard_normal((32, 40))
    columns, rows = factorise(random_moment(40, decay, 4)), factorise(random_moment(32, 0.1, 5))
    delta = 1e-4
    error = w - quantise(w, columns, rows, delta, 0.0).to_dense()
    weighted_error = rows.lower.T @ error[np.ix_(rows.order, columns.order)] @ columns.lower
    assert np.sqrt((weighted_error**2).mean()) < 1.15 * delta / np.sqrt(12)


def test_feedback_beats_rounding_in_the_metric() -> None:
    rng = np.random.default_rng(6)
    w = rng.standard_normal((24, 48))
    moment = random_moment(48, 0.4, 7)
    columns, rows = factorise(moment), factorise(np.eye(24))
    grid = quantise(w, columns, rows, 0.05, 0.0)
    steps = grid.to_dense() / np.where(grid.q == 0, 1, grid.q)
    steps = np.abs(steps).max(0).clip(1e-12)
    rounded = np.rint(w / steps) * steps

    def error(q: np.ndarray) -> float:
        return float(np.sqrt(np.trace((w - q) @ moment @ (w - q).T)))

    assert error(grid.to_dense()) < 0.7 * error(rounded)


def test_redundant_columns_become_zero() -> None:
    rng = np.random.default_rng(8)
    x = rng.standard_normal((500, 4)) @ rng.standard_normal((4, 32))
    grid = quantise(rng.standard_normal((16, 32)), factorise(x.T @ x / 500), factorise(np.eye(16)), 1e-3, 0.1)
    assert grid.live_columns.sum() <= 4


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_aimed_factor_reproduces_the_moment(share: float) -> None:
    moment = random_moment(24, 0.3, 9)
    w = np.random.default_rng(10).standard_normal((8, 24))
    factor = factorise_towards(moment, w, factorise(np.eye(8)), share)
    assert sorted(factor.order) == list(range(24))
    assert np.allclose(factor.lower @ factor.lower.T, moment[np.ix_(factor.order, factor.order)], atol=1e-9)


def test_columns_that_the_target_needs_come_first() -> None:
    w = np.zeros((4, 16))
    w[:, [3, 11]] = 1.0
    moment = np.eye(16) + 0.01
    order = factorise_towards(moment, w, factorise(np.eye(4)), 0.0).order
    assert set(order[:2]) == {3, 11}


def test_of_large_grids_the_model_is_chosen_by_what_it_would_take_and_is_as_good(monkeypatch) -> None:
    rng = np.random.default_rng(4)
    q = np.rint(rng.standard_normal((80, 90)) * rng.lognormal(0, 1.5, (80, 1)) * rng.lognormal(0, 1, 90)).astype(int)
    q[3, 4] = 1 << 20
    grid = Grid(q, rng.integers(-5, 5, 80), rng.integers(-5, 5, 90))
    tried = weighted.encode(grid)
    calls = []
    monkeypatch.setattr(weighted, "_LARGE", 1000)
    monkeypatch.setattr(weighted, "_encode", lambda *given: calls.append(given) or b"")
    weighted.encode(grid)
    monkeypatch.undo()
    assert len(calls) == 1
    assert len(weighted._encode(*calls[0])) <= 1.002 * len(tried) < len(weighted.encode(grid, thorough=False))


def test_classes_that_are_known_are_those_of_one_column_after_another() -> None:
    rng = np.random.default_rng(5)
    q = np.rint(3 * rng.standard_normal((37, 20))).astype(np.int64)
    row_steps, column_steps = 2.0 ** rng.integers(-3, 3, 37), 2.0 ** np.sort(rng.integers(-3, 3, 20))
    model = weighted.ScaleModel()
    scales, found = weighted.AdaptiveScales(model, 37, 0.7), []
    for j, step in enumerate(column_steps):
        for chunk, classes in scales.column(row_steps * step):
            found.append(classes)
            scales.learn(chunk, q[chunk, j], row_steps * step)
    known = weighted.known_classes(model, 0.7, q, row_steps, column_steps)
    assert np.array_equal(known.reshape(-1), np.concatenate(found))
