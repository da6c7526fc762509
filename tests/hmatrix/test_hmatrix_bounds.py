"""Claims about the bound: it holds on every matrix, and the tolerance is used, not wasted."""

import math
import warnings

import numpy as np
import pytest
import torch
from hmatrix_matrices import DTYPES, FLEXIBLE, MATRICES, compressed, matrix, noise, with_spectrum
from hypothesis import given, settings
from hypothesis import strategies as st

from hmcompress.errors import SettingsError
from hmcompress.hmatrix import HMatrix, compress_matrix, measure_error
from hmcompress.hmatrix.basics import measure
from hmcompress.hmatrix.request import Request
from hmcompress.hmatrix.tune import search_step

SETTINGS = settings(derandomize=True, deadline=None, max_examples=40, database=None)
NORMS = ("fro", "spectral", "max")
EFFORTS = ("fast", "default", "max")


def relative_error(w: torch.Tensor, decoded: torch.Tensor, norm: str) -> float:
    """The definition, written down a second time."""
    a, e = w.double().numpy(), w.double().numpy() - decoded.double().numpy()
    if a.size == 0 or not a.any():
        return float(np.abs(e).max(initial=0) > 0)
    if norm == "max":
        return float(np.abs(e).max() / np.abs(a).max())
    scale, order = np.abs(a).max(), "fro" if norm == "fro" else 2
    return float(np.linalg.norm(e / scale, order) / np.linalg.norm(a / scale, order))


def assert_bound_holds(w: torch.Tensor, tol: float, norm: str, effort: str = "default") -> HMatrix:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        h = compress_matrix(w, tol, norm, effort=effort)
    decoded = HMatrix.from_payload(h.payload, h.shape, h.dtype).to_dense()
    assert decoded.dtype == w.dtype and decoded.shape == w.shape
    error = relative_error(w, decoded, norm)
    assert error <= tol * (1 + 1e-9), f"{error / tol} of the tolerance"
    assert h.error == pytest.approx(error, rel=1e-6, abs=1e-15)
    assert h.max_abs_error == float((w.double() - decoded.double()).abs().max() if w.numel() else 0)
    return h


@pytest.mark.parametrize(("norm", "tol"), [("fro", 1e-1), ("fro", 1e-4), ("spectral", 1e-2), ("max", 1e-3)])
@pytest.mark.parametrize("name", MATRICES)
def test_error_is_below_tol_and_uses_it(name, norm, tol):
    h = assert_bound_holds(matrix(name), tol, norm)
    if norm == "fro" and name in FLEXIBLE:
        assert h.error > 0.9 * tol, f"{h.error / tol} of the tolerance"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["noise", "rank 3", "toeplitz", "row scales", "tiny", "heavy tails", "one row"])
def test_error_is_below_tol_in_every_dtype(name, dtype):
    for tol in (1e-1, 1e-2, 1e-4):
        assert_bound_holds(matrix(name, dtype), tol, "fro", "fast" if tol == 1e-2 else "default")


@pytest.mark.parametrize("tol", [1e-1, 1e-2])
def test_error_is_below_tol_where_most_columns_are_pruned(tol):
    """Gram matrices of mostly zero rows: not every build of LAPACK finds their eigenvalues."""
    random = np.random.default_rng
    w = random(1).standard_normal((256, 256)) * (random(2).random(256) < 0.12)
    assert_bound_holds(torch.from_numpy(w).float(), tol, "fro")


@pytest.mark.parametrize("effort", EFFORTS)
@pytest.mark.parametrize("second", [1.0, 1e-3, 1e-9])
@pytest.mark.parametrize("shape", [(300, 200), (700, 40)])
def test_error_is_below_tol_where_two_entries_are_not_zero(shape, second, effort):
    """Looks at some of the entries may see only zeros; what low rank leaves is rounding noise without scales."""
    w = torch.zeros(shape)
    w[7, -1], w[250, 3] = 1.0, second
    assert assert_bound_holds(w, 1e-3, "fro", effort).nbytes < 120


@pytest.mark.parametrize("tol", [1e-6, 1e-9, 1e-13])
@pytest.mark.parametrize("name", ["noise", "constant", "geometric spectrum", "toeplitz", "row scales"])
def test_error_is_below_fine_tolerances_in_float64(name, tol):
    assert_bound_holds(matrix(name, torch.float64), tol, "fro")


@pytest.mark.parametrize("tol", [1e-2, 1e-10])
@pytest.mark.parametrize("effort", EFFORTS)
@pytest.mark.parametrize("name", ["prime sides", "dead neurons", "single entry", "outlier", "lstm gates"])
def test_error_is_below_tol_at_every_effort(name, effort, tol):
    assert_bound_holds(matrix(name, torch.float64 if tol < 1e-6 else torch.float32), tol, "fro", effort)


