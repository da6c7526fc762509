"""Claims about rows and columns that are like others: found wherever they stand, and coded as differences."""

import numpy as np
import pytest
import torch
from hmatrix_matrices import noise

from hmcompress.hmatrix import candidates, compress_matrix
from hmcompress.hmatrix import likeness as module
from hmcompress.hmatrix.likeness import like_lines
from hmcompress.hmatrix.screen import find_structure
from hmcompress.hmatrix.tree.order import NATURAL

STEP = 1e-3


def collapsed(m=160, n=96, kinds=5, spread=1e-2, seed=0):
    """Rows of a few kinds in no order, each a little off its kind, as neurons are that collapsed."""
    rng = np.random.default_rng(seed)
    own = rng.standard_normal((kinds, n))
    return own[rng.integers(0, kinds, m)] + spread * rng.standard_normal((m, n))


def likeness(x, step=STEP):
    return module.likeness(x, np.square(x), step)


def without(monkeypatch, w, tol, **how):
    """Bytes where no order for like lines is tried."""
    monkeypatch.setattr(candidates, "like_lines", lambda *_: [])
    return compress_matrix(w, tol, **how).nbytes


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("tol", [1e-2, 1e-4])
def test_what_collapsed_is_coded_in_an_order_that_brings_it_together(turned, tol, monkeypatch):
    """Of many kinds there are as many directions: neither these nor neighbours as stored tell what rows repeat."""
    x = collapsed(200, 96, 60)
    w = torch.from_numpy(x.T.copy() if turned else x).float()
    found = compress_matrix(w, tol)
    assert found.error <= tol
    assert found.nbytes < 0.8 * without(monkeypatch, w, tol)


@pytest.mark.parametrize("norm", ["fro", "max", "spectral"])
def test_collapsed_rows_cost_less_in_every_norm(norm, monkeypatch):
    w = torch.from_numpy(collapsed(200, 40, 30)).float()
    found = compress_matrix(w, 1e-3, norm)
    assert found.error <= 1e-3
    assert found.nbytes < 0.7 * without(monkeypatch, w, 1e-3, norm=norm)


def test_rows_of_a_kind_follow_each_other():
    kinds = np.arange(5).repeat(20)[np.random.default_rng(1).permutation(100)]
    x = np.random.default_rng(0).standard_normal((5, 40))[kinds] + 1e-2 * noise(100, 40)
    rows, columns = like_lines(x, STEP)[0]
    assert columns is NATURAL
    assert np.count_nonzero(np.diff(kinds[rows.permutation])) == 4


def test_noise_is_like_nothing():
    for shape in ((300, 40), (64, 64), (40, 300)):
        x = noise(*shape) * np.exp(noise(shape[0], 1, 1)) * np.exp(noise(1, shape[1], 2))
        assert likeness(x) < 0.1 and like_lines(x, STEP) == []


def test_what_all_rows_share_is_no_likeness():
    assert likeness(noise(200, 60) + 5 * noise(1, 60, 1)) < 0.1


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_likeness_minds_no_magnitude(size):
    x = collapsed().astype(np.float32)
    assert find_structure(x, STEP).alike > 0.1
    assert find_structure(x * np.float32(size), STEP * size).alike == pytest.approx(
        find_structure(x, STEP).alike, rel=1e-3
    )
    assert len(like_lines(x * np.float32(size), STEP * size)) == len(like_lines(x, STEP)) > 0


def test_more_distances_than_a_matrix_has_entries_are_not_computed():
    assert like_lines(np.tile(np.arange(2.0), (3000, 1)), STEP) == []
    assert like_lines(np.zeros((2, 2)), STEP) == []
