"""Claims about the short ways that large matrices of noise take."""

import numpy as np
import pytest
import torch

from hmcompress.coding import streams
from hmcompress.coding.lossless import pcodec_encode
from hmcompress.hmatrix import compress_matrix
from hmcompress.hmatrix.basics import exact
from hmcompress.hmatrix.basics.measure import measure_error
from hmcompress.hmatrix.basics.price import cost, product_cost
from hmcompress.hmatrix.basics.rounding import Rounder
from hmcompress.hmatrix.lossless_guess import lossless_is_larger
from hmcompress.hmatrix.screen import find_structure

SIDE = 512


def noise(seed: int = 0, shape: tuple[int, int] = (SIDE, SIDE)) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("w", [noise(), noise(shape=(700, 300)), torch.outer(noise()[0], noise()[1])])
def test_blocks_are_the_rows_of_to_dense(w: torch.Tensor) -> None:
    matrix = compress_matrix(w, 1e-2)
    assert torch.equal(torch.cat(list(matrix.blocks())), matrix.to_dense())


def test_a_large_matrix_of_noise_comes_in_several_blocks() -> None:
    assert len(list(compress_matrix(noise(), 1e-2).blocks())) > 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("step", [0.3, 1e-2, 1e-5, 40.0])
def test_rounding_knows_the_integers_and_exactly_the_errors_of_what_is_decoded(step: float, dtype: torch.dtype) -> None:
    w, step = noise().to(dtype), float(np.float32(step))
    rounder = Rounder(w)
    q = torch.from_numpy(rounder.integers(step)).reshape(w.shape)
    assert torch.equal(q.double(), torch.round(w.float() / step).double())
    e = ((q.float() * step).to(dtype).double() - w.double()).abs()
    assert rounder.errors(step) == pytest.approx((float(e.norm()), float(e.max())), rel=1e-12)


def test_rounding_tells_integers_that_are_too_large() -> None:
    assert Rounder(noise()).errors(1e-12) == (np.inf, np.inf)


@pytest.mark.parametrize("norm", ["fro", "max"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_quick_way_states_the_error_of_its_decoded_values(norm: str, dtype: torch.dtype) -> None:
    w = noise().to(dtype)
    matrix = compress_matrix(w, 3e-2, norm, effort="fast")
    error, largest = measure_error(w, matrix.to_dense(), norm)
    assert (matrix.error, matrix.max_abs_error) == pytest.approx((error, largest), rel=1e-12)


def test_the_quick_way_does_not_trust_a_coder_that_loses_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "pcodec_encode", lambda q, *_, **__: pcodec_encode(q // 2 * 2, 8))
    matrix = compress_matrix(noise(), 1e-2, effort="fast")
    assert matrix.method != "hmatrix" or matrix.error <= 1e-2


def test_the_first_step_of_a_large_matrix_is_near_enough() -> None:
    for seed in range(4):
        assert 0.996 < compress_matrix(noise(seed), 1e-2).error / 1e-2 <= 1


def test_the_price_of_a_product_of_scales_is_the_sum_over_its_entries() -> None:
    generator = np.random.default_rng(0)
    rows, columns = (np.exp2(generator.uniform(-4, 4, n)) for n in (60, 90))
    exact = float(cost(rows[:, None] * columns).sum())
    assert product_cost(rows, columns) == pytest.approx(exact, rel=2e-3)


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_noise_has_no_spike_and_a_planted_direction_has_one(size: float) -> None:
    w = noise()
    direction = torch.outer(w[0], w[1]) * (0.5 / w[0].norm() / w[1].norm() * w.norm())
    assert find_structure((w * size).numpy(), 0.03 * size).spike == 0
    assert find_structure(((w + direction) * size).numpy(), 0.03 * size).spike > 0.06


@pytest.mark.parametrize("empty", [256, 300, SIDE - 16])
def test_bound_holds_where_the_corner_that_the_screen_looks_at_is_empty(empty: int) -> None:
    w = noise()
    w[:empty, :empty] = 0
    h = compress_matrix(w, 1e-2)
    assert 0.9e-2 < h.error <= 1e-2
    assert h.nbytes < compress_matrix(noise(), 1e-2).nbytes * (1 - 0.9 * (empty / SIDE) ** 2)


def test_equal_blocks_are_seen_and_like_ones_are_not() -> None:
    block = noise(shape=(32, 32))
    assert find_structure(block.repeat(16, 16).numpy(), 0.03).repeats
    assert not find_structure(noise().numpy(), 0.03).repeats


@pytest.mark.parametrize("shape", [(32, 32), (33, 32), (32, 300)])
def test_a_block_of_a_small_matrix_is_not_taken_for_its_own_copy(shape: tuple[int, int]) -> None:
    assert not find_structure(noise(shape=shape).numpy(), 0.03).repeats
    assert find_structure(noise(shape=(16, 16)).repeat(3, 20)[: shape[0], : shape[1]].numpy(), 0.03).repeats


def test_what_some_rows_of_a_large_matrix_say_of_lossless_forms_is_what_all_take() -> None:
    w = noise(shape=(8192, 2048)).bfloat16()
    assert exact.estimate(w, 1 << 20) == pytest.approx(len(exact.encode(w)), rel=0.01)
    assert exact.estimate(w[:4096], 1 << 20) == 0.0  # not large: the form itself is tried


@pytest.mark.parametrize("shape", [(1, 300), (20, 30), (64, 64)])
def test_a_few_numbers_of_noise_are_not_coded_without_loss(shape, monkeypatch) -> None:
    """But what repeats may be."""
    w = noise(shape=shape)
    monkeypatch.setattr(exact, "encode", lambda *_: pytest.fail("coded without loss"))
    assert compress_matrix(w, 1e-2).method == "hmatrix"
    assert not lossless_is_larger(w[:1, :1].expand(shape).contiguous(), w.nbytes // 4)


def test_sparse_noise_shows_no_blocks_and_sparse_blocks_do() -> None:
    places = torch.rand((SIDE, SIDE), generator=torch.Generator().manual_seed(1))
    blocks = torch.rand((16, 16), generator=torch.Generator().manual_seed(2)).repeat_interleave(32, 0)
    scattered = noise() * (places < 0.05)
    gathered = noise() * (blocks.repeat_interleave(32, 1) < 0.1) * (places < 0.5)
    assert not find_structure(scattered, 1e-2).is_local("default")
    assert find_structure(gathered, 1e-2).is_local("default")


def test_a_few_large_entries_make_no_blocks_but_may_be_out_of_order() -> None:
    heavy = noise() / torch.rand((SIDE, SIDE), generator=torch.Generator().manual_seed(1)).clamp_min(1e-3)
    x = torch.linspace(0, 1, SIDE)
    kernel = 1 / ((x[:, None] - x).abs() + 1 / SIDE)
    order = torch.randperm(SIDE, generator=torch.Generator().manual_seed(2))
    assert not find_structure(heavy, 1e-2).is_local("default")
    assert find_structure(kernel, 1e-2).is_local("default")
    assert find_structure(kernel[order][:, order.flip(0)], 1e-2).may_be_shuffled("default")
