"""Claims about running what is stored by prediction from coarser grids: the same matrix, and never expanded."""

import tracemalloc

import numpy as np
import pytest
import torch

from hmcompress.hmatrix import HMatrix
from hmcompress.hmatrix.codecs import INTERPOLATED
from hmcompress.hmatrix.patterns import interpolated
from hmcompress.hmatrix.patterns.grid_prediction import SCHEMES
from hmcompress.hmatrix.patterns.interpolated import Interpolator
from hmcompress.nn.rebuild import read, running_forms


def green(m: int, n: int) -> np.ndarray:
    """min(x, y) (1 - max(x, y)) on m x n points."""
    x, y = (np.arange(m) + 0.5)[:, None] / m, (np.arange(n) + 0.5) / n
    return np.minimum(x, y) * (1 - np.maximum(x, y))


@pytest.mark.parametrize("has_bias", [False, True])
def test_the_form_is_that_of_the_decoded_matrix(has_bias):
    shape = (128, 128 + has_bias)
    data = Interpolator(green(*shape), torch.float64, SCHEMES[0], 1).encode(2.0**-9)
    expanded = interpolated.decode(data, shape, torch.float64).to_dense()
    stored = read(bytes([INTERPOLATED]) + data, shape, torch.float64, has_bias)
    assert stored is not None and stored.matrix.shape == (128, 128)
    torch.testing.assert_close(torch.from_numpy(stored.matrix.rows(3, 128)), expanded[3:, :128], rtol=0, atol=0)
    assert stored.bias is None if not has_bias else torch.equal(stored.bias, expanded[:, -1])


def test_a_form_is_found_in_less_memory_than_the_dense_matrix_takes(monkeypatch):
    monkeypatch.setattr(HMatrix, "from_payload", lambda *_: pytest.fail("expanded"))
    n = 3072
    data = Interpolator(green(n, n), torch.float32, SCHEMES[0], 1).encode(2.0**-9)
    tracemalloc.start()
    stored = read(bytes([INTERPOLATED]) + data, (n, n), torch.float32, False)
    assert stored is not None
    forms = running_forms(stored, 5e-3, torch.float32)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert forms and peak < 0.75 * 4 * n * n
