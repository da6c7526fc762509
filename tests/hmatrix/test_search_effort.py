"""Claims about what the search leaves out: work that cannot pay, told by cheaper means, without a larger payload."""

import numpy as np
import pytest
import torch
from hmatrix_matrices import compressed, kernel, matrix, noise, with_spectrum

from hmcompress.coding import lossless, streams
from hmcompress.coding.shape import fit_shape
from hmcompress.hmatrix import candidates, compress, compress_matrix
from hmcompress.hmatrix.tree import partition
from hmcompress.hmatrix.tree.blocks import Leaf
from hmcompress.hmatrix.tree.partition import best_leaves, coloured, possible_bases
from hmcompress.hmatrix.tree.ranks import worthwhile_ranks
from hmcompress.hmatrix.tree.spectra import leading_values


@pytest.fixture
def decomposed(monkeypatch):
    """Shapes of the stacks whose singular vectors the search asks for."""
    shapes, spectra = [], partition.spectra
    monkeypatch.setattr(partition, "spectra", lambda stack, **how: shapes.append(stack.shape) or spectra(stack, **how))
    return shapes


def test_no_singular_vectors_are_computed_of_noise(decomposed):
    best_leaves(noise(128, 96)[None] * 30, True)
    assert decomposed == []


def test_of_many_blocks_only_those_of_low_rank_are_decomposed(decomposed):
    low_rank = with_spectrum(128, 128, np.array([3000.0, 1000.0]))
    leaves = best_leaves(np.stack([noise(128, 128) * 30, low_rank, noise(128, 128, 1) * 30]), True)
    assert decomposed == [(1, 128, 128)]
    assert [bool(leaf.rank) for leaf, _ in leaves] == [False, True, False]


def test_singular_vectors_of_noise_are_not_computed_for_a_whole_layer(decomposed):
    compress_matrix(torch.from_numpy(noise(160, 160)).float(), 1e-2)
    assert decomposed == []


@pytest.mark.parametrize(("name", "tol"), [("distance", 1e-1), ("distance", 1e-4), ("green", 1e-2)])
def test_what_is_left_out_costs_a_kernel_hardly_a_byte(name, tol, monkeypatch):
    w = kernel(name, 128)
    screened = compress_matrix(w, tol).nbytes
    monkeypatch.setattr(partition, "worthwhile_ranks", lambda stack, *_: np.full(len(stack), 64))
    assert screened <= 1.01 * compress_matrix(w, tol).nbytes + 16


@pytest.mark.parametrize("large", [False, True])
def test_a_large_matrix_that_repeats_is_not_coded_entry_by_entry(large, monkeypatch):
    """Every entry as an integer takes many times the memory of a tree that copies its blocks."""
    plans, tune = [], compress.tune
    monkeypatch.setattr(compress, "tune", lambda request, c, step: plans.append(c.plan) or tune(request, c, step))
    w = kernel("distance", 160)
    monkeypatch.setattr(candidates, "_WHOLE", w.numel() - large)
    compress_matrix(w, 1e-4)
    assert (Leaf(0, True) in plans) is not large


def test_ranks_worth_a_look_cover_those_that_are_there():
    a = with_spectrum(96, 80, np.geomspace(4000, 200, 6))[None] + noise(96, 80, 1)
    assert worthwhile_ranks(a, np.square(a).sum((1, 2)), np.full(1, 5.0 * a.size), np.zeros((2, 1), bool))[0] >= 6


def test_leading_values_are_those_of_the_matrix_or_a_little_less():
    a = np.stack([noise(128, 80, seed) + with_spectrum(128, 80, np.geomspace(900, 300, 6)) for seed in range(3)])
    exact = np.linalg.svd(a, compute_uv=False)[:, :6]
    assert (np.abs(leading_values(a) / exact - 0.97) <= 0.03001).all()


def test_white_blocks_have_no_colour_and_a_large_column_hides_none():
    white = np.stack([noise(64, 48, seed) for seed in range(40)])
    assert coloured(white).mean() < 0.05
    smooth = np.cumsum(white, axis=2)
    smooth[:, :, 0] *= 1000
    assert not coloured(smooth)[0].all() and coloured(smooth)[1].all()
    assert possible_bases(coloured(white[:1])).sum() == 1


def test_dictionary_coders_at_high_levels_are_left_out_for_noise(monkeypatch):
    levels, zstd = [], lossless.zstd_compress
    monkeypatch.setattr(streams, "zstd_compress", lambda data, level: levels.append(level) or zstd(data, level))
    q = np.rint(noise(120, 120) * 30).astype(np.int32)
    assert streams.encode_below(q, 12_000) is None and levels == [1]


def test_a_shape_is_no_further_from_itself_than_from_any_other():
    own, other = fit_shape(noise(1, 4000)[0]), fit_shape(np.abs(noise(1, 4000)[0]) ** 2)
    assert own.divergence(own) < 1e-9 < own.divergence(other)


def test_small_layers_still_find_repetitions_under_one_scale():
    assert (
        compressed("repeated", 1e-2).nbytes
        < 0.6 * compress_matrix(torch.from_numpy(noise(96, 96)).float(), 1e-2).nbytes
    )
    assert matrix("repeated").shape == (96, 96)


def test_a_smooth_field_with_an_edge_is_a_short_cosine_series():
    """Its spectrum has a few large entries; a price by their mean square would not let it be tried."""
    x = np.linspace(0, 1, 256)
    waves = sum(np.sin((k * x)[:, None] * 5 + k) * np.cos(k * 7 * x) / k for k in range(1, 8))
    w = torch.from_numpy(waves + (np.add.outer(x, x) > 1) * 0.5).float()
    assert compress_matrix(w, 1e-2).nbytes < 1500
    assert partition.sparse_leaves(w.numpy() / 0.02)[0][0] == Leaf(0, True, 0, 3)


@pytest.mark.parametrize("tol", [1e-2, 1e-3, 1e-4])
def test_where_no_low_rank_part_reaches_the_tolerance_it_is_not_lossless(tol):
    """Ranks end at half of a side; where prices left only such parts, a remainder is coded beside them."""
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.standard_normal((n, 64)))[0] for n in (64, 400))
    w = torch.from_numpy(left * 10 ** -np.linspace(0, 6, 64) @ right.T).float()
    found = compress_matrix(w, tol)
    assert found.method == "hmatrix" and found.error <= tol
    assert found.nbytes < w.nbytes / 3


@pytest.mark.parametrize("n", [200, 400])
def test_noise_that_its_dtype_cannot_hold_so_finely_is_coded_once(n, monkeypatch):
    tried, tune = [], compress.tune
    monkeypatch.setattr(compress, "tune", lambda request, c, step: tried.append(c) or tune(request, c, step))
    assert compress_matrix(torch.from_numpy(noise(n, n)).float(), 1e-8).method == "lossless"
    assert len(tried) == 1
