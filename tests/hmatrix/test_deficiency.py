"""Claims about matrices of low rank whose singular values do not fall: products of layers, merged updates."""

import numpy as np
import pytest
import torch

from hmcompress.coding.lossless import pcodec_encode
from hmcompress.hmatrix import candidates, compress_matrix
from hmcompress.hmatrix.screen import has_few_directions
from hmcompress.hmatrix.tree.deficiency import deficiency, deficient_ranks, some_lines


def product(m: int, n: int, rank: int, noise: float = 0.0) -> np.ndarray:
    """The product of two layers (m, rank) and (rank, n), and noise of a size relative to it."""
    random = np.random.default_rng(0)
    a = random.standard_normal((m, rank)) @ random.standard_normal((rank, n))
    return (a + noise * np.sqrt(rank) * random.standard_normal((m, n))).astype(np.float32)


def found(a: np.ndarray, steps: float = 1e3) -> float:
    return deficiency(a[some_lines(a.shape)] * (steps / np.sqrt(np.mean(np.square(a)))), a.shape)


@pytest.mark.parametrize(
    ("shape", "rank", "tol"),
    [
        ((512, 512), 32, 1e-3),
        ((512, 512), 24, 1e-4),
        ((256, 256), 16, 1e-5),
        ((768, 320), 64, 1e-2),
        ((300, 999), 40, 1e-3),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_product_of_layers_takes_less_than_its_factors(shape, rank, tol, dtype):
    h = compress_matrix(torch.from_numpy(product(*shape, rank)).to(dtype), tol)
    assert 0.9 * tol < h.error <= tol and h.max_rank == rank
    assert h.nbytes < (2 if tol > 1e-4 else 3) * rank * sum(shape)  # bytes of an entry of its factors


@pytest.mark.parametrize("norm", ["spectral", "max"])
def test_every_norm_takes_the_factors(norm):
    h = compress_matrix(torch.from_numpy(product(400, 300, 40)), 1e-3, norm)
    assert 0.9e-3 < h.error <= 1e-3 and h.nbytes < 2 * 40 * 700


def test_a_merged_update_in_half_precision_is_found():
    h = compress_matrix(torch.from_numpy(product(512, 512, 48)).half(), 1e-2)
    assert h.error <= 1e-2 and h.nbytes < 2 * 48 * 1024


def test_blocks_of_low_rank_are_found():
    heads = np.concatenate([product(96, 384, 12), product(96, 384, 12)[:, ::-1], np.roll(product(96, 384, 12), 99, 1)])
    h = compress_matrix(torch.from_numpy(heads), 1e-3)
    assert h.error <= 1e-3 and h.nbytes < 2 * 36 * sum(heads.shape)


def test_what_is_left_of_low_rank_is_coded_beside_it():
    a = product(512, 512, 48, noise=1e-3)
    quantised = pcodec_encode(np.rint(a / (1e-4 * np.sqrt(12 * np.mean(a**2)))).reshape(-1).astype(np.int32), 8)
    assert compress_matrix(torch.from_numpy(a), 1e-4).nbytes < 0.5 * len(quantised)


@pytest.mark.parametrize("norm", ["fro", "max", "spectral"])
@pytest.mark.parametrize(("shape", "rank"), [((512, 512), 4), ((300, 700), 12), ((400, 256), 48)])
def test_effort_fast_finds_low_rank_too(norm, shape, rank):
    w = torch.from_numpy(product(*shape, rank)).float()
    matrix = compress_matrix(w, 1e-2, norm, effort="fast")
    assert 0.9e-2 < matrix.error <= 1e-2 and matrix.nbytes < 1.1 * rank * sum(shape)  # bytes of an entry of its factors


def test_effort_fast_finds_singular_values_that_fall():
    u, v = (np.linalg.qr(product(400, 400, 400))[0] for _ in range(2))
    w = torch.from_numpy((u / np.arange(1, 401) ** 1.5) @ v.T).float()
    matrix = compress_matrix(w, 1e-2, effort="fast")
    rank = int((np.arange(1, 401) ** -1.5 > 1e-2 / 3).sum())
    assert matrix.error <= 1e-2 and matrix.nbytes < 2 * rank * 800  # of its factors in half precision


def test_effort_fast_takes_a_matrix_in_blocks_where_it_is_large(monkeypatch):
    monkeypatch.setattr(candidates, "_WHOLE", 1 << 16)
    matrix = compress_matrix(torch.from_numpy(product(512, 512, 4)).float(), 1e-2, effort="fast")
    assert matrix.error <= 1e-2 and matrix.leaves["low_rank"] + matrix.leaves["hybrid"] > 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_effort_fast_finds_no_directions_in_noise(dtype):
    w = torch.from_numpy(product(300, 300, 300)).to(dtype)
    assert not has_few_directions(w, 1e-2)
    assert has_few_directions(torch.from_numpy(product(300, 300, 9)).to(dtype), 1e-2)


@pytest.mark.parametrize("rank", [8, 31, 100])
def test_the_rank_is_told(rank):
    assert deficient_ranks(1e3 * product(256, 512, rank)[None])[0] == rank
    assert found(product(256, 512, rank)) > 2


@pytest.mark.parametrize("shape", [(64, 64), (512, 512), (1000, 40), (33, 700)])
def test_noise_has_no_low_rank(shape):
    random = np.random.default_rng(0)
    for a in (random.standard_normal(shape), random.standard_t(3, shape), random.random(shape) - 0.5):
        assert found(a) == 0
    assert found(random.standard_normal(shape) * np.geomspace(1, 100, shape[0])[:, None]) < 0.02


@pytest.mark.parametrize("a", [np.zeros((64, 64)), np.full((64, 64), np.inf), np.ones((64, 64)), np.ones((1, 9))])
def test_degenerate_matrices_do_no_harm(a):
    with np.errstate(invalid="ignore"):
        assert deficient_ranks(a[None])[0] in (0, 1)


def test_singular_values_that_fall_slowly_are_followed_as_far_as_they_pay():
    rng, k = np.random.default_rng(0), np.arange(1, 385)
    left, right = (np.linalg.qr(rng.standard_normal((384, 384)))[0] for _ in range(2))
    w = torch.from_numpy((left / k**1.5) @ right.T).float()
    sizes = {tol: compress_matrix(w, tol).nbytes for tol in (1.5e-2, 9e-3)}  # rank 60, and 85 where 64 do not suffice
    assert sizes[9e-3] < 2 * sizes[1.5e-2]
