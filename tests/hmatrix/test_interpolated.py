"""Claims about the codec that predicts a matrix from its own coarser grid."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hmatrix_matrices import greens
from hypothesis import given
from hypothesis import strategies as st

from hmcompress.errors import FormatError
from hmcompress.hmatrix import compress_matrix
from hmcompress.hmatrix.codecs import INTERPOLATED
from hmcompress.hmatrix.patterns.grid_prediction import SCHEMES, bands, walk
from hmcompress.hmatrix.patterns.interpolated import FINER, Interpolator, decode, interpolator, read

SIDES = st.integers(1, 40)


def surface(m: int, n: int) -> np.ndarray:
    y, x = np.mgrid[0 : 1 : m * 1j, 0 : 1 : n * 1j]
    return np.sin(5 * x + 3 * y) + x * y


@given(SIDES, SIDES, st.sampled_from(SCHEMES))
def test_bands_cover_every_point_once(m, n, scheme):
    seen = np.zeros((m, n), int)
    for band in bands((m, n), scheme.axes):
        band.view(seen)[band.points] += 1
        assert band.size((m, n)) == band.view(seen)[band.points].size
    assert (seen == 1).all()


@given(SIDES, SIDES, st.sampled_from(SCHEMES))
def test_a_walk_that_takes_the_truth_gives_it_back(m, n, scheme):
    a = surface(m, n)
    assert np.array_equal(walk((m, n), scheme, lambda band, _: band.view(a)[band.points]), a)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("finer", range(len(FINER)))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_decoded_values_are_those_that_were_measured(scheme, finer, dtype):
    w = torch.from_numpy(surface(37, 53)).to(dtype)
    values = w.numpy() if dtype in (torch.float64, torch.float32) else w.float().numpy()
    coder, step = Interpolator(values, dtype, scheme, finer), float(np.float32(1e-3))
    body = decode(coder.encode(step), (37, 53), dtype)
    assert torch.equal(body.to_dense(), coder.decoded(step))
    rounding = torch.finfo(dtype).eps * 2
    assert (body.to_dense().double() - w.double()).abs().max() <= 0.5 * step + rounding


@given(SIDES, SIDES, st.sampled_from(SCHEMES), st.sampled_from([0, 1]), st.data())
def test_any_rows_can_be_had_without_the_others(m, n, scheme, finer, data):
    """To the bit: what was measured is what is decoded, whichever way."""
    values = surface(m, n) + np.random.default_rng(0).standard_normal((m, n)) * data.draw(st.sampled_from([0, 0.1]))
    coder, step = Interpolator(values, torch.float64, scheme, finer), 2.0**-5
    begin = data.draw(st.integers(0, m - 1))
    end = data.draw(st.integers(begin, m))
    rows = read(coder.encode(step), (m, n)).rows(begin, end)
    assert np.array_equal(rows, coder.decoded(step).numpy()[begin:end])


@pytest.mark.parametrize(("norm", "tol"), [("fro", 1e-2), ("fro", 1e-4), ("max", 1e-3)])
def test_a_kink_along_the_diagonal_is_for_prediction(tol, norm):
    h = compress_matrix(greens(320), tol, norm)
    assert h.error <= tol
    assert h.nbytes < 320 * 320 * 4 / 700
    if norm == "fro" and tol == 1e-4:
        assert h.payload[0] == INTERPOLATED


def test_the_whole_matrix_says_whether_lines_or_cubics_suit_it():
    """Its middle is where the edge is, and suits lines."""
    y, x = np.mgrid[0:1:512j, 0:1:512j]
    w, step = (np.sin(5 * x + 3 * y * y) + (x + 0.7 * y > 0.8)).astype(np.float32), 1e-3
    coder = interpolator(w, torch.float32, step, w.nbytes)
    lines = Interpolator(w, torch.float32, replace(coder.scheme, cubic=False), coder.finer)
    assert coder.scheme.cubic and len(coder.encode(step)) < 0.6 * len(lines.encode(step))


def test_noise_is_not_predicted():
    w = torch.randn(128, 128, generator=torch.Generator().manual_seed(0))
    assert compress_matrix(w, 1e-2).payload[0] != INTERPOLATED


def test_an_impossible_scheme_or_step_is_a_format_error():
    body = Interpolator(surface(40, 50), torch.float64, SCHEMES[0], 0).encode(1e-2)
    assert decode(body, (40, 50), torch.float64).to_dense().shape == (40, 50)
    for bad in (b"\0\0\0\0", b"\0\0\xc0\x7f"):  # 0 and nan
        with pytest.raises(FormatError, match="step"):
            decode(bad + body[4:], (40, 50), torch.float64)
    with pytest.raises(FormatError):
        decode(body[:4] + b"\x7f" + body[5:], (40, 50), torch.float64)
