"""Claims about arrays without loss: every bit comes back, by the smallest of the coders."""

import numpy as np
import pytest
from coding_integers import SETTINGS
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

import hmcompress.coding.lossless as lossless
from hmcompress.coding.lossless import PCODEC, PLANES, RAW, ZSTD, decode_array, encode_array, zstd_compress
from hmcompress.errors import FormatError

DTYPES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?")
FLOATS = ("f2", "f4", "f8")


def assert_round_trip(a: np.ndarray, effort: str = "default") -> bytes:
    data = encode_array(a, effort)
    back = decode_array(data, a.dtype, a.size)
    assert back.dtype == a.dtype and back.tobytes() == np.ascontiguousarray(a).tobytes()
    return data


def low_entropy_exponents(n: int = 20000) -> np.ndarray:
    """Few exponents and low bits that repeat: bytes of one plane resemble each other, whole words do not."""
    random = np.random.default_rng(0)
    words = random.integers(0, 1 << 16, n).astype(np.uint32) << 8 | 0x3F << 24 | np.arange(n).astype(np.uint32) % 3
    return words.view(np.float32)


SAMPLES = {
    "zeros": np.zeros(1000, np.float32),
    "noise": np.random.default_rng(0).standard_normal(1000).astype(np.float32),
    "words": np.random.default_rng(0).integers(0, 2**64, 1000, np.uint64),
    "ramp": np.arange(5000, dtype=np.int64),
    "text": np.frombuffer(b"the same words again " * 200, np.uint8),
    "planes": low_entropy_exponents(),
}


@SETTINGS
@given(st.sampled_from(DTYPES).flatmap(lambda t: arrays(t, array_shapes(min_side=0, max_side=12, max_dims=3))))
def test_any_array_comes_back_bit_for_bit(a):
    for effort in ("fast", "default"):
        assert_round_trip(a, effort)


@pytest.mark.parametrize("effort", ["fast", "default", "max"])
@pytest.mark.parametrize("name", SAMPLES)
def test_samples_come_back_at_every_effort(name, effort):
    assert_round_trip(SAMPLES[name], effort)


@pytest.mark.parametrize("dtype", FLOATS)
def test_nan_payloads_signed_zeros_and_subnormals_come_back(dtype):
    a = np.random.default_rng(1).integers(0, 256, 8000, np.uint8).view(dtype)
    assert_round_trip(a)
    assert_round_trip(np.repeat(np.array([0.0, -0.0, np.inf, -np.inf, np.nan], dtype), 99))


def test_array_in_any_memory_order_is_taken_row_by_row():
    a = np.arange(60, dtype=np.float32).reshape(6, 10)
    assert encode_array(a.T) == encode_array(np.ascontiguousarray(a.T))


@pytest.mark.parametrize(("name", "code"), [("words", RAW), ("ramp", PCODEC), ("text", ZSTD), ("planes", PLANES)])
def test_every_code_is_the_smallest_somewhere(name, code):
    assert encode_array(SAMPLES[name])[0] == code


@pytest.mark.parametrize("name", SAMPLES)
def test_never_more_than_one_byte_longer_than_the_array(name):
    assert len(encode_array(SAMPLES[name])) <= SAMPLES[name].nbytes + 1


def test_byte_planes_are_smaller_than_whole_words_where_exponents_are_few():
    a = SAMPLES["planes"]
    assert len(encode_array(a)) < 0.95 * len(zstd_compress(a.tobytes(), 3))


@pytest.mark.parametrize("name", SAMPLES)
def test_same_array_makes_the_same_bytes(name):
    assert encode_array(SAMPLES[name]) == encode_array(SAMPLES[name].copy())


@pytest.mark.parametrize("data", [b"", b"\x09abc", b"\x00abc", b"\x01abc", b"\x02abc", b"\x03abc"])
def test_what_is_no_array_is_a_format_error(data):
    with pytest.raises(FormatError, match="damaged"):
        decode_array(data, np.float32, 4)


@pytest.mark.parametrize("code", [ZSTD, PLANES])
def test_a_frame_that_claims_another_size_is_refused_before_it_is_expanded(code):
    bomb = bytes([code]) + zstd_compress(bytes(1 << 24), 19)
    with pytest.raises(FormatError, match="does not state"):
        decode_array(bomb, np.float32, 1000)


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("change", [-1, 1])
def test_another_count_is_a_format_error(name, change):
    a = SAMPLES[name]
    with pytest.raises(FormatError):
        decode_array(encode_array(a), a.dtype, a.size + change)


def test_many_bytes_that_repeat_far_apart_are_coded_at_the_highest_level():
    random = np.random.default_rng(0)
    words = random.integers(0, 1 << 16, 400).astype(np.uint16)
    a = words[random.integers(0, 40, 4000)[:, None] * 10 + np.arange(10)].repeat(30, 0).reshape(-1)
    assert len(assert_round_trip(a)) <= len(zstd_compress(a.tobytes(), 19)) + 1 < len(zstd_compress(a.tobytes(), 3))


def test_what_is_hopelessly_larger_than_another_form_is_not_made_the_smallest(monkeypatch: pytest.MonkeyPatch) -> None:
    levels = list[int]()
    compress = lossless.zstd_compress
    monkeypatch.setattr(lossless, "zstd_compress", lambda data, level: levels.append(level) or compress(data, level))
    a = np.tile(np.random.default_rng(0).integers(0, 9, 4096), 8)
    smallest = lossless.encode_array(a)
    assert max(levels) == 19
    levels.clear()
    assert lossless.encode_array(a, known=len(smallest) + 1) == smallest
    assert max(levels) == 19
    levels.clear()
    assert np.array_equal(lossless.decode_array(lossless.encode_array(a, known=8), a.dtype, a.size), a)
    assert max(levels) < 19
