"""Claims about damaged payloads: a FormatError or a matrix of the right shape, in little time and memory."""

import contextlib
import time
import tracemalloc
import warnings
from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest
import torch
from hmatrix_matrices import greens, kernel, matrix

from hmcompress.coding.buffer import Writer
from hmcompress.coding.lossless import zstd_compress
from hmcompress.errors import FormatError
from hmcompress.hmatrix import HMatrix, compress_matrix

MUTATIONS = 300
# name: (matrix, effort, tol), chosen so that every codec, leaf and stream is met.
SOURCES = {
    "plain": ("noise", "fast", 1e-2),
    "scales": ("lstm gates", "default", 1e-3),
    "low rank": ("rank 3", "default", 1e-3),
    "tree": ("kernel", "default", 1e-4),
    "repeats": ("repeated", "default", 1e-3),
    "reweighted": ("dead neurons", "default", 1e-2),
    "basis": ("smooth head", "default", 1e-2),
    "trellis": ("noise", "max", 1e-2),
    "lattice": ("whole numbers", "default", 1e-7),
    "lossless": ("noise", "default", 1e-12),
    "interpolated": ("green", "default", 1e-3),
    "zeros": ("zeros", "default", 1e-2),
    "digits": ("few", "default", 1e-2),
    "short floats": ("short", "default", 3e-4),
    "pruned short floats": ("pruned", "default", 3e-4),
    "copied": ("rotated", "default", 1e-2),
    "copied diagonals": ("antisymmetric", "default", 1e-2),
}


@cache
def source(name: str) -> HMatrix:
    what, effort, tol = SOURCES[name]
    special = {
        "kernel": lambda: kernel("distance", 160),
        "zeros": lambda: torch.zeros(40, 40),
        "few": lambda: matrix("noise")[:5, :9],
        "green": greens,
        "rotated": lambda: torch.cat([matrix("noise"), -matrix("noise").flip(0, 1), matrix("noise").roll(9, 1)]),
        "antisymmetric": lambda: matrix("noise")[:48, :48].tril(-1) - matrix("noise")[:48, :48].tril(-1).T,
        "short": lambda: matrix("noise", torch.bfloat16),
        "pruned": lambda: matrix("noise", torch.bfloat16) * (matrix("noise").roll(9, 1) > 0.5),
    }
    return compress_matrix(special.get(what, lambda: matrix(what))(), tol, effort=effort)


def mutations(payload: bytes, count: int) -> Iterator[bytes]:
    """Seeded truncations, flips, overwritten, inserted and removed runs; most of them near the start."""
    random = np.random.default_rng(len(payload))
    for i in range(count):
        out, at = bytearray(payload), int(len(payload) * random.random() ** 4)
        run = random.integers(0, 256, random.integers(1, 7)).astype(np.uint8).tobytes()
        if i % 5 == 0:
            out = out[:at]
        elif i % 5 == 1:
            out[at] ^= 1 << random.integers(8)
        elif i % 5 == 2:
            out[at : at + len(run)] = run
        elif i % 5 == 3:
            out[at:at] = run
        else:
            del out[at : at + len(run)]
        yield bytes(out)


def decode(payload: bytes, h: HMatrix) -> None:
    """Decode to the end; every FormatError has one line."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # damaged numbers may overflow
        try:
            decoded = HMatrix.from_payload(payload, h.shape, h.dtype)
            assert decoded.to_dense().shape == h.shape
            assert (decoded @ torch.ones(h.shape[1])).shape == h.shape[:1]
        except FormatError as error:
            assert str(error) and "\n" not in str(error)


@pytest.mark.parametrize("name", SOURCES)
def test_damage_is_a_format_error_or_harmless(name):
    h = source(name)
    for bad in mutations(h.payload, MUTATIONS):
        start = time.perf_counter()
        decode(bad, h)
        assert time.perf_counter() - start < 5


@pytest.mark.parametrize("name", SOURCES)
def test_damage_takes_at_most_twice_the_memory_of_the_honest_payload(name):
    h = source(name)
    honest = peak_memory(h, [h.payload])
    assert peak_memory(h, mutations(h.payload, 60)) < 2 * honest + 1_000_000


def peak_memory(h: HMatrix, payloads) -> int:
    tracemalloc.start()
    try:
        for payload in payloads:
            decode(payload, h)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", SOURCES)
def test_every_truncation_is_noticed_or_harmless(name):
    h = source(name)
    for stop in range(0, min(len(h.payload), 60)):
        decode(h.payload[:stop], h)


def test_random_bytes_are_no_payload():
    random = np.random.default_rng(0)
    h = source("zeros")
    for codec in range(15):
        for _ in range(40):
            decode(bytes([codec]) + random.integers(0, 256, random.integers(0, 80)).astype(np.uint8).tobytes(), h)


def test_a_tree_larger_than_its_layer_allows_is_refused_before_it_is_expanded():
    size = 1 << 24
    bomb = b"\x01" + bytes(6) + Writer().uint(size).section(zstd_compress(bytes(size), 3)).getvalue()
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match="at most"):
            HMatrix.from_payload(bomb, (64, 64), torch.float32)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_copy_of_a_block_that_is_not_there_is_a_format_error():
    for code in (5, 6):
        for source_node in (0, 1, 1000):
            structure = Writer().uint(0).uint(code).uint(source_node).getvalue()
            payload = b"\x01" + bytes(6) + Writer().uint(len(structure)).section(structure).getvalue()
            with contextlib.suppress(FormatError):
                HMatrix.from_payload(payload, (64, 64), torch.float32)
                pytest.fail("a copy of nothing was decoded")
