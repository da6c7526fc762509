"""Claims about lines that take few values of their own: these are listed to the tolerance, and where each stands."""

import numpy as np
import pytest
import torch
from hmatrix_matrices import noise
from torch import Tensor

from hmcompress.errors import FormatError
from hmcompress.hmatrix import HMatrix, compress_matrix
from hmcompress.hmatrix.codecs import LISTED
from hmcompress.hmatrix.codecs import decode_payload as decode
from hmcompress.hmatrix.patterns.listed import Lists, find_lists, from_lists

SHAPE = (128, 512)


def clustered(count: int = 16) -> Tensor:
    """Rows of which each takes its own quantiles."""
    x = np.sort(noise(*SHAPE), axis=1)
    values = x[:, :: SHAPE[1] // count] + 0.01 * noise(SHAPE[0], count)
    places = np.random.default_rng(1).integers(0, count, SHAPE)
    return torch.from_numpy(np.take_along_axis(values, places, 1)).float()


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    ("tol", "norm", "dtype"),
    [
        *[(1e-2, "fro", dtype) for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)],
        (1e-4, "fro", torch.float32),
        (1e-3, "max", torch.float32),
    ],
)
def test_rows_or_columns_of_16_values_cost_4_bits_an_entry_and_their_values(tol, norm, dtype, transposed):
    w = (clustered().T.contiguous() if transposed else clustered()).to(dtype)
    found = compress_matrix(w, tol, norm)
    decoded = HMatrix.from_payload(found.payload, found.shape, found.dtype).to_dense()
    assert found.payload[0] == LISTED and found.error <= tol and torch.equal(decoded, found.to_dense())
    assert 8 * found.nbytes < (4 + 16 / 512 * 16) * w.numel() + 512


def test_lists_give_back_every_value():
    for w in (clustered(8), clustered(32).T.contiguous()):
        found = find_lists(w)
        assert torch.equal(from_lists(found.values, found.index, found.transposed), w)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_noise_and_values_that_are_not_finite_have_no_lists(dtype):
    assert find_lists(torch.from_numpy(noise(*SHAPE)).to(dtype)) is None
    w = clustered().to(dtype)
    w[3, 4] = torch.inf
    assert find_lists(w) is None


def test_a_layer_of_few_values_in_all_stays_without_loss():
    w = torch.from_numpy(noise(1, 16)[0]).float()[torch.from_numpy(np.random.default_rng(1).integers(0, 16, SHAPE))]
    assert compress_matrix(w, 1e-2).error == 0


def test_lists_that_do_not_fit_are_a_format_error():
    payload = compress_matrix(clustered(), 1e-2).payload
    assert decode(payload, SHAPE, torch.float32).to_dense().shape == SHAPE
    for damaged in (payload[:1] + b"\2" + payload[2:], payload[:1] + b"\1" + payload[2:], payload[:40], payload[:1]):
        with pytest.raises(FormatError):
            decode(damaged, SHAPE, torch.float32).to_dense()
    with pytest.raises(FormatError):
        decode(payload, (SHAPE[0], SHAPE[1] + 1), torch.float32).to_dense()


def test_lists_that_cannot_take_fewer_bytes_are_not_coded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a sparse matrix each line takes few values, but these cost more than what knows that most are zero."""
    begun, places = [], torch.rand(SHAPE, generator=torch.Generator().manual_seed(2)) < 0.02
    monkeypatch.setattr(Lists, "head", lambda self: begun.append(self))
    assert compress_matrix(torch.from_numpy(noise(*SHAPE)) * places, 1e-2).nbytes < 3200
    assert not begun
