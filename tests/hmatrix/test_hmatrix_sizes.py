"""Claims about bytes: never larger than simpler methods at the error they reach, and the rates that theory allows."""

import math

import numpy as np
import pytest
import scipy.fft
import scipy.signal
import torch
from hmatrix_matrices import compressed, kernel, matrix, noise

from hmcompress.coding.lossless import encode_array, pcodec_encode
from hmcompress.hmatrix import compress, compress_matrix, measure_error
from hmcompress.hmatrix.request import Candidate, Request, first_step
from hmcompress.hmatrix.tree.blocks import Leaf
from hmcompress.hmatrix.tune import tune

SMALL = 16  # bytes that a method without any header may be ahead
NAMES = (
    "noise", "rank 3", "geometric spectrum", "algebraic spectrum", "sparse", "whole numbers", "heavy tails", "toeplitz",
    "repeated", "smooth head", "dead neurons", "lstm gates", "row scales", "outlier",
)  # fmt: skip
TOLS = (1e-1, 1e-2, 1e-4)


def svd_bytes(w: torch.Tensor, tol: float) -> int:
    """Flat truncated SVD with float32 factors, at the smallest rank whose decoded error keeps the bound."""
    u, s, v = torch.linalg.svd(w.double(), full_matrices=False)
    for rank in range(len(s) + 1):
        factors = (u[:, :rank] * s[:rank]).float(), v[:rank].float()
        if measure_error(w, factors[0] @ factors[1])[0] <= tol:
            return 4 * rank * sum(w.shape)
    return w.nbytes


def quantization_bytes(w: torch.Tensor, tol: float) -> int:
    """A uniform quantiser and pcodec at its highest level, at the largest step that keeps the bound."""
    low, high = 0.0, 4 * tol * float(w.double().norm())
    for _ in range(40):
        step = (low + high) / 2
        keeps = measure_error(w, (torch.round(w.double() / step) * step).float())[0] <= tol
        low, high = (step, high) if keeps else (low, step)
    if low == 0:
        return w.nbytes
    return len(pcodec_encode(torch.round(w.double() / low).numpy().astype(np.int32).reshape(-1), 12))


def pruning_bytes(w: torch.Tensor, tol: float) -> int:
    """The largest entries in float32, and a bit for every entry."""
    squares = torch.sort(w.double().square().reshape(-1), descending=True)[0]
    left_out = squares.sum() - torch.cumsum(squares, 0)
    kept = int((left_out > (tol**2 * squares.sum())).sum()) + 1
    return 4 * kept + -(-w.numel() // 8)


@pytest.mark.parametrize("tol", TOLS)
@pytest.mark.parametrize("name", NAMES)
def test_never_larger_than_flat_svd(name, tol):
    assert compressed(name, tol).nbytes <= svd_bytes(matrix(name), tol) + SMALL


@pytest.mark.parametrize("tol", TOLS)
@pytest.mark.parametrize("name", NAMES)
def test_never_larger_than_entropy_coded_quantization(name, tol):
    assert compressed(name, tol).nbytes <= quantization_bytes(matrix(name), tol) + SMALL


@pytest.mark.parametrize("tol", TOLS)
@pytest.mark.parametrize("name", NAMES)
def test_never_larger_than_pruning(name, tol):
    assert compressed(name, tol).nbytes <= pruning_bytes(matrix(name), tol) + SMALL


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["noise", "sparse", "whole numbers", "toeplitz", "repeated", "dead neurons"])
def test_never_larger_than_lossless(name, dtype):
    w = matrix(name, dtype)
    for tol in (1e-3, 1e-7):
        assert compressed(name, tol, dtype=dtype).nbytes <= len(encode_array(w.numpy())) + 1


@pytest.mark.parametrize("name", ["noise", "toeplitz", "smooth head", "heavy tails"])
def test_a_looser_tolerance_never_costs_more(name):
    sizes = [compressed(name, tol).nbytes for tol in (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)]
    assert sizes == sorted(sizes)


@pytest.mark.parametrize(("of", "tol"), [(np.sinc, 1e-2), (lambda x: np.exp(-np.abs(x) / 2), 1e-3)])
def test_a_looser_tolerance_never_costs_more_where_a_function_of_the_distance_is_smooth(of, tol):
    x = np.linspace(0, 10, 192)
    w = torch.from_numpy(of(np.subtract.outer(x, x))).float()
    assert compress_matrix(w, tol).nbytes <= compress_matrix(w, tol / 10).nbytes


@pytest.mark.parametrize(
    "w",
    [
        torch.block_diag(torch.full((64, 64), -100.0), torch.zeros(64, 64)),
        torch.eye(64),
        torch.full((40, 50), 0.3).half(),
    ],
)
def test_masks_and_constants_take_a_few_bytes_without_loss_and_without_a_search(monkeypatch, w):
    best = compress_matrix(w, 1e-2, effort="max").nbytes
    monkeypatch.setattr(compress, "smallest_of_any", lambda *given: pytest.fail("searched"))
    found = compress_matrix(w, 1e-2)
    assert found.error == 0 and torch.equal(found.to_dense(), w) and found.nbytes <= min(64, best + 24)


@pytest.mark.parametrize("name", ["noise", "toeplitz", "dead neurons", "lstm gates", "smooth head"])
def test_more_effort_never_costs_more_than_a_few_bytes(name):
    fast, default, best = (compressed(name, effort=e).nbytes for e in ("fast", "default", "max"))
    assert default <= fast + SMALL and best <= default + SMALL


