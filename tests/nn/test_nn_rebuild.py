"""Claims about the form that runs: built from stored leaves, with its true error, and nothing is expanded."""

import numpy as np
import pytest
import torch
from nn_cases import kernel, relative, stored

from hmcompress.hmatrix import HMatrix
from hmcompress.hmatrix.basis import BASES
from hmcompress.hmatrix.blocks import Block
from hmcompress.hmatrix.bodies import QuantizedBody
from hmcompress.hmatrix.order import Natural, Permuted
from hmcompress.hmatrix.parts import LowRank, Remainder
from hmcompress.hmatrix.tree import PlacedLeaf, TreeBody
from hmcompress.nn.blocks import Gathered, TreeMatrix
from hmcompress.nn.factors import factor
from hmcompress.nn.linear import HLinear
from hmcompress.nn.rebuild import Ordered, from_dense, hierarchical, low_rank, ordered, running_forms

WHOLE = Block(0, 60, 0, 50)
PARTS = Block(7, 41, 3, 29)


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
    return TreeBody((60, 50), 0.5, leaves, Natural(), Natural(), True)


@pytest.mark.parametrize("small", [2**18, 0], ids=["expanded", "through-basis"])
@pytest.mark.parametrize("basis", range(len(BASES)))
def test_blocks_of_leaves_are_blocks_of_the_matrix(basis, small, monkeypatch):
    monkeypatch.setattr("hmcompress.nn.leaves._SMALL", small)
    body = mixed_body(basis)
    dense, matrix = body.to_dense().numpy(), TreeMatrix(body)
    for block in (WHOLE, PARTS):
        part = block.of(dense)
        x, y = np.random.default_rng(0).standard_normal((block.shape[1], 4)), np.ones((block.shape[0], 2))
        np.testing.assert_allclose(matrix.times(block, x), part @ x, atol=1e-9)
        np.testing.assert_allclose(matrix.transposed_times(block, y), part.T @ y, atol=1e-9)
        np.testing.assert_allclose(matrix.dense(block), part, atol=1e-9)
        assert matrix.energy(block) == pytest.approx(np.square(part).sum())
    assert matrix.energies(30, 10).sum() == pytest.approx(np.square(dense).sum())


@pytest.mark.parametrize("budget", [1e-3, 1e-6])
def test_factors_miss_what_they_say(budget):
    w = kernel().double().numpy()
    matrix, block = from_dense(torch.from_numpy(w)).matrix, Block(0, 256, 256, 512)
    found = factor(matrix, block, budget, 100)
    approximation = (found.left * found.values) @ found.right.T
    assert np.square(block.of(w) - approximation).sum() == pytest.approx(found.missed, rel=1e-4, abs=1e-9)
    assert found.missed <= budget


def test_factors_give_up_on_noise():
    noise = from_dense(torch.randn(400, 400)).matrix
    assert factor(noise, Block(0, 400, 0, 400), 1.0, 50) is None


@pytest.mark.parametrize("tol", [1e-2, 1e-4, 1e-5])
def test_measured_error_is_the_true_one_and_uses_the_tolerance(tol):
    matrix = stored(kernel())
    dense = matrix.to_dense()
    for form in hierarchical(ordered(matrix), tol, torch.float64):
        assert form.error <= tol
        assert relative(form.module.weight, dense) == pytest.approx(form.error, rel=1e-2, abs=1e-7)
    assert form.error > 0.3 * tol


def test_truncation_takes_out_the_noise_of_quantisation():
    """The running form of a stored kernel is about as close to the original as the stored one, not 1.5 times as far."""
    w = kernel(1024)
    matrix = stored(w, 1e-4)
    form = hierarchical(ordered(matrix), 5e-5, torch.float32)[0]
    assert relative(form.module.weight, w) < 1.1e-4


def test_the_matrix_is_never_expanded(monkeypatch):
    matrix = stored(kernel(1024))

    def refuse(*args):
        raise AssertionError("expanded")

    monkeypatch.setattr(HMatrix, "to_dense", refuse)
    monkeypatch.setattr(TreeBody, "to_dense", refuse)
    blocks = []
    monkeypatch.setattr(TreeMatrix, "dense", lambda self, b, keep=TreeMatrix.dense: blocks.append(b) or keep(self, b))
    assert running_forms(ordered(matrix), 1e-4, torch.float32)
    assert max(np.prod(block.shape) for block in blocks) <= 128**2


def test_shuffled_rows_and_columns_are_followed():
    w = kernel(256)
    body = stored(w).body
    rows, columns = (np.random.default_rng(s).permutation(256) for s in (1, 2))
    shuffled = TreeBody(body.shape, body.step, body.leaves, Permuted(rows), Permuted(columns), body.wide)
    matrix = ordered(_with(shuffled))
    expected = shuffled.to_dense()
    assert relative(hierarchical(matrix, 1e-5, torch.float32)[0].module.weight, expected) < 2e-5


def test_rows_and_columns_that_are_the_same_points_run_in_one_order():
    """Stored with orders that differ by more than halves, as an encoder finds them; one order needs smaller ranks."""
    w, rows = kernel(256), np.random.default_rng(1).permutation(256)
    expected = torch.empty_like(w)
    expected[rows[:, None], rows] = w
    shifted = from_dense(w.roll(40, 1)).matrix
    moved = Ordered(shifted, torch.from_numpy(rows), torch.from_numpy(np.roll(rows, 40)))
    form = hierarchical(moved, 1e-4, torch.float32)[0]
    assert form.error <= 1e-4 and relative(form.module.weight, expected) == pytest.approx(form.error, rel=0.1)
    assert not hierarchical(Ordered(shifted), 1e-4, torch.float32)


