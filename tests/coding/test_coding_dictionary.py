"""Claims about LZMA: it serves where integers repeat, gives them back, and damaged streams are refused."""

import numpy as np
import pytest

from hmcompress.coding import dictionary, streams
from hmcompress.coding.dictionary import lzma_compress, lzma_decompress
from hmcompress.coding.lossless import zstd_compress
from hmcompress.coding.streams import LZMA, decode_ints, encode_ints
from hmcompress.errors import FormatError


def words(count: int = 4000, largest: int = 900) -> np.ndarray:
    """Vectors of 8 out of a codebook of 64."""
    rng = np.random.default_rng(2)
    return rng.integers(-largest, largest, (64, 8))[rng.integers(0, 64, count)].reshape(-1)


@pytest.mark.parametrize("largest", [90, 900, 90_000])
def test_vectors_of_a_codebook_are_shorter_by_lzma_and_come_back(largest):
    q = words(largest=largest)
    data = encode_ints(q, "max")
    assert data[0] // 4 == LZMA and len(data) < 0.95 * len(zstd_compress(q.astype(np.int32), 19))
    assert np.array_equal(decode_ints(data, q.size), q)


def test_noise_is_not_given_to_lzma(monkeypatch):
    monkeypatch.setattr(streams, "lzma_compress", lambda *_: pytest.fail("tried"))
    rng = np.random.default_rng(1)
    for spread in (3, 60, 4000):
        encode_ints(np.rint(rng.standard_normal(20_000) * spread).astype(int), "max")


@pytest.mark.parametrize("width", [1, 2, 4, 8])
@pytest.mark.parametrize("size", [0, 8, 4096, 100_000])
def test_bytes_come_back_and_no_more_of_them_than_expected_are_taken(width, size):
    data = (b"abcdefgh" * (size // 8 + 1))[:size]
    body = lzma_compress(data, width)
    assert lzma_decompress(body, size) == data
    for wrong in {size + 1, max(size - 1, 0)} - {size}:
        with pytest.raises(FormatError):
            lzma_decompress(body, wrong)


def test_damaged_streams_are_format_errors():
    body = lzma_compress(words().astype(np.int16).tobytes(), 2)
    size = 2 * words().size
    for damaged in (
        body[:-1],
        body + b"\0",
        body[: len(body) // 2],
        b"",
        b"\xff" + body[1:],
        bytes([body[0] ^ 0x10]) + body[1:],
    ):
        with pytest.raises(FormatError):
            lzma_decompress(damaged, size)


def test_a_python_without_lzma_writes_zstd_and_says_what_it_cannot_read(monkeypatch):
    with_lzma = encode_ints(words(), "max")
    monkeypatch.setattr(streams, "AVAILABLE", False)
    monkeypatch.setattr(dictionary, "AVAILABLE", False)
    data = encode_ints(words(), "max")
    assert data[0] // 4 != LZMA and np.array_equal(decode_ints(data, words().size), words())
    with pytest.raises(FormatError, match="without"):
        decode_ints(with_lzma, words().size)