@SETTINGS
@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.floats(-30, 30),
    st.floats(0, 4),
    st.sampled_from((1e-1, 1e-2, 1e-3, 1e-5)),
    st.sampled_from(NORMS),
    st.sampled_from(DTYPES[:2]),
)
def test_error_is_below_tol_for_any_shape_scale_and_decay(m, n, log_scale, decay, tol, norm, dtype):
    values = (1.0 + np.arange(min(m, n))) ** -decay
    w = torch.from_numpy(with_spectrum(m, n, values, seed=m * 71 + n) * 10**log_scale).to(dtype)
    assert_bound_holds(w, tol, norm)


@pytest.mark.parametrize("tol", [1e-2, 1e-3])
@pytest.mark.parametrize("name", FLEXIBLE)
def test_error_uses_the_tolerance(name, tol):
    h = compressed(name, tol)
    assert h.error > 0.9 * tol, f"{h.error / tol} of the tolerance"


@pytest.mark.parametrize("seed", range(6))
def test_errors_of_short_numbers_that_come_in_few_sizes_are_no_reason_to_store_them_without_loss(seed):
    w = torch.from_numpy(noise(16, 288, seed)).bfloat16()
    h = compress_matrix(w, 1e-2, "max")
    assert 8 * h.nbytes < 6.1 * w.numel() and 0.85e-2 < h.error <= 1e-2


@pytest.mark.parametrize("left_out", [0.0, 0.5, 0.9, 0.95])
def test_few_trials_find_the_step_whatever_low_rank_leaves_out_at_any_step(left_out):
    """Of an operator fitted to data the noise stays out: squares of what is left out and of the step add up."""
    tried = []

    def error(step):
        tried.append(step)
        return 1e-3 * math.hypot(left_out, step)

    request = Request(torch.ones(2, 2), 1e-3, "fro", "default", 1.0)
    step = search_step(request, error, 0.05, 0.99)
    assert 0.99e-3 <= error(step) <= 1e-3 and len(tried) <= 8


@pytest.mark.parametrize("tol", [1e-1, 1e-3])
@pytest.mark.parametrize("effort", EFFORTS)
def test_error_of_noise_uses_97_hundredths_of_the_tolerance(effort, tol):
    w = torch.from_numpy(noise(200, 300)).float()
    assert 0.97 * tol < compress_matrix(w, tol, effort=effort).error <= tol


@pytest.mark.parametrize("shape", [(0, 0), (0, 7), (7, 0)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_empty_matrices_come_back_with_no_error(shape, dtype):
    h = assert_bound_holds(torch.zeros(shape, dtype=dtype), 1e-3, "fro")
    assert h.error == 0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("norm", NORMS)
def test_zeros_cost_a_few_bytes_whatever_their_number(norm, dtype):
    h = assert_bound_holds(torch.zeros(500, 400, dtype=dtype), 1e-3, norm)
    assert h.nbytes < 16 and h.error == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [(20, 20), (200, 300)])
def test_a_matrix_with_a_value_that_is_no_number_is_kept_bit_for_bit(shape, norm, value):
    w = torch.from_numpy(noise(*shape)).float()
    w[-1, -1] = value
    h = compress_matrix(w, 1e-1, norm)
    assert h.method in ("lossless", "raw")
    assert torch.equal(h.to_dense().view(torch.int32), w.view(torch.int32))


def test_half_precision_at_the_edge_of_its_range_stays_finite():
    w = torch.from_numpy(np.clip(noise(64, 64) * 4e4, -65504, 65504)).half()
    for norm in NORMS:
        assert torch.isfinite(assert_bound_holds(w, 1e-1, norm).to_dense()).all()


@pytest.mark.parametrize("name", ["noise", "heavy tails", "constant"])
@pytest.mark.parametrize("dtype", DTYPES[2:], ids=str)
def test_half_precision_is_kept_without_loss_where_that_is_smaller(name, dtype):
    h = compress_matrix(matrix(name, dtype), 1e-6)
    assert h.error <= 1e-6 and h.nbytes <= matrix(name, dtype).nbytes + 2


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("tol", [1e-17, 1e-20, 1e-38, 1e-46, 1e-100, 1e-300, 1e-310])
def test_a_tolerance_no_dtype_resolves_is_met_without_loss(tol, norm):
    for dtype in DTYPES:
        h = compress_matrix(matrix("noise", dtype), tol, norm)
        assert h.error == 0 and torch.equal(h.to_dense(), matrix("noise", dtype))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [1e-320, 1e-300, 1e-170, 1e-150, 1e-45, 1e38, 1e153, 1e200, 1e307])
