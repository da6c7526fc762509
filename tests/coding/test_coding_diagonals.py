"""Claims about diagonals: integers come back, a repeated one is stored once, noise on them is averaged."""

import contextlib

import numpy as np
import pytest
import scipy.linalg
from coding_integers import damaged

from hmcompress.coding.classes import class_of
from hmcompress.coding.diagonals import Way, differences, promising, restored
from hmcompress.coding.pool import DIAGONALS, decode_pool, encode_pool
from hmcompress.errors import FormatError

N, SIDE = 192, 12


def random_integers(*shape: int) -> np.ndarray:
    return np.rint(np.random.default_rng(sum(shape)).standard_normal(shape) * 300).astype(np.int64)


def blocks_of_toeplitz_blocks() -> np.ndarray:
    """A convolution of images of 16 rows of 12 points."""
    y, x = np.divmod(np.arange(N), SIDE)
    return random_integers(2 * N // SIDE, 2 * SIDE)[y[:, None] - y + N // SIDE, x[:, None] - x + SIDE]


MATRICES = {
    "toeplitz": lambda: scipy.linalg.toeplitz(random_integers(N), random_integers(N + 7)),
    "hankel": lambda: scipy.linalg.hankel(random_integers(N), random_integers(N + 1)),
    "convolution": blocks_of_toeplitz_blocks,
}


def coded(q: np.ndarray) -> tuple[bytes, np.ndarray]:
    e = class_of(np.sqrt(np.mean(np.square(q, dtype=float))))[None]
    data = encode_pool(q, e, width=q.shape[1])
    np.testing.assert_array_equal(decode_pool(data, e, q.size, q.shape[1]), q.reshape(-1))
    return data, e


@pytest.mark.parametrize("way", [Way(m, t, p) for m in (0, 1) for t in (0, 1) for p in (0, 5, 29)], ids=str)
def test_integers_come_back_by_every_way(way):
    q = random_integers(13, 29)
    np.testing.assert_array_equal(restored(differences(q, way), way), q)


@pytest.mark.parametrize("side", [16, 31, 32, 33])
def test_blocks_are_found_whichever_rows_are_looked_at(side):
    y, x = np.divmod(np.arange(side**2), side)
    distances = np.hypot(np.subtract.outer(y, y), np.subtract.outer(x, x))
    assert {way.period for way in promising(np.rint(9e3 * np.exp(-5 * distances / side)).astype(np.int64))} == {side}


@pytest.mark.parametrize(("name", "numbers"), [("toeplitz", 2 * N), ("hankel", 2 * N), ("convolution", 4 * N)])
def test_each_diagonal_is_stored_once(name, numbers):
    data, _ = coded(MATRICES[name]())
    assert data[0] == DIAGONALS and 8 * len(data) < 1.1 * numbers * (np.log2(300) + 2.05) + 500


@pytest.mark.parametrize("name", MATRICES)
def test_of_noise_on_diagonals_little_more_than_the_noise_is_stored(name):
    noise = np.rint(np.random.default_rng(0).standard_normal((N, N)) * 4).astype(np.int64)
    data, _ = coded(MATRICES[name]()[:, :N] + noise)
    numbers, unsure = (4 * N, 0.35) if name == "convolution" else (2 * N, 0.15)  # bits, of means of few and of many
    assert 8 * len(data) < N * N * (np.log2(4) + 2.05 + unsure) + 1.1 * numbers * np.log2(300)


@pytest.mark.parametrize("q", [random_integers(N, N), np.cumsum(random_integers(N, N), 1), np.zeros((N, N), int)])
def test_nothing_is_promised_where_diagonals_differ(q):
    assert not list(promising(q))


def test_damage_is_a_format_error_or_harmless():
    q = MATRICES["convolution"]()
    data, e = coded(q)
    for bad in damaged(data, 200):
        with contextlib.suppress(FormatError):
            assert decode_pool(bad, e, q.size, N).shape == (q.size,)
    with pytest.raises(FormatError, match="unknown or impossible kind"):
        decode_pool(data[:4] + data, e, q.size, N)
