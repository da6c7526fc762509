"""Claims about small groups of codes: scales are found from divisors, and scales of scales too."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from hmcompress.coding.buffer import Reader, Writer
from hmcompress.errors import FormatError
from hmcompress.hmatrix import HMatrix, compress_matrix
from hmcompress.hmatrix.patterns import group_codes, lattice
from hmcompress.hmatrix.patterns.divisors import by_divisor, may_divide
from hmcompress.hmatrix.patterns.scaled_codes import HALF, Precision

SHAPE = (128, 512)
FLOAT4 = torch.tensor([-6, -4, -3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 6])


def weights() -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(3))


def signed(bits: int, scale_bits: int) -> Tensor:
    """Codes of groups of 16 times a short whole number, times a scale of 16 of these (Q6_K, Q3_K)."""
    x = weights().reshape(-1, 16, 16)
    scales = x.gather(2, x.abs().argmax(2, keepdim=True)) / -(2 ** (bits - 1))
    top = 2 ** (scale_bits - 1)
    outer = (scales.abs().amax(1, keepdim=True) / top).half().float()
    scales = (scales / outer).round().clamp(-top, top - 1) * outer
    codes = (x / torch.where(scales == 0, 1, scales)).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return (codes * scales).reshape(SHAPE)


def above(bits: int) -> Tensor:
    """Codes of groups of 32 times a short number less another one, each times a scale of 8 of these (Q4_K)."""
    x = weights().reshape(-1, 8, 32)
    low = x.amin(2, keepdim=True).clamp(max=0)
    scales, low = (x.amax(2, keepdim=True) - low) / (2**bits - 1), -low
    outer, outer_low = ((part.amax(1, keepdim=True) / 63).half().float() for part in (scales, low))
    scales, low = (scales / outer).round() * outer, (low / outer_low).round() * outer_low
    return (((x + low) / scales).round().clamp(0, 2**bits - 1) * scales - low).reshape(SHAPE)


def float4() -> Tensor:
    """4-bit floats of groups of 16 times an 8-bit float, times a scale of the whole (NVFP4)."""
    x = weights().reshape(-1, 16)
    whole = x.abs().max() / (448 * 6)
    scales = (x.abs().amax(1, keepdim=True) / 6 / whole).to(torch.float8_e4m3fn).float() * whole
    return (FLOAT4[((x / scales)[..., None] - FLOAT4).abs().argmin(-1)] * scales).reshape(SHAPE)


def rows_of(group: int, top: int) -> Tensor:
    """float64 codes of groups times their scale."""
    x = weights().double().reshape(-1, group)
    scales = x.abs().amax(1, keepdim=True) / top
    return ((x / scales).round() * scales).reshape(SHAPE)


MADE: dict[str, tuple[Callable[[], Tensor], float]] = {  # bits a weight
    "6 bits": (lambda: signed(6, 8), 6.4),
    "3 bits": (lambda: signed(3, 6), 3.4),
    "4 bits above an offset": (lambda: above(4), 4.5),
    "5 bits above an offset": (lambda: above(5), 5.5),
    "4-bit floats": (float4, 4.3),
    "4-bit floats in float16": (lambda: float4().half(), 4.8),
    "8 bits in float64": (lambda: rows_of(512, 127), 7.6),
    "4 bits in float64": (lambda: rows_of(64, 7), 4.0),
}


@pytest.mark.parametrize("name", MADE)
def test_codes_of_small_groups_cost_what_they_and_their_scales_are(name):
    make, bits = MADE[name]
    w = make()
    found = compress_matrix(w, 1e-4)
    decoded = HMatrix.from_payload(found.payload, found.shape, found.dtype).to_dense()
    assert found.payload[0] == 3 and found.error <= 1e-6
    assert float((decoded.double() - w.double()).norm() / w.double().norm()) == pytest.approx(found.error, rel=1e-4)
    assert 8 * found.nbytes < bits * w.numel()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_noise_has_no_divisor(dtype):
    x = weights().to(dtype)
    assert not any(may_divide(row.float().numpy(), HALF[dtype]) for row in x)
    assert by_divisor(x.double().numpy().reshape(-1, 16), Precision.of(dtype)) is None


def test_zeros_have_no_divisor_that_tells_anything():
    assert not may_divide(np.zeros(64, np.float32), HALF[torch.float32])


def scales_of(body: bytes) -> bytes:
    stream = Reader(body)
    for _ in range(3):
        stream.uint()
    stream.sint()
    return stream.section()


def with_scales(body: bytes, scales: bytes) -> bytes:
    """The same body with another section of scales."""
    stream, out = Reader(body), Writer()
    for _ in range(3):
        out.uint(stream.uint())
    out.sint(stream.sint()).section(scales)
    stream.section()
    return out.raw(stream.rest()).getvalue()


def test_scales_that_are_nested_twice_or_of_another_size_are_a_format_error():
    body = min((body for body, _ in group_codes.find(signed(6, 8))), key=len)
    nested = scales_of(body)
    assert nested[0] == 16 and lattice.decode(b"\6" + body, SHAPE, torch.float32).to_dense().shape == SHAPE
    twice = with_scales(body, b"\x10" + with_scales(nested[1:], nested))
    with pytest.raises(FormatError, match="twice"):
        lattice.decode(b"\6" + twice, SHAPE, torch.float32)
    with pytest.raises(FormatError):
        lattice.decode(b"\6" + with_scales(body, scales_of(nested[1:])), SHAPE, torch.float32)
    with pytest.raises(FormatError):
        lattice.decode(b"\6" + with_scales(body, b"\x10"), SHAPE, torch.float32)
