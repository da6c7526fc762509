"""Speed of the codec on noise: pytest tests/benchmarks/test_speed.py (extra `bench`)."""

import pytest
import torch
from matrices import kernel

from hmcompress.hmatrix import HMatrix, compress_matrix

SIDE = 1024


@pytest.fixture(scope="module")
def noise() -> torch.Tensor:
    torch.set_num_threads(1)
    return kernel("white noise", SIDE)


@pytest.mark.parametrize("effort", ["fast", "default"])
def test_encode_noise(benchmark, noise, effort):
    encoded = benchmark.pedantic(compress_matrix, (noise, 1e-2), {"effort": effort}, rounds=3, warmup_rounds=1)
    benchmark.extra_info["MB/s"] = noise.numel() * 4e-6 / benchmark.stats["mean"]
    assert encoded.error <= 1e-2


@pytest.mark.parametrize("effort", ["fast", "default"])
def test_decode_noise(benchmark, noise, effort):
    payload = compress_matrix(noise, 1e-2, effort=effort).payload
    decoded = benchmark.pedantic(_decode, (payload,), rounds=5, warmup_rounds=1)
    benchmark.extra_info["MB/s"] = noise.numel() * 4e-6 / benchmark.stats["mean"]
    assert decoded.shape == noise.shape


def _decode(payload: bytes) -> torch.Tensor:
    return HMatrix.from_payload(payload, (SIDE, SIDE), torch.float32).to_dense()
