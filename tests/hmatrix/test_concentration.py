"""Claims about lines that are few cosines: transforms and windowed kernels are found, noise is no such line."""

import numpy as np
import pytest
import torch
from scipy.fft import dct

from hmcompress.hmatrix import compress_matrix
from hmcompress.hmatrix.concentration import concentration


def cosines(n: int) -> np.ndarray:
    return dct(np.eye(n), axis=0, norm="ortho")


def fourier_kernels(n: int = 256) -> np.ndarray:
    """Real and imaginary parts of a windowed Fourier transform (2 k, n)."""
    angle = 2 * np.pi * np.outer(np.arange(n // 2 + 1), np.arange(n)) / n
    return np.hanning(n) * np.concatenate([np.cos(angle), np.sin(angle)])


@pytest.mark.parametrize("n", [64, 128, 200, 256])
@pytest.mark.parametrize("tol", [1e-2, 1e-4])
def test_a_cosine_transform_takes_a_few_bytes_either_way_up(n, tol):
    for a in (cosines(n), cosines(n).T):
        h = compress_matrix(torch.from_numpy(a.astype(np.float32)), tol)
        assert h.error <= tol and h.nbytes < 100


@pytest.mark.parametrize(("tol", "bits"), [(1e-2, 0.2), (1e-4, 1.5)])
def test_windowed_fourier_kernels_take_a_fraction_of_a_bit(tol, bits):
    a = torch.from_numpy(fourier_kernels()).float()
    h = compress_matrix(a, tol)
    assert 0.9 * tol < h.error <= tol and 8 * h.nbytes < bits * a.numel()


@pytest.mark.parametrize("n", [16, 64, 512])
def test_noise_needs_all_cosines(n):
    random = np.random.default_rng(0)
    for a in (random.standard_normal((8, n)), random.standard_t(3, (8, n)), 5 + random.standard_normal((8, n))):
        assert concentration(a) == 0


@pytest.mark.parametrize("a", [np.zeros((4, 40)), np.ones((4, 40)), np.ones((1, 3)), np.full((4, 40), 1e150)])
def test_degenerate_lines_are_no_waves(a):
    assert 0 <= concentration(a) <= 1
