"""Lines that are sinusoids of any frequency take a few numbers each; what is none is coded as before."""

import pytest
import torch

from hmcompress.coding.buffer import Writer
from hmcompress.coding.streams import encode_ints
from hmcompress.errors import FormatError
from hmcompress.hmatrix import HMatrix, compress_matrix, measure_error
from hmcompress.hmatrix.codecs import SINUSOIDS
from hmcompress.hmatrix.patterns.sinusoids import find_sinusoids


def encodings(n: int, width: int) -> torch.Tensor:
    """Sines and cosines of places (n, width), as transformers add them to their inputs."""
    angles = torch.outer(torch.arange(n).float(), 10000 ** (-torch.arange(0, width, 2).float() / width))
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)


def rotary(n: int, width: int) -> torch.Tensor:
    """The cache of cosines of a rotary embedding, each frequency twice."""
    angles = torch.outer(torch.arange(n).float(), 10000 ** (-torch.arange(0, width, 2).float() / width))
    return torch.cat([angles, angles], 1).cos()


@pytest.mark.parametrize("tol", [1e-1, 1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize(
    "w", [encodings(384, 200), encodings(384, 200).T, rotary(512, 64), encodings(100, 64).double()]
)
def test_they_take_a_few_bytes_a_line_and_keep_the_bound(w, tol):
    h = compress_matrix(w, tol)
    back = HMatrix.from_payload(h.payload, tuple(w.shape), w.dtype).to_dense()
    assert h.payload[0] == SINUSOIDS and h.nbytes < 5 * min(w.shape) + 60
    assert back.dtype == w.dtype and measure_error(w, back)[0] == h.error <= tol


@pytest.mark.parametrize("norm", ["max", "spectral"])
def test_other_norms_are_kept_too(norm):
    w = encodings(384, 200)
    h = compress_matrix(w, 1e-2, norm)
    assert measure_error(w, h.to_dense(), norm)[0] <= 1e-2 and h.nbytes < 1200


def test_numbers_of_16_bits_and_lines_that_are_zero():
    w = encodings(512, 64)
    w[:, 8:12] = 0
    h = compress_matrix(w.bfloat16(), 2e-2)
    assert h.payload[0] == SINUSOIDS and h.nbytes < 400 and h.error <= 2e-2


@pytest.mark.parametrize("size", [1e-30, 1e-5, 1e5])
def test_any_size_serves(size):
    h = compress_matrix(encodings(128, 64).double() * size, 1e-2)
    assert h.error <= 1e-2 and h.nbytes < 20000


@pytest.mark.parametrize(
    "w",
    [
        torch.randn(256, 200, generator=torch.Generator().manual_seed(0)),
        encodings(256, 64) + 0.1 * torch.randn(256, 64, generator=torch.Generator().manual_seed(0)),
        torch.cat([encodings(256, 64), torch.randn(256, 1, generator=torch.Generator().manual_seed(0))], 1),
        torch.full((64, 64), float("nan")),
        torch.zeros(64, 64),
        encodings(16, 16),
    ],
)
def test_what_is_none_is_not_taken_for_one(w):
    found = find_sinusoids(w, 1e-3)
    assert found is None or torch.equal(w, torch.zeros_like(w))


def test_fast_does_not_look_for_them():
    assert compress_matrix(encodings(384, 200), 1e-2, effort="fast").payload[0] != SINUSOIDS


def payload(
    transposed: int = 0, steps: tuple[float, float] = (0.1, 0.1), counts: tuple[int, ...] = (40, 40, 40)
) -> bytes:
    out = Writer().raw(bytes([SINUSOIDS])).uint(transposed).step(steps[0]).step(steps[1])
    for count in counts:
        out.section(encode_ints(torch.arange(count).numpy()))
    return out.getvalue()


@pytest.mark.parametrize(
    "data", [payload(2), payload(counts=(40, 40)), payload(counts=(40, 40, 39)), payload() + b"x", payload()[:9]]
)
def test_damage_is_a_format_error(data):
    with pytest.raises(FormatError):
        HMatrix.from_payload(data, (64, 40), torch.float32)


def test_absurd_numbers_decode_without_a_warning():
    HMatrix.from_payload(payload(steps=(3e38, 3e38)), (64, 40), torch.float32).to_dense()
