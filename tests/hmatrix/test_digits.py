"""A few entries are the digits of one number: nothing says how they are coded but a step and a range."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hmcompress.baselines import PEERS, Matrix, run_peer
from hmcompress.coding.buffer import Writer
from hmcompress.errors import FormatError
from hmcompress.hmatrix import HMatrix, compress_matrix
from hmcompress.hmatrix.basics.measure import measure_error
from hmcompress.hmatrix.codecs import DIGITS, decode_payload
from hmcompress.hmatrix.patterns import digits

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
INTEGERS = st.lists(st.integers(-(1 << 20), 1 << 20), min_size=1, max_size=60)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(INTEGERS, st.sampled_from([0.5, 0.1, 3e-5, 1e10]))
@settings(max_examples=60, deadline=None)
def test_integers_come_back(values: list[int], step: float) -> None:
    step = float(np.float32(step))
    q = np.array(values)[None]
    data = digits.encode(q, step)
    body = digits.decode(data, q.shape, torch.float64)
    assert torch.equal(body.to_dense(), torch.from_numpy(q * step))
    short = step == 0.5
    assert not q.any() or not short or len(data) == digits.nbytes(int(q.min()), int(q.max()), q.size)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", ["fro", "max", "spectral"])
@pytest.mark.parametrize("tol", [0.3, 1e-1, 1e-2, 1e-3])
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (3, 2), (5, 5)])
def test_the_bound_holds_and_few_bytes_beside_the_numbers_are_taken(dtype, norm, tol, shape) -> None:
    w = noise(*shape).to(dtype)
    matrix = compress_matrix(w, tol, norm)
    assert measure_error(w, matrix.to_dense(), norm)[0] <= tol
    assert norm == "spectral" or matrix.nbytes <= 7 + w.numel() * (np.log2(2 / tol) + 2) / 8


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("w", "nbytes"),
    [
        (torch.zeros(2, 4), 1),
        (torch.ones(4, 3), 5),
        (torch.tensor([[1.0, -1.0], [-1.0, -1.0]]), 5),
        ((noise(8, 8) > 0).float(), 13),
    ],
)
def test_masks_signs_and_constants_are_exact(w: torch.Tensor, nbytes: int, dtype: torch.dtype) -> None:
    matrix = compress_matrix(w.to(dtype), 1e-2)
    assert torch.equal(matrix.to_dense(), w.to(dtype)) and matrix.nbytes == nbytes
    assert matrix.leaves["zero"] == (not w.any())


@pytest.mark.parametrize("tol", [1e-1, 1e-2, 1e-3])
def test_no_other_compressor_takes_fewer_bytes_for_a_few_numbers(tol: float) -> None:
    for shape in ((1, 3), (2, 4), (4, 5), (8, 8)):
        w = noise(*shape, seed=shape[1])
        others = min(run_peer(peer, Matrix(w), tol).nbytes for peer in PEERS.values())
        assert compress_matrix(w, tol).nbytes <= others + 1  # that says which codec it is


def test_many_entries_are_coded_otherwise() -> None:
    assert compress_matrix(noise(24, 24), 1e-2).payload[0] != DIGITS
    assert compress_matrix(torch.zeros(24, 24), 1e-2).payload[0] != DIGITS


@pytest.mark.parametrize("size", [1e-35, 1e-18, 1e18, 1e35])
def test_sizes_at_the_ends_of_what_floats_hold(size: float) -> None:
    w = noise(3, 3) * size
    matrix = compress_matrix(w, 1e-2)
    assert torch.isfinite(matrix.to_dense()).all() and matrix.error <= 1e-2
    assert measure_error(w / size, matrix.to_dense() / size, "fro")[0] <= 1.01e-2


def broken(head: int, step: bytes, lowest: int, number: bytes) -> bytes:
    return Writer().raw(bytes([DIGITS])).uint(head).raw(step).sint(lowest).raw(number).getvalue()


@pytest.mark.parametrize(
    ("payload", "shape"),
    [
        (broken(16, b"\x80\x3f", 0, b""), (2, 2)),  # no digits
        (broken(16, b"\x80\x3f", 0, b"\0\0"), (2, 2)),  # too many
        (broken(12, b"\x80\x3f", 0, b"\xff"), (2, 2)),  # a number of five digits
        (broken(0, b"\x80\x3f", 0, b""), (2, 2)),  # no levels
        (broken(16, b"\x80\xbf", 0, b"\0"), (2, 2)),  # a negative step
        (broken(16, b"\x80\x7f", 0, b"\0"), (2, 2)),  # an infinite one
        (broken(16, b"\x80\x3f", 1 << 40, b"\0"), (2, 2)),
        (broken(1 << 40, b"\x80\x3f", 0, b"\0"), (2, 2)),
        (broken(17, b"\x80\x3f", 0, b""), (2, 2)),  # a step cut short
        (bytes([DIGITS]), (1 << 20, 1 << 20)),
        (broken(8, b"\x80\x3f", 0, b"\0" * 4096), (1 << 10, 1 << 10)),
    ],
)
def test_damage_is_told(payload: bytes, shape: tuple[int, int]) -> None:
    with pytest.raises(FormatError, match="damaged"):
        decode_payload(payload, shape, torch.float32)


def test_products_and_transposes_are_those_of_the_values() -> None:
    matrix = compress_matrix(noise(4, 6), 1e-2)
    assert isinstance(matrix, HMatrix) and matrix.payload[0] == DIGITS
    x = noise(6, 2, seed=3)
    torch.testing.assert_close(matrix @ x, matrix.to_dense() @ x)
    assert torch.equal(matrix.T.to_dense(), matrix.to_dense().T)