@pytest.mark.parametrize("block", [Block(0, 64, 64, 128), Block(0, 256, 0, 256), Block(128, 160, 0, 32)])
def test_gathered_columns_are_those_of_the_matrix(block):
    w, take = kernel(256).double(), np.random.default_rng(0).permutation(256)
    matrix, expected = Gathered(from_dense(w).matrix, take, (32, 32)), block.of(w.numpy()[:, take])
    x, y = torch.randn(block.shape[1], 3).double().numpy(), torch.randn(block.shape[0], 3).double().numpy()
    np.testing.assert_allclose(matrix.times(block, x), expected @ x, atol=1e-9)
    np.testing.assert_allclose(matrix.transposed_times(block, y), expected.T @ y, atol=1e-9)
    np.testing.assert_allclose(matrix.dense(block), expected)
    assert matrix.energy(block) == pytest.approx(np.square(expected).sum())


def test_a_pair_of_factors_follows_the_orders_too():
    w, rows, columns = torch.randn(90, 4) @ torch.randn(4, 70), torch.randperm(90), torch.randperm(70)
    moved = Ordered(from_dense(w[rows][:, columns]).matrix, rows, columns)
    assert relative(low_rank(moved, 1e-4, torch.float32, 20).module.weight, w) < 1e-4


def test_columns_ordered_the_other_way_round_are_paired():
    """Rows and columns get their orders apart: halves of the columns may lie opposite their rows."""
    w = kernel(512)
    swapped = torch.cat([w[:, 256:384], w[:, 384:], w[:, 128:256], w[:, :128]], 1)
    form = hierarchical(from_dense(swapped), 1e-4, torch.float32)[0]
    assert relative(form.module.weight, swapped) < 1.1e-4
    assert sum(form.module.ranks) <= sum(hierarchical(from_dense(w), 1e-4, torch.float32)[0].module.ranks)


def test_a_bias_in_the_last_column_becomes_the_bias():
    w, bias = kernel(256), torch.randn(256)
    matrix = stored(torch.cat([w, bias[:, None]], 1), 1e-5)
    found = ordered(matrix, has_bias=True)
    if found is None:  # its columns are in another order
        pytest.skip("the codec ordered the columns")
    form = hierarchical(found, 1e-4, torch.float32)[0]
    assert relative(form.module.weight, w) < 2e-4
    assert relative(form.module.bias, bias) < 1e-2


@pytest.mark.parametrize("has_bias", [False, True])
def test_a_matrix_that_is_stored_without_leaves_has_forms_too(has_bias):
    w = torch.cat([kernel(256), torch.randn(256, 1)], 1) if has_bias else kernel(256)
    matrix = HMatrix((256, w.shape[1]), torch.float32, b"")
    matrix.__dict__["body"] = QuantizedBody(w)
    found = ordered(matrix, has_bias)
    form = hierarchical(found, 1e-4, torch.float32)[0]
    assert relative(form.module.weight, w[:, :256]) < 1.1e-4
    assert not has_bias or relative(form.module.bias, w[:, -1]) < 1e-6


def test_noise_has_no_form_that_runs_faster():
    assert running_forms(from_dense(torch.randn(256, 256)), 1e-2, torch.float32) == []


def test_a_matrix_of_low_rank_comes_as_a_pair():
    w = torch.randn(300, 5) @ torch.randn(5, 400)
    pair = low_rank(from_dense(w), 1e-4, torch.float32, 50)
    assert pair.module.rank == 5 and relative(pair.module.weight, w) < 1e-4


def test_a_pair_is_found_though_noise_is_not_of_low_rank():
    """The sketch that tells noise below the tolerance from factors is far wider than these."""
    x = torch.arange(1, 257) / 257
    w = torch.minimum(x[:, None], x) * (1 - torch.maximum(x[:, None], x))
    noise = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    pair = low_rank(from_dense(w / w.norm() * 256 + 8e-3 * noise), 1e-2, torch.float32, 60)
    assert pair is not None and pair.module.rank < 25 and pair.error <= 1e-2


def test_few_levels_are_tried_where_all_forms_are_small():
    """For one vector each level costs more than its numbers."""
    w = torch.arange(1024)[:, None].minimum(torch.arange(1024)).float()
    forms = [form.module for form in hierarchical(from_dense(w), 1e-3, torch.float32)]
    assert [len(module.ranks) for module in forms] == [5, 4, 3]


def test_a_zero_matrix_has_no_form():
    assert running_forms(from_dense(torch.zeros(128, 128)), 1e-2, torch.float32) == []


def test_an_hlinear_has_as_many_numbers_as_its_ranks_say():
    form = hierarchical(from_dense(kernel(512)), 1e-4, torch.float32)[0]
    h = form.module
    assert isinstance(h, HLinear)
    assert sum(p.numel() for p in h.parameters()) == 2 * 512 * sum(h.ranks) + 512 * h.leaves().shape[1]


def _with(body: TreeBody) -> HMatrix:
    matrix = HMatrix(body.shape, torch.float32, b"")
    matrix.__dict__["body"] = body
    return matrix
