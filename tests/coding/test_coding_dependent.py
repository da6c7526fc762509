"""Claims about dependent quantisation: what the decoder gets, how far it is off, and what it costs."""

import contextlib

import numpy as np
import pytest
from coding_integers import damaged

from hmcompress.coding.classes import class_of
from hmcompress.coding.dependent import (
    DISTORTION,
    SILENT_CLASS,
    TOP_CLASS,
    Model,
    decode_dependent,
    encode_dependent,
    own_shape,
    quantize,
)
from hmcompress.coding.viterbi import MEMORIES, Trellis
from hmcompress.errors import FormatError


def numbers(n: int, scale: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(n) * scale


def coded(x: np.ndarray, e: np.ndarray, memory: int = 6) -> tuple[np.ndarray, bytes]:
    model, trellis = Model(own_shape(x, e)), Trellis(memory)
    v = quantize(x, e, model, trellis)
    assert v is not None
    return v, encode_dependent(v, e, model, trellis)


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("scale", [1.0, 20.0, 3000.0])
def test_integers_come_back(memory, scale):
    for n in (1, 17, 5000):
        e = class_of(scale)[None]
        v, data = coded(numbers(n, scale), e, memory)
        np.testing.assert_array_equal(decode_dependent(data, e, n), v)


def test_integers_of_mixed_classes_come_back_and_silent_ones_are_zero():
    e = np.random.default_rng(0).integers(SILENT_CLASS - 3, 40, 4000).astype(np.int16)
    v, data = coded(numbers(4000, 1.0) * 2.0 ** (e / 4), e)
    np.testing.assert_array_equal(decode_dependent(data, e, 4000), v)
    assert not v[e <= SILENT_CLASS].any()


def test_no_number_is_off_by_more_than_two_steps():
    x = numbers(20000, 100.0)
    v, _ = coded(x, class_of(100.0)[None])
    assert np.abs(v - x).max() <= 2


@pytest.mark.parametrize("scale", [200.0, 2000.0])
def test_mean_square_error_is_what_the_step_search_assumes(scale):
    x = numbers(200000, scale)
    v, _ = coded(x, class_of(scale)[None])
    assert np.mean((v - x) ** 2) == pytest.approx(DISTORTION, rel=0.01)


@pytest.mark.parametrize("scale", [8.0, 50.0, 500.0])
def test_rate_is_within_seven_hundredths_of_a_bit_of_the_gaussian_limit(scale):
    """Rounding loses 0.2546; the trellis is to lose much less."""
    x = numbers(400000, scale)
    v, data = coded(x, class_of(scale)[None])
    limit = np.log2(scale / np.sqrt(np.mean((v - x) ** 2)))
    assert limit < 8 * len(data) / x.size < limit + 0.07


@pytest.mark.parametrize("e", [TOP_CLASS + 1, 160])
def test_a_class_beyond_the_last_is_a_format_error(e):
    with pytest.raises(FormatError, match="scale"):
        decode_dependent(b"\x06", np.array([e]), 3)


def test_numbers_beyond_their_class_are_declined():
    e = np.array([4])
    model = Model(own_shape(numbers(100, 2.0), e))
    assert quantize(np.array([1e9]), e, model, Trellis()) is None


def test_damage_is_a_format_error_or_harmless():
    e = np.random.default_rng(0).choice([-2, 9, 30, 44], 2000).astype(np.int16)
    _, data = coded(numbers(2000, 1.0) * 2.0 ** (e / 4), e)
    for bad in damaged(data, 300):
        with contextlib.suppress(FormatError):
            decode_dependent(bad, e, 2000)
