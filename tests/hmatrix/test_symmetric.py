"""Claims about matrices that are symmetric up to noise: half of them is enough, and the bound is that of the whole."""

import numpy as np
import pytest
import torch
from hmatrix_matrices import matrix

from hmcompress.hmatrix import compress_matrix
from hmcompress.hmatrix.basics.measure import reference
from hmcompress.hmatrix.codecs import COPIED
from hmcompress.hmatrix.request import Request
from hmcompress.hmatrix.tune_symmetric import tune_symmetric

N = 192
NOISE = np.random.default_rng(0).standard_normal((2, N, N))
DISTANCE = np.abs(np.subtract.outer(np.arange(N), np.arange(N)))


def nearly(w: np.ndarray, noise: float) -> torch.Tensor:
    """w and noise of a relative size."""
    return torch.from_numpy(w + noise * np.linalg.norm(w) / N * NOISE[1]).float()


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("noise", [1e-5, 1e-3, 6e-3])
def test_half_of_a_nearly_symmetric_matrix_is_stored(sign: int, noise: float):
    whole = compress_matrix(nearly(NOISE[0], 0), 1e-2)
    half = compress_matrix(nearly(NOISE[0] + sign * NOISE[0].T, noise), 1e-2)
    assert half.payload[0] == COPIED
    assert 0.97e-2 < half.error <= 1e-2
    assert half.nbytes < 0.55 * whole.nbytes
    assert torch.equal(half.to_dense(), sign * half.to_dense().T)


def test_a_noisy_kernel_takes_less_than_one_that_is_not_symmetric():
    kernel = 1 / (1 + DISTANCE) ** 0.5
    points = np.random.default_rng(1).permutation(N)
    alike = compress_matrix(nearly(kernel[np.ix_(points, points)], 2e-3), 1e-2)
    apart = compress_matrix(nearly(kernel[np.ix_(points, points[::-1])], 2e-3), 1e-2)
    assert alike.nbytes < 0.9 * apart.nbytes
    assert alike.error <= 1e-2


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_the_bound_holds_in_every_dtype(dtype: torch.dtype):
    w = nearly(NOISE[0] + NOISE[0].T, 1e-3).to(dtype)
    coded = compress_matrix(w, 1e-2)
    off = (coded.to_dense().double() - w.double()).norm() / w.double().norm()
    assert float(off) == pytest.approx(coded.error, rel=1e-6) and coded.error <= 1e-2
    assert coded.payload[0] == COPIED


@pytest.mark.parametrize("name", ["noise", "symmetric", "toeplitz", "tall", "zero"])
def test_what_is_exactly_or_not_at_all_symmetric_is_searched_once(name: str):
    w = torch.zeros(64, 64) if name == "zero" else matrix(name)
    request = Request(w, 1e-2, "fro", "default", reference(w, "fro"))
    assert tune_symmetric(request, lambda inner: pytest.fail("searched")) is None


@pytest.mark.parametrize("noise", [0.02, 0.2])
def test_noise_that_the_tolerance_does_not_hide_stays(noise: float):
    coded = compress_matrix(nearly(NOISE[0] + NOISE[0].T, noise), 1e-2)
    assert coded.error <= 1e-2 and not torch.equal(coded.to_dense(), coded.to_dense().T)
