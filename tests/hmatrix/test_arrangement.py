"""Claims about convolutions: kernels that are alike cost less than noise, however they lie; noise costs no search."""

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hmatrix_matrices import DTYPES, noise

import hmcompress.hmatrix.compress as compress
from hmcompress.commands.encoding import encode_layer
from hmcompress.errors import SettingsError
from hmcompress.hmatrix import HMatrix, compress_matrix
from hmcompress.hmatrix.arrangement import are_alike, some_channels, tilings
from hmcompress.hmatrix.basics.measure import reference
from hmcompress.hmatrix.codecs import TILED
from hmcompress.hmatrix.request import Request
from hmcompress.settings.config import LayerRule

KERNEL = 27


def smooth_kernels(outputs: int = 24, inputs: int = 20) -> torch.Tensor:
    """Each kernel is nearly constant: what weight decay leaves of a 3-D convolution."""
    sizes = noise(outputs * inputs, 1) * np.exp(noise(outputs * inputs, 1, 1))
    w = sizes * (1 + 0.1 * noise(outputs * inputs, KERNEL, 2))
    return torch.from_numpy(w.reshape(outputs, -1)).float()


def request(w: torch.Tensor, tol: float = 1e-2, norm: str = "fro", effort: str = "default") -> Request:
    return Request(w, tol, norm, effort, reference(w, norm))


@pytest.mark.parametrize(("dtype", "norm"), [*((dtype, "fro") for dtype in DTYPES), (torch.float32, "max")], ids=str)
def test_error_is_below_tol_and_kernels_that_are_alike_cost_less(dtype, norm):
    w = smooth_kernels(20, 16).to(dtype)
    plain, h = (compress_matrix(w, 3e-2, norm, kernel=k) for k in (1, KERNEL))
    decoded = HMatrix.from_payload(h.payload, h.shape, h.dtype).to_dense().double()
    error = (w.double() - decoded).norm(p=2 if norm == "fro" else torch.inf)
    assert h.payload[0] == TILED and h.nbytes < 0.85 * plain.nbytes
    assert 0.9 * 3e-2 < error / w.double().norm(p=2 if norm == "fro" else torch.inf) <= 3e-2 * (1 + 1e-9)


@pytest.mark.parametrize("effort", ["fast", "default", "max"])
@pytest.mark.parametrize("kernel", [1, 3, 9, KERNEL, KERNEL * 20])
def test_kernels_of_any_size_never_cost_more_than_none(kernel, effort):
    w = smooth_kernels()
    assert compress_matrix(w, 1e-2, effort=effort, kernel=kernel).nbytes <= bytes_without_kernels(effort)


@functools.cache
def bytes_without_kernels(effort):
    return compress_matrix(smooth_kernels(), 1e-2, effort=effort).nbytes


def test_of_a_large_convolution_some_channels_tell(monkeypatch):
    monkeypatch.setattr(compress, "_MANY", 1 << 13)  # a large one takes as long as all tests beside it
    w = smooth_kernels(28, 28)
    assert compress_matrix(w, 3e-2, kernel=KERNEL).nbytes < 0.86 * compress_matrix(w, 3e-2).nbytes


@pytest.mark.parametrize("norm", ["fro", "max"])
def test_some_channels_are_coded_at_the_same_absolute_error(norm):
    whole = request(smooth_kernels(64, 80), norm=norm)
    some = some_channels(whole, KERNEL)
    assert some.w.numel() < whole.w.numel() / 3 and some.w.shape[1] % KERNEL == 0
    entries = (some.w.numel() / whole.w.numel()) ** 0.5 if norm == "fro" else 1.0
    assert some.tol * some.size == pytest.approx(whole.tol * whole.size * entries, rel=1e-6)


def test_channels_of_zeros_tell_nothing_and_do_no_harm():
    w = torch.zeros(64, 64 * KERNEL)
    w[-1, -1] = 1.0
    assert some_channels(request(w), KERNEL).size == 0
    assert compress_matrix(w, 1e-2, kernel=KERNEL).nbytes < 64


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("kernel", [4, 9, KERNEL])
def test_noise_under_scales_of_its_channels_has_no_kernels_that_are_alike(kernel, scaled):
    scales = np.exp(noise(48, 1)) * np.exp(noise(1, 40)).repeat(kernel, 1) if scaled else 1.0
    assert not are_alike(torch.from_numpy(noise(48, 40 * kernel, 3) * scales), kernel)
    assert are_alike(torch.from_numpy(noise(48, 40 * kernel, 3) + noise(48, 40, 4).repeat(kernel, 1)), kernel)


def test_what_is_no_convolution_or_asked_for_otherwise_is_not_rearranged():
    w = smooth_kernels()
    assert tilings(request(w), KERNEL) == [(24, KERNEL), (1, KERNEL)]
    assert tilings(request(w), 3) == [(24, 3)]
    assert tilings(request(w), 1) == tilings(request(w), 540) == tilings(request(w[:1]), KERNEL) == []
    assert tilings(request(w, effort="fast"), KERNEL) == tilings(request(w, norm="spectral"), KERNEL) == []
    assert tilings(replace(request(w), size=0.0), KERNEL) == []


@pytest.mark.parametrize("kernel", [0, -1, 7])
def test_kernels_that_do_not_fill_the_rows_are_a_mistake(kernel):
    with pytest.raises(SettingsError, match=f"kernel is {kernel}: it must divide the 540 columns"):
        compress_matrix(smooth_kernels(), 1e-2, kernel=kernel)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
def test_a_layer_knows_its_kernels(dtype):
    w = smooth_kernels(20, 16).reshape(20, 16, 3, 3, 3).to(dtype)
    rule = LayerRule(match="w", tol=3e-2, norm="fro")
    flat, kernels = (encode_layer("w", x, rule) for x in (w.reshape(20, -1), w))
    assert len(kernels.payload) < 0.85 * len(flat.payload)
    assert 0.9 * 3e-2 < kernels.row.error <= 3e-2
