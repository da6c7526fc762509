"""Products of two grids: what is coded comes back, shuffled operators become small, damage never crashes."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hmcompress
from hmcompress.errors import FormatError
from hmcompress.hmatrix import HMatrix, compress_matrix
from hmcompress.hmatrix.codecs import PRODUCT
from hmcompress.hmatrix.grids import product
from hmcompress.hmatrix.grids.grid import Grid
from hmcompress.network.layerwise.low_rank import as_product

GOLDEN = Path(__file__).parent / "golden" / "product_1.npz"


def grid(m: int, n: int, seed: int) -> Grid:
    rng = np.random.default_rng(seed)
    q = np.rint(9 * rng.standard_normal((m, n))).astype(np.int64)
    return Grid(q, rng.integers(-20, 20, m), rng.integers(-30, 30, n))


def payload_of(left: Grid, right: Grid) -> bytes:
    return bytes([PRODUCT]) + product.encode(left, right, thorough=False)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 9), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_a_product_comes_back_exactly(m, n, rank, seed):
    left, right = grid(m, min(rank, m, n), seed), grid(min(rank, m, n), n, seed + 1)
    matrix = HMatrix.from_payload(payload_of(left, right), (m, n), torch.float64)
    assert np.array_equal(matrix.to_dense().numpy(), left.to_dense() @ right.to_dense())


def test_a_stored_payload_still_decodes():
    stored = np.load(GOLDEN)
    shape = stored["decoded"].shape
    matrix = HMatrix.from_payload(stored["payload"].tobytes(), shape, torch.float32)
    assert np.array_equal(matrix.to_dense().numpy(), stored["decoded"])


def test_a_product_is_one_leaf_of_low_rank_and_multiplies():
    matrix = HMatrix.from_payload(payload_of(grid(30, 4, 0), grid(4, 20, 1)), (30, 20), torch.float64)
    x = torch.randn(20, 3, dtype=torch.float64)
    assert (matrix.leaves["low_rank"], matrix.max_rank) == (1, 4)
    assert torch.allclose(matrix @ x, matrix.to_dense() @ x)


@given(st.binary(max_size=60), st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_damaged_bytes_never_crash(data, n):
    with contextlib.suppress(FormatError):
        HMatrix.from_payload(bytes([PRODUCT]) + data, (n, n), torch.float32).to_dense()


def test_an_impossible_rank_is_one_clear_line():
    with pytest.raises(FormatError, match="at most 3"):
        HMatrix.from_payload(bytes([PRODUCT, 4, 0]), (3, 5), torch.float32)


def shuffled_operator(side: int) -> tuple[np.ndarray, np.ndarray]:
    """The inverse Laplacian on a square grid whose points come in no order, and what makes smooth forcings of noise."""
    k = np.arange(1, side + 1)
    line = np.sin(np.pi * np.outer(k, k) / (side + 1)) * (2 / (side + 1)) ** 0.5
    modes = np.kron(line, line)[np.random.default_rng(0).permutation(side**2)]
    wave = (k[:, None] ** 2 + k**2).reshape(-1)
    return modes / wave @ modes.T, modes / (1 + wave / 9) ** 3


def test_the_water_level_is_the_error_that_inputs_see():
    w, shape = shuffled_operator(12)
    moment = shape @ shape.T + 1e-4 * np.trace(shape @ shape.T) / len(w) * np.eye(len(w))
    size = np.trace(w @ moment @ w.T) ** 0.5
    found = []
    for level in (1e-3, 1e-4):
        coded = as_product(w, moment, np.eye(len(w)), level * size, 0.0)
        off = coded.dense().numpy() - w
        found.append((np.trace(off @ moment @ off.T) ** 0.5 / size, len(coded.payload(False))))
    assert found[0][0] / found[1][0] > 3
    assert found[0][1] < found[1][1] < w.size


@pytest.fixture(scope="module")
def shuffled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("product")
    w, shape = shuffled_operator(16)
    w = w + 1e-3 * np.linalg.norm(w) / len(w) * np.random.default_rng(2).standard_normal(w.shape)  # as if learned
    x = np.random.default_rng(1).standard_normal((64, len(w))) @ shape.T
    np.savez(folder / "x.npz", x=x.astype(np.float32))
    torch.save({"weight": torch.from_numpy(w).float()}, folder / "operator.pt")
    out = folder / "operator.hmc.safetensors"
    options = {"calibration": {"inputs": str(folder / "x.npz")}, "metric": "outputs", "network": {"linear": {}}}
    report = hmcompress.compress(folder / "operator.pt", out, tol=1e-3, ntk="off", effort="fast", **options)
    return torch.from_numpy(w).float(), report


def test_a_shuffled_operator_takes_a_third_of_its_float16_factors(shuffled):
    w, report = shuffled
    x_rank = 27  # of the truncated SVD that keeps 1e-3 on such forcings
    assert report.network.error <= 1e-3
    assert report.layers[0].leaves.low_rank == 1
    assert report.layers[0].stored_bytes < x_rank * 2 * sum(w.shape) / 3
    assert report.layers[0].stored_bytes < compress_matrix(w, 1e-2).nbytes
