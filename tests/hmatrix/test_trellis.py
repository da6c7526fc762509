"""Claims about the trellis codec: its rate, its error, its path, where it is chosen, and what damage does."""

import contextlib
import itertools
import math
import struct

import numpy as np
import pytest
import torch
from hmatrix_matrices import noise, with_spectrum

from hmcompress.coding.viterbi import MEMORIES, Trellis
from hmcompress.errors import FormatError
from hmcompress.hmatrix import HMatrix, compress_matrix, measure_error
from hmcompress.hmatrix.basics.measure import reference
from hmcompress.hmatrix.codecs import TRELLIS
from hmcompress.hmatrix.patterns.trellis import TrellisQuantizer
from hmcompress.hmatrix.request import Request, first_step
from hmcompress.hmatrix.tune import tune_trellis


def white(m: int = 256, n: int = 256, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.from_numpy(noise(m, n)).to(dtype)


def scaled(m: int = 96, n: int = 80) -> torch.Tensor:
    """Noise with a scale for every row and column, four octaves either way."""
    rows, columns = np.exp2(noise(m, 1, 1) * 1.5), np.exp2(noise(1, n, 2) * 1.5)
    return torch.from_numpy(noise(m, n) * rows * columns).float()


def along_trellis(w: torch.Tensor, tol: float, norm: str = "fro") -> HMatrix | None:
    request = Request(w, tol, norm, "max", reference(w, norm))
    return tune_trellis(request, first_step(request))


def is_trellis(h: HMatrix) -> bool:
    return h.payload[0] == TRELLIS


@pytest.mark.parametrize("tol", [1e-1, 1e-2, 1e-3])
def test_noise_costs_at_most_twelve_hundredths_of_a_bit_above_the_limit(tol):
    w = white(1024, 1024)
    h = along_trellis(w, tol)
    limit = math.log2(1 / tol)
    assert limit < 8 * h.nbytes / w.numel() < limit + 0.12
    assert 0.97 * tol < h.error <= tol


@pytest.mark.parametrize("tol", [1e-1, 1e-2, 1e-4])
@pytest.mark.parametrize("make", [white, scaled])
def test_it_beats_plain_quantisation(make, tol):
    w = make()
    fine, plain = compress_matrix(w, tol, effort="max"), compress_matrix(w, tol)
    assert is_trellis(fine) and not is_trellis(plain)
    assert 8 * (plain.nbytes - fine.nbytes) / w.numel() > 0.1


@pytest.mark.parametrize("norm", ["fro", "spectral"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_error_is_below_tol_and_uses_it(dtype, norm):
    w = scaled().to(dtype)
    for tol in (0.2, 3e-2):
        h = along_trellis(w, tol, norm)
        decoded = HMatrix.from_payload(h.payload, h.shape, h.dtype).to_dense()
        error, largest = measure_error(w, decoded, norm)
        assert decoded.dtype == dtype and is_trellis(h)
        assert 0.97 * tol < error <= tol
        assert h.error == pytest.approx(error, rel=1e-9) and h.max_abs_error == largest


@pytest.mark.parametrize("tol", [1e-6, 1e-7])
def test_fine_tolerances_hold_in_float64(tol):
    h = along_trellis(white(96, 80, torch.float64), tol)
    assert 0.97 * tol < h.error <= tol


@pytest.mark.parametrize("shape", [(1, 5000), (5000, 1), (64, 64), (67, 131)])
def test_every_shape_comes_back(shape):
    w = torch.from_numpy(noise(*shape)).float()
    h = along_trellis(w, 1e-2)
    assert 0.97e-2 < h.error <= 1e-2
    assert torch.equal(h.T.to_dense(), h.to_dense().T)
    x = torch.from_numpy(noise(shape[1], 2)).float()
    assert torch.allclose(h @ x, h.to_dense() @ x)
    assert h.method == "hmatrix" and h.leaves["quantized"] == 1 and h.max_rank == 0


def test_dead_rows_are_zero_and_cost_next_to_nothing():
    w = white(256, 256)
    half = w.clone()
    half[::2] = 1e-7 * half[::2]
    h, full = along_trellis(half, 1e-2), along_trellis(w, 1e-2)
    assert not h.to_dense()[::2].any()
    assert h.nbytes < 0.52 * full.nbytes


@pytest.mark.parametrize("effort", ["fast", "default"])
def test_only_max_takes_the_time(effort):
    assert not is_trellis(compress_matrix(white(128, 128), 1e-2, effort=effort))


def test_a_bound_on_every_entry_is_kept_without_it():
    h = compress_matrix(white(128, 128), 1e-2, "max", effort="max")
    assert not is_trellis(h) and h.error <= 1e-2


def test_small_matrices_do_without():
    assert not is_trellis(compress_matrix(white(30, 34), 1e-2, effort="max"))


def test_structure_is_worth_more():
    w = torch.from_numpy(with_spectrum(128, 128, 0.5 ** np.arange(20))).float()
    h = compress_matrix(w, 1e-2, effort="max")
    assert not is_trellis(h) and h.nbytes < along_trellis(w, 1e-2).nbytes


def test_repeat_runs_give_the_same_bytes():
    assert along_trellis(scaled(), 1e-2).payload == along_trellis(scaled(), 1e-2).payload


def test_an_outlier_beyond_the_tables_is_declined_not_clipped():
    w = white(64, 64)
    w[3, 4] = 1e9
    h = along_trellis(w, 1e-9)
    assert h is None or h.error <= 1e-9


@pytest.mark.parametrize("memory", MEMORIES)
def test_the_path_is_the_cheapest_of_all(memory):
    """Against every path of eight steps, one by one."""
    trellis = Trellis(memory)
    costs = np.random.default_rng(memory).random((8, 4, 3)).astype(np.float32)
    found = trellis.cheapest_subsets(costs)
    for path in range(3):
        best = min(_cost(trellis, costs[:, :, path], bits)[0] for bits in itertools.product((0, 1), repeat=8))
        total, subsets = _cost(trellis, costs[:, :, path], (found[:, path] >> 1).tolist())
        assert list(found[:, path]) == subsets
        assert total == pytest.approx(best, rel=1e-5)


def _cost(trellis: Trellis, costs: np.ndarray, bits) -> tuple[float, list[int]]:
    state, total, subsets = 0, 0.0, []
    for step, bit in enumerate(bits):
        subsets.append(2 * int(bit) + (state & 1))
        total += float(costs[step, subsets[-1]])
        state = int(trellis.successors[2 * state + bit])
    return total, subsets


@pytest.mark.parametrize("memory", MEMORIES)
def test_every_state_is_entered_from_two_others(memory):
    successors = Trellis(memory).successors
    assert sorted(successors) == sorted([*range(2**memory)] * 2)


def test_more_states_lose_less():
    """Granular gain of the codes: mean squared error on uniform numbers, 1/3 without a trellis."""
    x = np.random.default_rng(0).random((256, 64)) * 4
    costs = np.stack([((x - r + 2) % 4 - 2) ** 2 for r in range(4)], 1).astype(np.float32)
    t, paths = np.ogrid[:256, :64]
    errors = [costs[t, Trellis(memory).cheapest_subsets(costs), paths].mean() for memory in MEMORIES]
    assert errors[0] < 0.27
    assert all(b < a * 1.002 for a, b in itertools.pairwise(errors))
    assert errors[-1] < 0.253


def test_the_quantiser_gives_what_its_payload_decodes_to():
    quantizer = TrellisQuantizer(scaled().numpy(), torch.float32)
    step = float(np.float32(0.01))
    payload = bytes([TRELLIS]) + quantizer.encode(step)
    assert torch.equal(HMatrix.from_payload(payload, (96, 80), torch.float32).to_dense(), quantizer.decoded(step))


def test_damage_is_a_format_error_or_harmless():
    h = along_trellis(scaled(), 3e-2)
    random = np.random.default_rng(0)
    for i in range(150):
        bad, at = bytearray(h.payload), 1 + int((h.nbytes - 1) * random.random() ** 3)
        if i % 3 == 0:
            bad = bad[:at]
        elif i % 3 == 1:
            bad[at] ^= 1 << int(random.integers(8))
        else:
            bad[at : at + 4] = random.integers(0, 256, 4).astype(np.uint8).tobytes()
        with contextlib.suppress(FormatError):
            decoded = HMatrix.from_payload(bytes(bad), h.shape, h.dtype).to_dense()
            assert decoded.shape == h.shape and decoded.dtype == h.dtype


def test_a_cut_stream_is_a_format_error():
    h = along_trellis(white(64, 64), 1e-2)
    for stop in (1, 3, 5, 6, 8, 40, h.nbytes - 1, h.nbytes - 4):
        with pytest.raises(FormatError):
            HMatrix.from_payload(h.payload[:stop], h.shape, h.dtype)


def test_numbers_left_over_are_a_format_error():
    h = along_trellis(white(64, 64), 1e-2)
    with pytest.raises(FormatError):
        HMatrix.from_payload(h.payload, (64, 63), h.dtype)


@pytest.mark.parametrize("step", [0.0, -1.0, math.inf, math.nan])
def test_an_impossible_step_is_a_format_error(step):
    h = along_trellis(white(64, 64), 1e-2)
    with pytest.raises(FormatError, match="step"):
        HMatrix.from_payload(h.payload[:1] + struct.pack("<f", step) + h.payload[5:], h.shape, h.dtype)
