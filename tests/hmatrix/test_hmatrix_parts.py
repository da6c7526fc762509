"""Claims about the parts of the engine, each by itself: trees, repeats, transforms, bases, orders, prices."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hmatrix_matrices import noise
from hypothesis import given, settings
from hypothesis import strategies as st

from hmcompress.coding.buffer import Reader, Writer
from hmcompress.hmatrix import measure_error
from hmcompress.hmatrix.basics import price
from hmcompress.hmatrix.basics.measure import reference
from hmcompress.hmatrix.basics.scales import Scales, fit_scales, fit_scales_of
from hmcompress.hmatrix.request import Candidate, Request, first_step
from hmcompress.hmatrix.tree.basis import BASES, TRANSPOSED
from hmcompress.hmatrix.tree.blocks import MIN_LEAF, Block, Leaf, max_nodes
from hmcompress.hmatrix.tree.encode import PreparedLeaf
from hmcompress.hmatrix.tree.order import NATURAL, Order, morton_order, read_order, write_order
from hmcompress.hmatrix.tree.repeats import find_repeats
from hmcompress.hmatrix.tree.spectra import spectra
from hmcompress.hmatrix.tree.transform import TRANSFORMS, decode_columns, encode_columns, price_columns
from hmcompress.hmatrix.tune import tune

SETTINGS = settings(derandomize=True, deadline=None, max_examples=50, database=None)


def nodes(block: Block) -> list[Block]:
    return [block] + [node for child in block.children() for node in nodes(child)]


@SETTINGS
@given(st.integers(1, 400), st.integers(1, 400))
def test_leaves_of_a_full_tree_tile_the_matrix_and_are_no_smaller_than_allowed(m, n):
    tree = nodes(Block(0, m, 0, n))
    covered = np.zeros((m, n), int)
    for block in tree:
        if not block.children():
            block.of(covered)[...] += 1
            assert min(block.shape) >= min(MIN_LEAF, m, n)
    assert (covered == 1).all()
    assert len(tree) <= max_nodes((m, n))


def test_blocks_that_repeat_are_found_as_they_are_and_transposed():
    a, b = noise(20, 30) * 50, noise(20, 30, 1) * 50
    found = find_repeats([a, b, a.copy(), a.T.copy(), b.T + 1e-3, b + 1])
    assert [f and (f.source, f.transposed) for f in found] == [None, None, (0, False), (0, True), (1, True), None]


@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 9, 16, 100, 129])
@pytest.mark.parametrize("kind", range(len(TRANSFORMS)))
def test_every_transform_is_undone_to_about_a_step(kind, n):
    x = np.cumsum(noise(n, 3), 0) * 20
    t = TRANSFORMS[kind]
    assert sum(t.bands(n)) == n
    error = np.abs(t.inverse(t.forward(x)) - x)
    assert np.sqrt(np.mean(error**2)) < 0.5


def test_smooth_columns_are_transformed_and_rough_ones_are_not():
    x = np.linspace(0, 1, 200)[:, None]
    columns = np.concatenate([1000 * np.sin(5 * x), noise(200, 1) * 1000], 1)
    coded, bits = encode_columns(columns), price_columns(columns)
    assert coded.kinds[0] != 0 and coded.kinds[1] == 0
    assert bits[0] < bits[1] / 5
    assert np.abs(decode_columns(coded.q, coded.kinds)[:, 1] - 1000 * noise(200, 1)[:, 0]).max() <= 0.5


@pytest.mark.parametrize("basis", range(len(BASES)))
def test_every_basis_of_a_remainder_is_undone_with_the_error_of_rounding(basis):
    x = noise(33, 47) * 30
    error = BASES[basis].restore(BASES[basis].integers(x)) - x
    assert np.mean(error**2) == pytest.approx(1 / 12, rel=0.1)
    if BASES[basis].keeps_entries:
        assert np.abs(error).max() <= 0.5


@pytest.mark.parametrize("basis", range(len(BASES)))
@pytest.mark.parametrize("spread", [0, 3])
def test_a_leaf_in_every_basis_and_under_scales_of_its_own_is_read_as_it_was_written(basis, spread):
    w = torch.from_numpy(noise(48, 64) * np.exp(spread * noise(48, 1))).float()
    request = Request(w, 1e-2, "fro", "default", reference(w, "fro"))
    coded = tune(request, Candidate(Leaf(remainder=True, basis=basis)), first_step(request))
    assert coded is not None and 0.9e-2 < measure_error(w, coded.to_dense())[0] <= 1e-2
    assert coded.body.leaves[0].parts[0].basis == basis


@pytest.mark.parametrize("basis", range(len(BASES)))
def test_the_transposed_basis_is_the_basis_of_the_transpose(basis):
    x = noise(20, 31) * 30
    np.testing.assert_allclose(BASES[TRANSPOSED[basis]].integers(x.T), BASES[basis].integers(x).T)


@pytest.mark.parametrize(
    "order", [NATURAL, morton_order(5, 8), Order(np.random.default_rng(0).permutation(40))], ids=str
)
def test_an_order_comes_back_and_is_undone(order):
    out = Writer()
    write_order(out, order)
    back = read_order(Reader(out.getvalue()), 40)
    x = noise(40, 3)
    np.testing.assert_array_equal(back.apply(x, 0), order.apply(x, 0))
    np.testing.assert_array_equal(order.restore(order.apply(x, 0), 0), x)


@pytest.mark.parametrize("order", [NATURAL, Order(np.random.default_rng(0).permutation(40))], ids=str)
@pytest.mark.parametrize("rows", [0, 1, 63, 64, 200])
def test_columns_are_put_back_in_place_a_few_rows_at_a_time(order, rows):
    x = np.random.default_rng(1).standard_normal((rows, 40)).astype(np.float32)
    changed = order.apply(x, 1).copy()
    assert order.restore_columns(changed) is changed
    assert np.array_equal(changed, x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_entries_of_16_bits_are_read_as_if_from_the_block(dtype):
    w = torch.from_numpy(noise(30, 40)).to(dtype)
    prepared = PreparedLeaf(w.float().numpy(), Leaf(0, True), None)
    places = np.arange(0, 1200, 7)
    expected = prepared.in_steps(0.01)[places]
    assert np.array_equal(replace(prepared, short=w).in_steps(0.01)[places], expected)
    assert np.array_equal(expected, prepared.block.reshape(-1)[places] / np.float32(0.01))


@pytest.mark.parametrize("shape", [(3, 5, 7), (2, 1, 4), (2, 4, 1), (0, 3, 3)])
def test_differences_start_with_the_first_entry(shape):
    x = np.random.default_rng(2).integers(-9, 9, shape)
    for basis in BASES:
        if basis.difference:
            expected = x
            for axis in basis.axes:
                expected = np.diff(expected, axis=axis, prepend=0)
            assert np.array_equal(basis.spread(x), expected)


@pytest.mark.parametrize("s", [0.1, 0.3, 1.0, 10.0, 300.0])
def test_price_of_a_gaussian_is_its_entropy_after_rounding(s):
    q = np.rint(noise(1000, 400) * s)
    counts = np.unique(q, return_counts=True)[1]
    assert price.bits(np.array(s)) == pytest.approx(
        np.sum(counts * np.log2(q.size / counts)) / q.size, rel=0.05, abs=1e-3
    )


def test_a_price_is_never_more_than_leaving_an_entry_out():
    s = np.geomspace(1e-3, 1e6, 200)
    assert (price.cost(s) <= price.SLOPE * s**2 * (1 + 1e-9)).all() and (np.diff(price.cost(s)) >= -1e-6).all()


def test_scales_by_row_and_column_are_found_where_there_are_some():
    rows, columns = np.logspace(0, 3, 80), np.logspace(2, 0, 70)
    scales = fit_scales(noise(80, 70) * rows[:, None] * columns)
    assert scales.rows is not None and scales.columns is not None
    expected = np.rint(4 * np.log2(rows[:, None] * columns)).reshape(-1)
    assert np.abs(scales.classes((80, 70)) - expected).mean() < 1


def test_scales_are_chosen_by_all_of_a_spectrum():
    """Cosine coefficients of an even function vanish at every second place."""
    decay = 1e3 * 0.97 ** np.arange(256)
    decay[::2] = 0.01
    scales = fit_scales(noise(256, 256) * np.sqrt(decay[:, None] * decay))
    assert scales.rows is not None and scales.columns is not None


def test_scales_of_many_blocks_are_those_of_each():
    blocks = [noise(m, 40, seed) * np.exp2(noise(m, 1, seed + 50)) for seed, m in enumerate([30, 30, 8, 64, 30, 2])]
    blocks[1][::3] = 0
    for single, scales in zip(map(fit_scales, blocks), fit_scales_of(blocks), strict=True):
        assert (single.classes((1, 1)) if single.rows is None else single.rows).tolist() == (
            scales.classes((1, 1)) if scales.rows is None else scales.rows
        ).tolist()
        assert single.block == scales.block and (single.columns is None) == (scales.columns is None)


def test_one_scale_does_for_noise():
    scales = fit_scales(noise(100, 100) * 40)
    assert scales == Scales(21)


@pytest.mark.parametrize("shape", [(40, 30), (30, 40), (400, 300), (16, 16)])
def test_leading_triplets_are_those_of_the_singular_value_decomposition(shape):
    a = noise(shape[0], 5) @ noise(5, shape[1], 1) * 10 + 0.01 * noise(*shape, 2)
    s = spectra(a[None])
    expected = np.linalg.svd(a, compute_uv=False)
    np.testing.assert_allclose(s.values[0, :5], expected[:5], rtol=1e-4)
    rest = a - (s.left[0, :, :5] * s.values[0, :5]) @ s.right[0, :, :5].T
    assert np.linalg.norm(rest) < 1.01 * np.linalg.norm(expected[5:])
