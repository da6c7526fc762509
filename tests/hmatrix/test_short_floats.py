"""Claims about weights of 16 bits near their own resolution: large entries as they are, small ones to a step."""

import numpy as np
import pytest
import torch
from hmatrix_matrices import matrix, noise
from hypothesis import given
from hypothesis import strategies as st

from hmcompress.coding.ladder import EVEN, Ladder
from hmcompress.errors import FormatError
from hmcompress.hmatrix import HMatrix, compress_matrix
from hmcompress.hmatrix.basics import exact
from hmcompress.hmatrix.basics.words import SHORT, Histogram, words_of
from hmcompress.hmatrix.codecs import SHORT_FLOATS
from hmcompress.hmatrix.patterns.short_floats import Rungs, decode, encode, short_dtype

STEPS = st.floats(2.0**-12, 2.0**-4, width=32)


def weights(dtype: torch.dtype, rows: float = 0.0) -> torch.Tensor:
    """Noise whose rows differ in scale by octaves (m, n)."""
    return torch.from_numpy(noise(128, 160) * np.exp2(rows * noise(128, 1, 1))).to(dtype)


@given(STEPS, st.sampled_from(SHORT))
def test_large_values_come_back_as_they_are_and_small_ones_to_half_a_step(step, dtype):
    w, rungs = weights(dtype, 2.0).reshape(-1), Rungs.at(step, dtype)
    back = rungs.values(rungs.numbers(w))
    large = w.abs() >= rungs.top
    assert large.any() and not large.all()
    assert torch.equal(back[large], w[large])
    ulp = torch.finfo(dtype).eps * w.double().abs() + torch.finfo(dtype).tiny
    assert ((back.double() - w.double()).abs() <= step / 2 + ulp).all()


@given(STEPS, st.sampled_from(SHORT))
def test_rungs_ascend_with_values_and_stand_between_their_positions(step, dtype):
    w, rungs = weights(dtype).reshape(-1).abs().unique(), Rungs.at(step, dtype)
    numbers = rungs.numbers(w)
    assert (np.diff(numbers) >= 0).all()
    heights = rungs.values(numbers).double().numpy() / step
    wide = 1 + 2 * torch.finfo(dtype).eps
    assert (rungs.ladder.positions(numbers - 0.5) <= heights * wide).all()
    assert (heights <= rungs.ladder.positions(numbers + 0.5) * wide).all()


@given(STEPS, st.sampled_from(SHORT))
def test_tables_of_all_words_say_what_formulas_say_of_some(step, dtype):
    w, rungs = weights(dtype, 2.0).reshape(-1), Rungs.at(step, dtype)
    assert np.array_equal(rungs.numbers(w), rungs.numbers_of(words_of(w)))
    histogram = Histogram.of(w, dtype)
    assert histogram.counts.sum() == w.numel() and (histogram.counts > 0).all()
    assert histogram.norm(histogram.values) == pytest.approx(float(w.double().norm()), rel=1e-12)


@pytest.mark.parametrize(("rows", "code"), [(0.0, 4), (2.0, 0)])
def test_many_weights_of_one_size_are_one_run_and_rows_of_many_sizes_have_scales(rows, code):
    w = torch.from_numpy(noise(512, 320) * np.exp2(rows * noise(512, 1, 1))).bfloat16()
    h = compress_matrix(w, 1e-3)
    assert (h.payload[0], h.payload[1]) == (SHORT_FLOATS, code)
    back = HMatrix.from_payload(h.payload, h.shape, h.dtype).to_dense()
    assert float((back.double() - w.double()).norm() / w.double().norm()) == pytest.approx(h.error, rel=1e-9)


def test_positions_are_odd_ascend_and_know_their_numbers():
    ladder = Ladder(200.3, 128)
    edges = np.arange(-2000, 2001) + 0.5
    positions = ladder.positions(edges)
    assert (np.diff(positions) >= 0).all() and np.array_equal(positions, -ladder.positions(-edges))
    assert [round(ladder.rung(float(p)), 6) for p in positions[2300:]] == list(edges[2300:])
    assert EVEN.positions(edges) is edges and EVEN.rung(7.5) == 7.5


@pytest.mark.parametrize("effort", ["default", "max"])
@pytest.mark.parametrize(("dtype", "tol"), [(torch.bfloat16, 1e-3), (torch.bfloat16, 1e-5), (torch.float16, 1e-4)])
def test_near_their_resolution_weights_take_fewer_bytes_than_without_loss(dtype, tol, effort):
    for w in (weights(dtype, 1.0), weights(dtype, 1.0).float()):
        h = compress_matrix(w, tol, effort=effort)
        decoded = HMatrix.from_payload(h.payload, h.shape, h.dtype).to_dense()
        error = float((decoded.double() - w.double()).norm() / w.double().norm())
        assert h.error == pytest.approx(error, rel=1e-9) and 0.9 * tol < error <= tol
        assert h.payload[0] == SHORT_FLOATS and h.nbytes < 0.97 * len(exact.encode(weights(dtype, 1.0)))


def test_a_finer_tolerance_takes_more_bytes_and_none_more_than_without_loss():
    w = weights(torch.bfloat16)
    sizes = [compress_matrix(w, tol).nbytes for tol in (1e-2, 1e-3, 3e-4, 1e-4, 1e-5, 1e-9)]
    assert sizes == sorted(sizes) and sizes[-1] <= len(exact.encode(w)) + 1


def test_pruned_weights_take_their_places_and_what_is_left():
    full, kept = weights(torch.float16), torch.from_numpy(np.random.default_rng(0).random((128, 160)) < 0.25)
    h = compress_matrix(full * kept, 1e-4)
    assert h.payload[0] == SHORT_FLOATS
    assert h.nbytes < 0.25 * compress_matrix(full, 1e-4).nbytes + 0.85 * full.numel() / 8


def test_weights_far_from_their_resolution_are_plain_integers():
    for w, tol in ((weights(torch.bfloat16), 3e-2), (weights(torch.float32), 1e-4), (matrix("noise"), 1e-6)):
        assert compress_matrix(w, tol).payload[0] != SHORT_FLOATS
    assert short_dtype(weights(torch.float32)) is None


def test_an_impossible_step_or_number_is_a_format_error():
    w = weights(torch.float16)
    body = encode(w, Rungs.at(2.0**-10, torch.float16))
    for bad in (b"\0\0\0\0", b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\0\0\x80\x44"):  # 0, nan, inf, 1024
        with pytest.raises(FormatError, match="step"):
            decode(body[:1] + bad + body[5:], (128, 160), torch.float16)
    with pytest.raises(FormatError, match="at most 7 is possible"):
        decode(b"\x08" + body[1:], (128, 160), torch.float16)
    with pytest.raises(FormatError, match="too large"):
        Rungs.at(2.0**-10, torch.float16).values(np.array([1 << 20]))
