"""Claims about running what is stored by prediction from coarser grids: the same matrix, and never expanded."""

import tracemalloc

import numpy as np
import pytest
import torch

from hmcompress.hmatrix import HMatrix, interpolated
from hmcompress.hmatrix.blocks import Block
from hmcompress.hmatrix.codecs import INTERPOLATED
from hmcompress.hmatrix.grid_prediction import SCHEMES
from hmcompress.hmatrix.interpolated import Interpolator
from hmcompress.nn.interpolation import interpolated_matrix
from hmcompress.nn.rebuild import read, running_forms


def green(m: int, n: int) -> np.ndarray:
    """min(x, y) (1 - max(x, y)) on m x n points."""
    x, y = (np.arange(m) + 0.5)[:, None] / m, (np.arange(n) + 0.5) / n
    return np.minimum(x, y) * (1 - np.maximum(x, y))


@pytest.mark.parametrize("shape", [(200, 200), (130, 67), (64, 301)])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("finer", [0, 1])
def test_products_and_blocks_are_those_of_the_decoded_matrix(shape, scheme, finer, monkeypatch):
    monkeypatch.setattr("hmcompress.nn.interpolation._MOST", 1.0)
    data = Interpolator(green(*shape), torch.float64, scheme, finer).encode(2.0**-9)
    expanded = interpolated.decode(data, shape, torch.float64).to_dense().numpy()
    matrix = interpolated_matrix(data, shape, shape[1])
    assert matrix is not None and np.abs(expanded).max() > 0.1
    x, z = np.random.default_rng(0).standard_normal((shape[1], 3)), np.random.default_rng(1).standard_normal((50, 2))
    np.testing.assert_allclose(matrix.times(matrix.whole(), x), expanded @ x, atol=1e-12)
    part = Block(7, 57, 20, 60)
    np.testing.assert_allclose(matrix.dense(part), expanded[7:57, 20:60], atol=1e-12)
    np.testing.assert_allclose(matrix.transposed_times(part, z), expanded[7:57, 20:60].T @ z, atol=1e-12)
    np.testing.assert_allclose(matrix.energy(matrix.whole()), np.square(expanded).sum())


def test_the_last_column_is_the_bias_where_there_is_one():
    data = Interpolator(green(128, 129), torch.float64, SCHEMES[0], 1).encode(2.0**-9)
    expanded = interpolated.decode(data, (128, 129), torch.float64).to_dense()
    stored = read(bytes([INTERPOLATED]) + data, (128, 129), torch.float64, True)
    assert stored is not None and stored.bias is not None and stored.matrix.shape == (128, 128)
    torch.testing.assert_close(stored.bias, expanded[:, -1])
    np.testing.assert_allclose(stored.matrix.dense(stored.matrix.whole()), expanded[:, :-1].numpy(), atol=1e-12)


def test_a_matrix_with_many_corrections_is_held_by_its_entries():
    noise = np.random.default_rng(0).standard_normal((128, 128))
    data = Interpolator(noise, torch.float64, SCHEMES[0], 0).encode(2.0**-4)
    assert interpolated_matrix(data, (128, 128), 128) is None
    assert read(bytes([INTERPOLATED]) + data, (128, 128), torch.float64, False) is not None


def test_a_form_is_found_in_less_memory_than_the_dense_matrix_takes(monkeypatch):
    monkeypatch.setattr(HMatrix, "from_payload", lambda *_: pytest.fail("expanded"))
    n = 2048
    data = Interpolator(green(n, n), torch.float32, SCHEMES[0], 1).encode(2.0**-9)
    tracemalloc.start()
    stored = read(bytes([INTERPOLATED]) + data, (n, n), torch.float32, False)
    assert stored is not None
    forms = running_forms(stored, 5e-3, torch.float32)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert forms and peak < 4 * n * n
