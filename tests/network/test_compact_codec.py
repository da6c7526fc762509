"""The compact form of a grid: what is coded comes back, few living lines cost few bytes, damage never crashes."""

import contextlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hmcompress.coding.arithmetic import ArithmeticDecoder, ArithmeticEncoder
from hmcompress.coding.symbols import Adaptive
from hmcompress.errors import FormatError
from hmcompress.hmatrix import HMatrix
from hmcompress.hmatrix.codecs import COMPACT
from hmcompress.hmatrix.grids import compact, weighted
from hmcompress.hmatrix.grids.grid import Grid


def restored(grid: Grid, thorough: bool = False) -> np.ndarray:
    payload = bytes([COMPACT]) + compact.encode(grid, thorough)
    shape = (grid.q.shape[0], grid.q.shape[1])
    return HMatrix.from_payload(payload, shape, torch.float64).to_dense().numpy()


def random_grid(m: int, n: int, scale: float, seed: int) -> Grid:
    rng = np.random.default_rng(seed)
    q = np.rint(scale * rng.standard_normal((m, n)) * rng.lognormal(0, 2, (m, 1))).clip(-(2**30), 2**30)
    return compact.canonical(Grid(q.astype(np.int64), rng.integers(-20, 20, m), rng.integers(-30, 30, n)))


def embedded(grid: Grid, m: int, n: int) -> Grid:
    """The grid in the first rows and columns of a larger one, its last column last."""
    places = np.append(np.arange(grid.q.shape[1] - 1), n - 1)
    q, rows, columns = np.zeros((m, n), np.int64), np.zeros(m, np.int64), np.zeros(n, np.int64)
    q[: len(grid.q), places] = grid.q
    rows[: len(grid.q)], columns[places] = grid.row_exponents, grid.column_exponents
    return compact.canonical(Grid(q, rows, columns))


@given(
    m=st.integers(1, 20),
    n=st.integers(1, 20),
    scale=st.sampled_from([0.0, 0.3, 3.0, 300.0, 1e7]),
    seed=st.integers(0, 99),
    thorough=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_every_grid_comes_back(m: int, n: int, scale: float, seed: int, thorough: bool) -> None:
    grid = random_grid(m, n, scale, seed)
    assert np.array_equal(restored(grid, thorough), grid.to_dense())


@given(m=st.integers(1, 9), n=st.integers(2, 9), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_a_grid_in_a_corner_comes_back(m: int, n: int, seed: int) -> None:
    grid = embedded(random_grid(m, n, 2.0, seed), 60, 70)
    assert np.array_equal(restored(grid), grid.to_dense())


def test_what_no_encoder_wrote_is_refused_before_its_numbers_grow() -> None:
    """Each further symbol would take as long as all before it."""
    with pytest.raises(FormatError, match="does not decode"):
        HMatrix.from_payload(bytes([COMPACT]) + b"\xff" * 8, (1, 1_000_000), torch.float32)


def test_canonical_exponents_change_no_step() -> None:
    grid = Grid(np.ones((4, 3), np.int64), np.array([2, 4, 6, 8]), np.array([-4, 0, 2]))
    assert np.array_equal(compact.canonical(grid).to_dense(), grid.to_dense())


def test_zero_matrix_costs_two_bytes_at_most() -> None:
    assert len(compact.encode(Grid(np.zeros((128, 129), np.int64), np.arange(128), np.arange(129)))) <= 2


def test_lines_and_scales_of_a_small_layer_cost_few_bytes() -> None:
    rng = np.random.default_rng(0)
    integers = np.rint(4 * rng.standard_normal((6, 7))).astype(np.int64)
    small = Grid(integers, np.zeros(6, np.int64), np.full(7, -6))
    grid = embedded(small, 128, 129)
    assert len(compact.encode(grid)) <= np.log2(4 * (2 * np.pi * np.e) ** 0.5) * integers.size / 8 + 5
    assert len(compact.encode(grid)) <= len(weighted.encode(grid)) - 5


def test_numbers_cost_their_entropy_to_the_byte() -> None:
    encoder = ArithmeticEncoder()
    encoder.uniform(np.arange(100) % 10, np.full(100, 10))
    data = encoder.getvalue()
    assert len(data) <= np.ceil((100 * np.log2(10) + 1) / 8)
    assert ArithmeticDecoder(data).uniform(None, np.full(100, 10)).tolist() == (np.arange(100) % 10).tolist()


@given(st.lists(st.integers(0, 4), max_size=200))
@settings(max_examples=40, deadline=None)
def test_adaptive_symbols_come_back(symbols: list[int]) -> None:
    encoder, adaptive = ArithmeticEncoder(), Adaptive(5, spread=0.3)
    for symbol in symbols:
        adaptive.code(encoder, symbol)
    decoder, adaptive = ArithmeticDecoder(encoder.getvalue()), Adaptive(5, spread=0.3)
    assert [adaptive.code(decoder, None) for _ in symbols] == symbols


@pytest.mark.parametrize("seed", range(3))
def test_damaged_payloads_raise_or_decode_but_never_crash(seed: int) -> None:
    payload = bytes([COMPACT]) + compact.encode(embedded(random_grid(8, 9, 3.0, seed), 30, 20))
    for k in range(1, 80):
        damaged = bytearray(payload)
        damaged[1 + k % (len(payload) - 1)] ^= 1 << k % 8
        for data in (bytes(damaged), payload[: 1 + k % len(payload)]):
            with contextlib.suppress(FormatError):
                HMatrix.from_payload(data, (30, 20), torch.float32).to_dense()
