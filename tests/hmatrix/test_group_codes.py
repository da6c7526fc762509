"""Claims about dequantised weights: codes and scales are found, they give back every bit, and cost what codes cost."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hmcompress.errors import FormatError
from hmcompress.hmatrix import HMatrix, compress_matrix
from hmcompress.hmatrix.patterns import group_codes, lattice, scaled_codes

SHAPE = (128, 512)


def weights(shape: tuple[int, int] = SHAPE) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3)) * 0.02


def symmetric(group: int, top: int, scale: torch.dtype, dtype: torch.dtype) -> Tensor:
    """Whole numbers up to `top` times a scale by group of a row."""
    x = weights().reshape(-1, group)
    s = (x.abs().amax(1, keepdim=True) / top).to(scale).float()
    return ((x / s).round().clamp(-top, top).to(dtype) * s.to(dtype)).reshape(SHAPE)


def zero_point(dtype: torch.dtype) -> Tensor:
    """4-bit codes of groups of 128, less a whole zero point, times a scale (GPTQ)."""
    x = weights().reshape(-1, 128)
    low, high = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
    s = ((high - low) / 15).half().float()
    zero = (-low / s).round()
    return (((x / s + zero).round().clamp(0, 15) - zero).to(dtype) * s.to(dtype)).reshape(SHAPE)


def offset(dtype: torch.dtype) -> Tensor:
    """4-bit codes of groups of 64 times a scale, and an offset."""
    x = weights().reshape(-1, 64)
    low, high = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
    s = (high - low) / 15
    return (((x - low) / s).round() * s + low).to(dtype).reshape(SHAPE)


def quantiles(dtype: torch.dtype) -> Tensor:
    """NF4: one of 16 quantiles times the largest of 64."""
    x, table = weights().reshape(-1, 64), torch.from_numpy(scaled_codes.TABLES[-1]).float()
    largest = x.abs().amax(1, keepdim=True)
    nearest = ((x / largest)[..., None] - table).abs().argmin(-1)
    return (table[nearest] * largest).to(dtype).reshape(SHAPE)


def float8(tile: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """8-bit floats times a scale by tile."""
    (m, n), (a, b) = SHAPE, tile
    x = weights().reshape(m // a, a, n // b, b)
    s = x.abs().amax((1, 3), keepdim=True) / 448
    return ((x / s).to(torch.float8_e4m3fn).float() * s).reshape(SHAPE).to(dtype)


HALVES = (torch.float16, torch.bfloat16)
MADE: dict[str, tuple[Callable[[], Tensor], float]] = {
    "int4 in float16": (lambda: symmetric(128, 7, torch.float16, torch.float16), 3.8),
    "int4 in bfloat16": (lambda: symmetric(128, 7, torch.bfloat16, torch.bfloat16), 3.8),
    "int8 rows in bfloat16": (lambda: symmetric(512, 127, torch.float32, torch.bfloat16), 7.5),
    "int8 columns": (lambda: symmetric(512, 127, torch.float32, torch.float32).T.contiguous(), 7.5),
    "int8 in groups of 32": (lambda: symmetric(32, 127, torch.float16, torch.float32), 8.2),
    "int8 in groups of 32 in float16": (lambda: symmetric(32, 127, torch.float16, torch.float16), 8.2),
    "zero points in float16": (lambda: zero_point(torch.float16), 4.0),
    "zero points": (lambda: zero_point(torch.float32), 4.0),
    "offsets in bfloat16": (lambda: offset(torch.bfloat16), 5.8),
    "NF4": (lambda: quantiles(torch.float32), 4.6),
    "NF4 in bfloat16": (lambda: quantiles(torch.bfloat16), 4.6),
    "float8 rows in bfloat16": (lambda: float8((1, 512), torch.bfloat16), 6.9),
    "float8 tiles in bfloat16": (lambda: float8((128, 128), torch.bfloat16), 6.9),
    "float8 in float32": (lambda: float8(SHAPE, torch.float32), 6.9),
}


@pytest.mark.parametrize("name", MADE)
def test_codes_give_back_every_bit_and_cost_about_what_codes_cost(name):
    make, bits = MADE[name]
    w = make()
    found = compress_matrix(w, 1e-6)
    decoded = HMatrix.from_payload(found.payload, found.shape, found.dtype).to_dense()
    assert found.error == 0 and torch.equal(decoded, w)
    assert 8 * found.nbytes < bits * w.numel()


@pytest.mark.parametrize("name", ["offsets in bfloat16", "NF4 in bfloat16", "float8 rows in bfloat16"])
def test_what_rounding_left_is_not_coded_where_the_tolerance_allows_for_it(name):
    w = MADE[name][0]()
    rough, exact = compress_matrix(w, 4e-3), compress_matrix(w, 1e-6)
    assert rough.nbytes < exact.nbytes and 0 < rough.error <= 4e-3 and rough.method == "hmatrix"


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
def test_noise_has_no_codes(dtype):
    assert not group_codes.find(weights().to(dtype))


def test_a_signed_zero_keeps_its_sign():
    w = symmetric(128, 7, torch.float16, torch.float16)
    w[w == 0] *= -1
    forms = [body for body, exactly in group_codes.find(w) if exactly]
    decoded = lattice.decode(b"\7" + forms[0], SHAPE, w.dtype).to_dense()
    assert torch.equal(torch.signbit(decoded), torch.signbit(w))


def test_groups_that_do_not_fit_are_a_format_error():
    body, _ = group_codes.find(MADE["zero points"][0]())[0]
    with pytest.raises(FormatError, match="do not fit"):
        lattice.decode(b"\7" + b"\3" + body[1:], SHAPE, torch.float32)
    with pytest.raises(FormatError, match="do not fit"):
        lattice.decode(b"\7" + body, SHAPE, torch.float64)