@pytest.mark.parametrize("tol", [1e-1, 1e-2, 1e-3, 1e-4])
def test_noise_is_within_six_hundredths_of_a_bit_of_entropy_coded_scalar_quantization(tol):
    """log2(1/eps) + 0.2546 bits a weight: the rate of a uniform quantiser at high resolution (Gish & Pierce 1968)."""
    w = torch.from_numpy(noise(1024, 1024)).float()
    for effort in ("fast", "default"):
        bits = 8 * compress_matrix(w, tol, effort=effort).nbytes / w.numel()
        assert bits < math.log2(1 / tol) + 0.2546 + 0.06


def test_a_kernel_of_1024_points_on_a_grid_shrinks_as_far_as_promised():
    w = kernel("grid", 1024)
    assert w.nbytes / compress_matrix(w, 1e-4).nbytes > 2000


def test_a_kernel_shrinks_as_far_as_promised_and_grows_no_faster_than_its_points_to_the_power_of_one_and_a_fifth():
    small, large = (compress_matrix(kernel("distance", n), 1e-4).nbytes for n in (256, 1024))
    assert math.log(large / small, 4) < 1.2
    assert 4 * 1024**2 / large > 1000


def test_a_block_that_repeats_is_stored_once():
    block = torch.from_numpy(noise(64, 64)).float()
    once = compress_matrix(block, 1e-3).nbytes
    twice = torch.cat([torch.cat([block, block.T]), torch.cat([block.T, block])], 1)
    assert compress_matrix(twice, 1e-3).nbytes < once + 64


@pytest.mark.parametrize("n", [200, 256])
def test_halves_that_are_tied_are_stored_once(n):
    half = torch.from_numpy(noise(n, n // 2)).float()
    once = compress_matrix(half, 1e-3).nbytes
    assert compress_matrix(torch.cat([half, half], 1), 1e-3).nbytes < 1.01 * once + 64
    left, right = half[: n // 2], half[n // 2 :]
    crossed = torch.cat([torch.cat([left, right], 1), torch.cat([right, left], 1)])
    assert compress_matrix(crossed, 1e-3).nbytes < 1.01 * once + 64


def test_dead_neurons_cost_little_beside_the_live_ones():
    live = compress_matrix(matrix("dead neurons")[:21], 1e-3).nbytes
    assert compressed("dead neurons").nbytes < 1.25 * live


def test_scales_that_differ_by_row_are_paid_once_a_row():
    """Reverse water-filling: a row costs the log of its own scale, so small rows are almost free."""
    assert compressed("row scales").nbytes < 0.4 * compressed("noise").nbytes


@pytest.mark.parametrize("kept", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("tol", [1e-2, 1e-4])
def test_pruned_noise_takes_its_places_and_the_rate_of_what_is_left(kept, tol):
    random = np.random.default_rng(0)
    w = np.where(random.random((256, 256)) < kept, random.standard_normal((256, 256)), 0)
    places = -kept * np.log2(kept) - (1 - kept) * np.log2(1 - kept)
    bits = places + kept * (math.log2(1 / tol) + 0.2546)
    h = compress_matrix(torch.from_numpy(w.astype(np.float32)), tol)
    assert 8 * h.nbytes / w.size < 1.06 * bits + 0.02


def test_few_large_weights_among_noise_take_no_more_than_plain_integers():
    """A convolution as a matrix, trained: prices take a tree for smaller, as they know no mixtures of scales."""
    x, y = np.arange(64), np.random.default_rng(7)
    w = 1e-3 * np.random.default_rng(1).standard_normal((512, 512))
    for block, k in np.ndindex(64, 5):
        w[block // 8 * 64 + x, block % 8 * 64 + (x + k) % 64] += y.standard_normal()
    request = Request(torch.from_numpy(w).float(), 1e-4, "fro", "default", float(np.linalg.norm(w)))
    plain = tune(request, Candidate(Leaf(0, True)), first_step(request))
    assert plain is not None and compress_matrix(request.w, request.tol).nbytes <= plain.nbytes


@pytest.mark.parametrize("tol", [1e-1, 1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize("window", [np.ones, lambda n: scipy.signal.get_window("hann", n)], ids=["none", "hann"])
def test_kernels_of_a_fourier_transform_take_their_few_waves(window, tol):
    n = 128
    waves = np.exp(2j * np.pi * np.outer(np.arange(n // 2 + 1), np.arange(n)) / n) * window(n)
    w = torch.from_numpy(np.concatenate([waves.real, waves.imag])).float()
    assert compress_matrix(w, tol).nbytes < w.numel() / 100


def test_a_large_pruned_matrix_is_not_split_where_its_places_cost_less():
    random = np.random.default_rng
    w = random(0).standard_normal((512, 512)) * (random(1).random((512, 512)) < 0.1)
    places = -0.1 * np.log2(0.1) - 0.9 * np.log2(0.9)
    h = compress_matrix(torch.from_numpy(w).float(), 1e-2)
    assert 8 * h.nbytes / w.size < 1.02 * (places + 0.1 * (math.log2(100) + 0.2546))


def test_a_cosine_matrix_takes_no_more_than_its_few_values_without_loss():
    w = torch.from_numpy(scipy.fft.dct(np.eye(256), norm="ortho").astype(np.float32))
    lossless = len(encode_array(w.numpy()))
    assert all(compress_matrix(w, tol).nbytes <= lossless + 16 for tol in (1e-3, 1e-4))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(60, 300), (400, 300)])
def test_what_drifts_along_rows_or_down_columns_is_stored_alike(shape, dtype):
    """16-bit numbers near their resolution, each close to the one before, which lossless coding sees in one order."""
    w = torch.from_numpy(np.cumsum(noise(*shape), 1)).to(dtype)
    along, down = (compress_matrix(a, 1e-5).nbytes for a in (w, w.T.contiguous()))
    assert down <= 1.01 * along + 16
    assert along <= 1.01 * len(encode_array(w.contiguous().view(torch.int16).numpy()))
