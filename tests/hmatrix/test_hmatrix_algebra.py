"""Claims about a compressed matrix as a matrix: products, transposes, bytes, and the same bytes every time."""

import hashlib
import math
import subprocess
import sys

import pytest
import torch
from hmatrix_matrices import DTYPES, MATRICES, compressed, kernel, matrix, noise

from hmcompress.errors import FormatError
from hmcompress.hmatrix import HMatrix, compress_matrix
from hmcompress.work.parallel import in_order
from hmcompress.work.tasks import Task

# Relative to the sum of |entries| of a product: what rounding to_dense() to its dtype may make a product differ by.
UNIT = {torch.float64: 1e-12, torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
NAMES = ("noise", "tall", "one row", "rank 3", "toeplitz", "hankel", "repeated", "smooth head", "dead neurons")


def vectors(n: int, k: int = 3) -> torch.Tensor:
    return torch.from_numpy(noise(n, k, seed=n))


def assert_product(h: HMatrix, dense: torch.Tensor, x: torch.Tensor) -> None:
    bound = UNIT[h.dtype] * (dense.double().abs() @ x.double().abs()) + 1e-300
    assert ((h @ x).double() - dense.double() @ x.double()).abs().le(bound).all()


@pytest.mark.parametrize("effort", ["fast", "default"])
@pytest.mark.parametrize("name", NAMES)
def test_products_agree_with_the_dense_form(name, effort):
    h = compressed(name, effort=effort)
    dense = h.to_dense()
    assert_product(h, dense, vectors(h.shape[1]))
    assert_product(h.T, dense.T, vectors(h.shape[0]))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_products_agree_with_the_dense_form_in_every_dtype(dtype):
    h = compressed("toeplitz", dtype=dtype)
    assert_product(h, h.to_dense(), vectors(h.shape[1]))
    assert_product(h.T, h.to_dense().T, vectors(h.shape[0]))


@pytest.mark.parametrize("name", NAMES)
def test_the_transpose_is_the_transposed_dense_form_bit_for_bit(name):
    h = compressed(name)
    assert h.T.shape == h.shape[::-1] and h.T.T.shape == h.shape
    assert torch.equal(h.T.to_dense(), h.to_dense().T)
    assert torch.equal(h.T.T.to_dense(), h.to_dense())


def test_a_product_has_the_shape_and_dtype_of_what_it_is_given():
    h = compress_matrix(matrix("noise"), 1e-2)
    assert (h @ torch.ones(90)).shape == (70,)
    assert (h @ torch.ones(90, 4)).shape == (70, 4)
    assert (h.T @ torch.ones(70, 2, dtype=torch.float64)).dtype == torch.float64


def test_a_product_with_another_number_of_rows_is_a_value_error():
    with pytest.raises(ValueError, match="90 rows expected"):
        compress_matrix(matrix("noise"), 1e-2) @ torch.ones(70)


@pytest.mark.parametrize("name", MATRICES)
def test_a_payload_is_counted_to_the_byte_and_decodes_to_the_same_bits(name):
    h = compressed(name)
    assert h.nbytes == len(h.payload)
    back = HMatrix.from_payload(h.payload, h.shape, h.dtype)
    assert torch.equal(back.to_dense(), h.to_dense())
    assert (back.method, back.leaves, back.max_rank) == (h.method, h.leaves, h.max_rank)


def test_a_matrix_read_back_has_no_error_of_its_own():
    h = compressed("noise")
    assert math.isnan(HMatrix.from_payload(h.payload, h.shape, h.dtype).error)


@pytest.mark.parametrize("name", ["noise", "rank 3", "toeplitz", "smooth head", "single entry"])
def test_leaves_say_what_is_there(name):
    h = compressed(name)
    assert set(h.leaves) == {"zero", "low_rank", "quantized", "hybrid"}
    assert (h.max_rank > 0) == (h.leaves["low_rank"] + h.leaves["hybrid"] > 0)
    assert h.method == "lossless" or sum(h.leaves.values()) > 0


def test_structure_is_found_where_there_is_some():
    assert compressed("rank 3").max_rank == 3
    assert compressed("noise").max_rank == 0


def test_noncontiguous_arrays_and_parameters_are_taken_as_they_are():
    w = matrix("noise")
    expected = compress_matrix(w.T.contiguous(), 1e-3).payload
    assert compress_matrix(w.T, 1e-3).payload == expected
    assert compress_matrix(w.T.contiguous().numpy(), 1e-3).payload == expected
    assert compress_matrix(torch.nn.Parameter(w.T), 1e-3).payload == expected


def test_the_matrix_given_is_left_as_it_was():
    for name in ("noise", "toeplitz"):
        w = matrix(name)
        compress_matrix(w, 1e-2)
        assert torch.equal(w, matrix(name))


@pytest.mark.parametrize("effort", ["fast", "default", "max"])
@pytest.mark.parametrize("name", ["noise", "toeplitz", "smooth head"])
def test_the_same_matrix_makes_the_same_bytes(name, effort):
    assert compress_matrix(matrix(name), 1e-3, effort=effort).payload == compressed(name, effort=effort).payload


def test_the_random_state_of_torch_is_neither_used_nor_changed():
    torch.manual_seed(1)
    first, state = compress_matrix(matrix("dead neurons"), 1e-3).payload, torch.get_rng_state()
    torch.manual_seed(2)
    assert compress_matrix(matrix("dead neurons"), 1e-3).payload == first
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


def digest(jobs: int) -> str:
    """Of payloads made as every command makes them: one thread a matrix, `jobs` matrices at once."""
    matrices = matrix("noise"), matrix("dead neurons"), kernel("distance", 200)
    tasks = [Task(w.nbytes, lambda w=w: w, lambda w: compress_matrix(w, 1e-3).payload) for w in matrices]
    return hashlib.sha256(b"".join(in_order(tasks, jobs))).hexdigest()


def test_another_process_with_other_thread_counts_makes_the_same_bytes(request):
    folder, name = str(request.path.parent), request.path.stem
    program = f"import sys, torch; sys.path.insert(0, {folder!r}); torch.set_num_threads(4); import {name} as t"
    command = [sys.executable, "-c", f"{program}; print(t.digest(4))"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == digest(1)


@pytest.mark.parametrize("payload", [b"", b"\x63", b"\x63abc"])
def test_an_unknown_payload_is_a_format_error(payload):
    with pytest.raises(FormatError, match="damaged"):
        HMatrix.from_payload(payload, (4, 4), torch.float32)


@pytest.mark.parametrize("shape", [(69, 90), (90, 70), (70, 91), (0, 0), (1, 6300)])
def test_a_payload_of_another_shape_is_a_format_error(shape):
    h = compress_matrix(matrix("lstm gates"), 1e-3)
    with pytest.raises(FormatError, match="damaged"):
        HMatrix.from_payload(h.payload, shape, h.dtype).to_dense()


def test_a_matrix_is_shown_in_one_line():
    h = compress_matrix(torch.randn(64, 64, generator=torch.Generator().manual_seed(0)), 1e-2)
    assert "shape=(64, 64)" in repr(h) and len(repr(h)) < 200