def test_values_beyond_the_range_of_squares_are_kept(scale, norm):
    assert_bound_holds(torch.from_numpy(noise(20, 20) * scale), 1e-2, norm)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("norm", NORMS)
def test_values_whose_sums_are_beyond_their_range_are_kept(norm):
    assert_bound_holds(torch.from_numpy(np.abs(noise(64, 64)).clip(0.1, 1) * 3.4e38).float(), 1e-2, norm)


def test_an_error_whose_square_vanishes_is_an_error():
    w = torch.from_numpy(noise(20, 20) * 1e-170)
    assert measure_error(w, torch.zeros_like(w))[0] == pytest.approx(1.0)
    assert measure_error(w, 1.5 * w)[0] == pytest.approx(0.5)
    assert measure_error(w, torch.ones_like(w))[0] > 1e100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tol": 0}, "between 0 and 1"),
        ({"tol": 1.0}, "between 0 and 1"),
        ({"tol": float("nan")}, "between 0 and 1"),
        ({"norm": "l1"}, "fro, spectral, max"),
        ({"effort": "extreme"}, "fast, default, max"),
        ({"w": torch.zeros(3)}, r"matrix \(m, n\)"),
        ({"w": torch.zeros(3, 3, dtype=torch.int32)}, "16 to 64 bit floats"),
        ({"w": torch.zeros(3, 3).to(torch.float8_e4m3fn)}, "16 to 64 bit floats"),
    ],
)
def test_an_argument_that_makes_no_sense_is_a_settings_error(arguments, message):
    with pytest.raises(SettingsError, match=message):
        compress_matrix(**{"w": torch.ones(3, 3), **arguments})


@pytest.mark.parametrize("norm", NORMS)
def test_measured_error_is_the_definition(norm):
    w, decoded = torch.from_numpy(noise(40, 50)), torch.from_numpy(noise(40, 50, 1))
    error, largest = measure_error(w, decoded, norm)
    assert error == pytest.approx(relative_error(w, decoded, norm), rel=1e-12)
    assert largest == float((w - decoded).abs().max())


@pytest.mark.parametrize("norm", NORMS)
def test_zeros_that_decode_to_something_else_have_infinite_error(norm):
    assert measure_error(torch.zeros(3, 3), torch.ones(3, 3), norm)[0] == float("inf")
    assert measure_error(torch.zeros(3, 3), torch.zeros(3, 3), norm)[0] == 0


@pytest.mark.parametrize("norm", NORMS)
def test_a_decoded_nan_never_passes_for_a_small_error(norm):
    w, decoded = torch.ones(300, 300), torch.ones(300, 300)
    decoded[0, 0] = float("nan")
    assert not measure_error(w, decoded, norm)[0] <= 0.5


def test_rows_that_are_not_decoded_are_no_rows_without_error():
    w = torch.ones(4, 6)
    assert measure.relative_error(w, [w[:3], w[3:]], "fro", 1.0) == (0.0, 0.0)
    for some in ([w[:3]], [w, w[:1]], []):
        with pytest.raises(ValueError, match=r"entries|argument"):
            measure.relative_error(w, some, "fro", 1.0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tol", [1e-1, 1e-3])
@pytest.mark.parametrize("dead", [1e-36, 1e-30, 1e-9])
def test_dead_rows_where_a_look_falls_are_no_stumbling_block(dtype, tol, dead):
    """Of a message network's 65,536 x 32 matrix every 256th row belongs to a neuron that has died."""
    w = torch.randn(1024, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    w[::8] *= dead
    for each in (w.to(dtype), w.to(dtype).T.contiguous()):
        matrix = compress_matrix(each, tol)
        assert relative_error(each, matrix.to_dense(), "fro") <= tol
        assert matrix.nbytes <= 1.02 * compress_matrix(each[(each != 0).any(1)][:, (each != 0).any(0)], tol).nbytes + 64


SMALLEST = [  # matrices whose steps float32 may take for 0: value, tolerance, norm, and where the value stands
    (1e-44, 1e-1, "fro", (slice(40), slice(40))),
    (1e-43, 1e-2, "max", (slice(40), slice(40))),
    (4e-45, 1e-1, "max", (slice(1, 4), slice(3))),
    (1e-42, 1e-3, "max", (slice(1, 4), slice(3))),
    (1e-43, 1e-2, "max", (1, 2)),
]


@pytest.mark.parametrize(("value", "tol", "norm", "where"), SMALLEST)
def test_matrices_of_the_smallest_numbers_are_kept(value, tol, norm, where):
    w = torch.zeros(40, 40)
    w[where] = value
    for effort in EFFORTS:
        matrix = compress_matrix(w, tol, norm=norm, effort=effort)
        assert relative_error(w, matrix.to_dense(), norm) <= tol
