"""Claims about the form that runs: built from stored leaves, with its true error, and nothing is expanded."""

import numpy as np
import pytest
import torch
from nn_cases import held, hierarchy, kernel, relative, stored, tree

from hmcompress.hmatrix import HMatrix
from hmcompress.hmatrix.basics.bodies import QuantizedBody
from hmcompress.hmatrix.tree.basis import BASES
from hmcompress.hmatrix.tree.blocks import Block
from hmcompress.hmatrix.tree.order import NATURAL, Order
from hmcompress.hmatrix.tree.parts import LowRank, Remainder
from hmcompress.hmatrix.tree.tree import PlacedLeaf, TreeBody
from hmcompress.nn.linear import LowRankLinear
from hmcompress.nn.nested import nested
from hmcompress.nn.rebuild import Ordered, RunningForm, from_dense, ordered, running_forms
from hmcompress.nn.stripes import _Tree, dense_stripes, tree_stripes


def mixed_body(basis: int) -> TreeBody:
    """Four leaves: low-rank, quantised, hybrid and transposed hybrid."""
    random = np.random.default_rng(basis)

    def low(m: int, n: int) -> LowRank:
        return LowRank(random.standard_normal((m, 3)), random.standard_normal((n, 3)))

    def integers(m: int, n: int) -> Remainder:
        return Remainder(random.integers(-3, 4, (m, n)), basis)

    leaves = (
        PlacedLeaf(Block(0, 30, 0, 20), (low(30, 20),)),
        PlacedLeaf(Block(0, 30, 20, 50), (integers(30, 30),)),
        PlacedLeaf(Block(30, 60, 0, 20), (low(30, 20), integers(30, 20))),
        PlacedLeaf(Block(30, 60, 20, 50), (low(30, 30), integers(30, 30)), True),
    )
    return TreeBody((60, 50), 0.5, leaves, NATURAL, NATURAL, True)


@pytest.mark.parametrize("small", [2**18, 0], ids=["expanded", "through-basis"])
@pytest.mark.parametrize("few", [0.0, 1.0], ids=["dense", "sparse"])
@pytest.mark.parametrize("basis", range(len(BASES)))
def test_rows_of_leaves_are_rows_of_the_matrix(basis, small, few, monkeypatch):
    monkeypatch.setattr("hmcompress.nn.stripes._SMALL", small)
    monkeypatch.setattr("hmcompress.nn.stripes._SPARSE", few)
    body = mixed_body(basis)
    dense, matrix = body.to_dense().numpy(), tree_stripes(body, 47)
    assert matrix.shape == (60, 47)
    for begin, end in ((0, 60), (7, 41), (31, 33), (5, 5)):
        np.testing.assert_allclose(matrix.rows(begin, end), dense[begin:end, :47], atol=1e-9)


@pytest.mark.parametrize("shape", [(512, 512), (300, 700), (1000, 130)])
@pytest.mark.parametrize("tol", [1e-2, 1e-4, 1e-5])
def test_measured_error_is_the_true_one_and_uses_the_tolerance(tol, shape):
    x, y = (np.arange(side) / side for side in shape)
    dense = torch.from_numpy(1 / (abs(x[:, None] - y) + 1 / 512))
    form = hierarchy(from_dense(dense), tol, torch.float64)
    assert form.error <= tol
    assert relative(form.module.weight, dense) == pytest.approx(form.error, rel=1e-2, abs=1e-7)
    assert form.error > 0.3 * tol


def test_no_form_is_closer_than_rounding_allows():
    """Errors are differences of energies, whose rounding would count for more than they are."""
    assert running_forms(from_dense(kernel(256)), 1e-9, torch.float64) == []


def test_truncation_takes_out_the_noise_of_quantisation():
    """The running form of a stored kernel is about as close to the original as the stored one, not 1.5 times as far."""
    w = kernel(512)
    matrix = stored(w, 1e-4)
    form = hierarchy(ordered(matrix), 5e-5)
    assert form.error > 3e-5
    assert relative(form.module.weight, w) < 1.1e-4


def test_the_matrix_is_never_expanded(monkeypatch):
    body = tree(kernel(1024))

    def refuse(*args):
        raise AssertionError("expanded")

    monkeypatch.setattr(HMatrix, "to_dense", refuse)
    monkeypatch.setattr(TreeBody, "to_dense", refuse)
    stripes = []
    rows = lambda self, begin, end, keep=_Tree.rows: stripes.append(end - begin) or keep(self, begin, end)  # noqa: E731
    monkeypatch.setattr(_Tree, "rows", rows)
    assert running_forms(ordered(held(body, body.shape)), 1e-4, torch.float32)
    assert max(stripes) <= 128


def test_shuffled_rows_and_columns_are_followed():
    w = kernel(512)
    rows, columns = (np.random.default_rng(s).permutation(512) for s in (1, 2))
    body = tree(w, rows=Order(rows), columns=Order(columns))
    form = hierarchy(ordered(held(body, (512, 512))), 1e-5)
    shuffled = torch.empty_like(w)
    shuffled[rows[:, None], columns] = w
    assert relative(body.to_dense(), shuffled) < 1e-5
    assert relative(form.module.weight, body.to_dense()) < 2e-5


