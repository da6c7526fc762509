"""Claims about products: `@` on either side takes what a dense matrix takes, and gives the same shapes and dtypes."""

import math
import warnings

import numpy as np
import pytest
import torch
from hmatrix_matrices import compressed, matrix, noise

from hmcompress.errors import SettingsError
from hmcompress.hmatrix import compress_matrix

H = compressed("toeplitz")
M, N = H.shape
DENSE = H.to_dense().double()
CLOSE = {"rtol": 1e-5, "atol": 1e-5}  # leaves multiply before they are rounded to float32
SHAPES = [(N,), (N, 1), (N, 5), (N, 0), (2, N, 3), (4, 2, N, 3), (N, N, 2), (0, N, 3)]


def tensor(shape, dtype=torch.float64):
    return torch.from_numpy(noise(math.prod(shape), 1)).reshape(shape).to(dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_product_is_shaped_as_that_of_the_dense_matrix(shape):
    x = tensor(shape)
    torch.testing.assert_close(H @ x, DENSE @ x, **CLOSE)


@pytest.mark.parametrize("shape", [(M,), (1, M), (5, M), (0, M), (2, 3, M)], ids=str)
def test_a_product_from_the_left_is_shaped_as_that_of_the_dense_matrix(shape):
    x = tensor(shape)
    torch.testing.assert_close(x @ H, x @ DENSE, **CLOSE)
    result = x.numpy() @ H
    assert isinstance(result, np.ndarray)
    np.testing.assert_allclose(result, x.numpy() @ DENSE.numpy(), **CLOSE)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0)], ids=str)
def test_matrices_without_entries_multiply(shape):
    h = compress_matrix(torch.zeros(shape), 1e-2)
    for x in (torch.ones(shape[1]), torch.ones(shape[1], 3), torch.ones(2, shape[1], 3)):
        assert torch.equal(h @ x, torch.zeros(shape) @ x)
        assert torch.equal(h.T.T @ x, torch.zeros(shape) @ x)
    assert torch.equal(h.T @ torch.ones(shape[0], 2), torch.zeros(shape).T @ torch.ones(shape[0], 2))


def test_an_array_gives_an_array_of_its_dtype_however_it_lies():
    x = noise(2 * N, 3)[::-2]
    big, locked = x.astype(">f4"), x.astype(np.float32)
    locked.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for given in (x, np.asfortranarray(x), big, locked):
            result = H @ given
            assert isinstance(result, np.ndarray) and result.dtype == given.dtype.newbyteorder("=")
            np.testing.assert_allclose(result, DENSE.numpy() @ x, **CLOSE)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool], ids=str)
def test_numbers_without_fractions_give_those_of_the_matrix(dtype):
    x = torch.ones(N, dtype=dtype)
    assert (H @ x).dtype == H.dtype
    torch.testing.assert_close((H @ x).double(), DENSE @ x.double(), **CLOSE)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
def test_complex_numbers_keep_both_parts(dtype):
    x = torch.complex(tensor((N, 2)), tensor((N, 2)).flip(0)).to(dtype)
    assert (H @ x).dtype == dtype
    torch.testing.assert_close(
        (H @ x).to(torch.complex128), DENSE.to(torch.complex128) @ x.to(torch.complex128), **CLOSE
    )


def test_gradients_flow_to_what_is_multiplied():
    x = torch.nn.Parameter(tensor((N, 2)))
    (H @ x).sum().backward()
    torch.testing.assert_close(x.grad, (DENSE.T @ torch.ones(M, 2, dtype=torch.float64)))
    with torch.no_grad():
        assert not (H @ x).requires_grad


@pytest.mark.parametrize("x", [torch.ones(N + 1), torch.ones(N + 1, 2), torch.ones(N, 2, 3), torch.tensor(1.0)])
def test_what_does_not_fit_is_a_value_error(x):
    with pytest.raises(ValueError, match=f"cannot multiply .*: {N} rows expected"):
        H @ x


@pytest.mark.parametrize("x", [2.0, "x", None, H])
def test_what_is_no_tensor_is_a_type_error(x):
    with pytest.raises(TypeError):
        H @ x


def test_arrays_are_compressed_however_they_lie():
    w = matrix("noise").numpy()
    expected = compress_matrix(w, 1e-2).payload
    locked = w.copy()
    locked.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for given in (w[::-1].copy()[::-1], np.asfortranarray(w), w.astype(w.dtype.newbyteorder(">")), locked):
            assert compress_matrix(given, 1e-2).payload == expected


@pytest.mark.parametrize("w", [torch.eye(20).to_sparse(), torch.empty(20, 20, device="meta")], ids=["sparse", "meta"])
def test_tensors_without_dense_values_are_refused(w):
    with pytest.raises(SettingsError, match=r"compress_matrix takes a matrix .* got \(20, 20\) of torch.float32, "):
        compress_matrix(w, 1e-2)


@pytest.mark.parametrize("tol", ["1e-3", None])
def test_a_tolerance_that_is_no_number_is_refused(tol):
    with pytest.raises(SettingsError, match=r"tol is .*: it must lie between 0 and 1"):
        compress_matrix(matrix("noise"), tol)