def test_rows_and_columns_that_are_the_same_points_run_in_one_order():
    """Stored with orders that differ by more than halves, as an encoder finds them; one order needs smaller ranks."""
    w, rows = kernel(256), np.random.default_rng(1).permutation(256)
    expected = torch.empty_like(w)
    expected[rows[:, None], rows] = w
    shifted = from_dense(w.roll(40, 1)).matrix
    moved = Ordered(shifted, torch.from_numpy(rows), torch.from_numpy(np.roll(rows, 40)))
    form = hierarchy(moved, 1e-4)
    assert form.error <= 1e-4 and relative(form.module.weight, expected) == pytest.approx(form.error, rel=0.1)
    assert not running_forms(Ordered(shifted), 1e-4, torch.float32)


def test_a_pair_of_factors_follows_the_orders_too():
    w, rows, columns = torch.randn(90, 4) @ torch.randn(4, 70), torch.randperm(90), torch.randperm(70)
    moved = Ordered(from_dense(w[rows][:, columns]).matrix, rows, columns)
    assert relative(pair(moved, 1e-4).module.weight, w) < 1e-4


def test_columns_ordered_the_other_way_round_are_paired():
    """Rows and columns get their orders apart: halves of the columns may lie opposite their rows."""
    w = kernel(512)
    swapped = torch.cat([w[:, 256:384], w[:, 384:], w[:, 128:256], w[:, :128]], 1)
    form = hierarchy(from_dense(swapped), 1e-4)
    assert relative(form.module.weight, swapped) < 1.1e-4
    assert form.numbers <= hierarchy(from_dense(w), 1e-4).numbers


def test_a_bias_in_the_last_column_becomes_the_bias():
    w, bias = kernel(256), torch.randn(256)
    body = tree(torch.cat([w, bias[:, None]], 1))
    form = hierarchy(ordered(held(body, body.shape), has_bias=True), 1e-4)
    assert relative(form.module.weight, w) < 2e-4
    assert relative(form.module.bias, bias) < 1e-2


@pytest.mark.parametrize("has_bias", [False, True])
def test_a_matrix_that_is_stored_without_leaves_has_forms_too(has_bias):
    w = torch.cat([kernel(256), torch.randn(256, 1)], 1) if has_bias else kernel(256)
    found = ordered(held(QuantizedBody(w), (256, w.shape[1])), has_bias)
    form = hierarchy(found, 1e-4)
    assert relative(form.module.weight, w[:, :256]) < 1.1e-4
    assert not has_bias or relative(form.module.bias, w[:, -1]) < 1e-6


def test_noise_has_no_form_that_runs_faster():
    assert running_forms(from_dense(torch.randn(256, 256)), 1e-2, torch.float32) == []


def test_a_matrix_of_low_rank_comes_as_a_pair():
    w = torch.randn(300, 5) @ torch.randn(5, 400)
    found = pair(from_dense(w), 1e-4)
    assert found.module.rank == 5 and relative(found.module.weight, w) < 1e-4


def test_factors_hold_no_denormal_numbers():
    """Columns that the matrix hardly has are next to nothing in its factors, and products with those are slow."""
    w = torch.randn(256, 4, dtype=torch.float64) @ torch.randn(4, 256, dtype=torch.float64)
    w[:, :64] *= torch.logspace(-45, -30, 64, dtype=torch.float64)
    forms = running_forms(from_dense(w), 1e-4, torch.float32)
    assert len(forms) == 2
    for values in (p for form in forms for p in form.module.parameters()):
        assert not ((values != 0) & (values.abs() < torch.finfo(torch.float32).tiny)).any()
    assert all(relative(form.module.weight, w) < 1.1e-4 for form in forms)


def test_a_pair_is_found_though_noise_is_not_of_low_rank():
    """Noise below the tolerance is in the bases of the ranges, and not in the factors."""
    x = torch.arange(1, 257) / 257
    w = torch.minimum(x[:, None], x) * (1 - torch.maximum(x[:, None], x))
    noise = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    found = pair(from_dense(w / w.norm() * 256 + 8e-3 * noise), 1e-2)
    assert found.module.rank < 25 and found.error <= 1e-2


def test_a_matrix_of_many_points_has_levels_of_levels():
    module = hierarchy(from_dense(kernel(2048)), 1e-4).module
    assert len(module.levels) > 1 and module.top.shape[0] < module.levels[0].groups * module.levels[0].inward


def test_a_zero_matrix_has_no_form():
    assert running_forms(from_dense(torch.zeros(128, 128)), 1e-2, torch.float32) == []


def pair(matrix: Ordered, tol: float) -> RunningForm:
    """A matrix as a pair of factors."""
    return next(form for form in running_forms(matrix, tol, torch.float32) if isinstance(form.module, LowRankLinear))


@pytest.mark.parametrize("shape", [(50, 9000), (9000, 50), (100, 2500)])
def test_lengthy_matrices_take_no_large_bases(shape, monkeypatch):
    """Of a 128 x 16384 layer the bases of ranges of columns took minutes and gigabytes."""
    sides, eigh = [], np.linalg.eigh
    monkeypatch.setattr(np.linalg, "eigh", lambda grams: sides.append(grams.shape[-1]) or eigh(grams))
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(shape[0], 3, generator=generator) @ torch.randn(3, shape[1], generator=generator)
    _, pair, energy = nested(dense_stripes(w), 1e-3)
    assert max(sides, default=0) <= 1024 and pair is not None
    assert energy == pytest.approx(float(w.double().square().sum()))
    missed = (w.double() - torch.from_numpy(pair.left @ pair.right.T)).square().sum()
    assert missed <= 1e-6 * energy
