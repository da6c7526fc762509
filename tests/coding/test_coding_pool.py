"""Claims about pools: integers of known scale come back, and cost about their entropy."""

import numpy as np
import pytest
from coding_integers import SETTINGS, integer_arrays, integers
from hypothesis import given
from hypothesis import strategies as st

from hmcompress.coding.classes import MAX_CLASS, ZERO_CLASS, class_of
from hmcompress.coding.lossless import zstd_compress
from hmcompress.coding.pool import decode_pool, encode_pool
from hmcompress.coding.pool_shapes import price_pool
from hmcompress.coding.streams import encode_noise
from hmcompress.errors import FormatError

EFFORTS = ("fast", "default", "max")


def assert_round_trip(q: np.ndarray, e: np.ndarray, effort: str) -> bytes:
    data = encode_pool(q, e, effort)
    np.testing.assert_array_equal(decode_pool(data, np.asarray(e, np.int16), len(q)), q)
    return data


@SETTINGS
@given(integer_arrays(), st.sampled_from(EFFORTS), st.integers(ZERO_CLASS + 1, MAX_CLASS))
def test_any_integers_come_back_under_any_single_class(q, effort, e):
    assert_round_trip(q, np.array([e]), effort)


@SETTINGS
@given(integer_arrays(), st.sampled_from(EFFORTS), st.integers(0, 99))
def test_any_integers_come_back_under_any_mixture_of_classes(q, effort, seed):
    random = np.random.default_rng(seed)
    e = random.choice(random.integers(ZERO_CLASS + 1, MAX_CLASS + 1, 12), len(q))
    assert_round_trip(q, e, effort)


@pytest.mark.parametrize("effort", EFFORTS)
@pytest.mark.parametrize("scale", [2.0**20, 2.0**27, 2.0**31, 2.0**38])
def test_integers_with_more_low_bits_than_the_range_coder_takes_at_once_come_back(effort, scale):
    for n in (100, 20000):
        assert_round_trip(integers("gaussian", n, scale), class_of(scale)[None], effort)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_small_integers_under_the_widest_class_come_back(dtype):
    assert_round_trip(np.array([1, -1, 0, 7], dtype), np.array([MAX_CLASS]), "default")


@pytest.mark.parametrize("seed", range(8))
def test_one_outlier_of_2_to_the_40_among_small_integers_comes_back(seed):
    q = integers("gaussian", 2714, 40.0, seed)
    q[1000] = 2**40
    for e in (ZERO_CLASS + 1, 4, 40):
        assert_round_trip(q, np.array([e]), "default")


def test_entries_of_the_zero_class_cost_nothing():
    assert len(encode_pool(np.zeros(100000, np.int32), np.array([ZERO_CLASS]))) == 1
    assert decode_pool(encode_pool(np.zeros(5, int), np.array([-30])), np.array([-30]), 5).tolist() == [0] * 5


def test_no_integers_make_one_byte():
    assert decode_pool(encode_pool(np.zeros(0, int), np.array([3])), np.array([3]), 0).size == 0


@pytest.mark.parametrize("scale", [0.3, 1.0, 6.0, 100.0, 5000.0])
def test_gaussian_integers_cost_their_entropy_within_a_fiftieth_of_a_bit(scale):
    q = integers("gaussian", 200000, scale)
    counts = np.unique(q, return_counts=True)[1]
    entropy = np.sum(counts * np.log2(q.size / counts)) / q.size
    bits = 8 * len(assert_round_trip(q, class_of(scale)[None], "default")) / q.size
    differential = np.log2(scale * np.sqrt(2 * np.pi * np.e))
    assert bits < (entropy if scale < 1000 else differential) + 0.02


@pytest.mark.parametrize("kind", ["laplace", "uniform", "cauchy"])
def test_other_shapes_cost_less_than_a_gaussian_table_would_ask(kind):
    """The shape is fitted: within 2 % of the empirical entropy, which needs a table of its own on top."""
    q = integers(kind, 100000, 20.0)
    counts = np.unique(q, return_counts=True)[1]
    entropy = np.sum(counts * np.log2(q.size / counts)) / 8
    rms = np.sqrt(np.mean(np.minimum(np.abs(q), 60) ** 2.0))
    assert len(assert_round_trip(q, class_of(rms)[None], "default")) < 1.04 * entropy


def test_classes_cost_less_than_one_scale_for_all():
    """Bins of their own are what one scale has for such a mixture."""
    random = np.random.default_rng(0)
    e = random.integers(-8, 40, 50000)
    q = np.rint(random.standard_normal(e.size) * 2.0 ** (e / 4)).astype(int)
    one = class_of(np.sqrt(np.mean(q**2.0)))[None]
    assert len(encode_pool(q, e)) < 0.82 * len(encode_pool(q, one))


@pytest.mark.parametrize("scale", [0.5, 10.0, 1000.0])
def test_price_is_what_encoding_costs_within_two_per_cent(scale):
    x = np.random.default_rng(3).standard_normal(20000) * scale
    e = class_of(scale)[None]
    data = encode_pool(np.rint(x).astype(int), e, x=x)
    assert price_pool(x, e) == pytest.approx(8 * len(data), rel=0.02)


def test_same_integers_make_the_same_bytes():
    q = integers("laplace", 5000, 30.0)
    assert encode_pool(q, class_of(30.0)) == encode_pool(q.astype(np.int32), class_of(30.0))


@pytest.mark.parametrize("data", [b"", b"\x07", b"\x02", b"\x00", b"\x00\x01\x00\x00\x00\x00\x00\x00\x00"])
def test_a_pool_that_is_none_is_a_format_error(data):
    with pytest.raises(FormatError, match="damaged"):
        decode_pool(data, np.array([8]), 20)


def test_a_range_coded_pool_without_integers_is_a_format_error():
    with pytest.raises(FormatError, match="damaged"):
        decode_pool(b"\x00\x01\x00\x01\x00", np.array([ZERO_CLASS]), 20)


def test_a_class_beyond_the_last_is_a_format_error():
    with pytest.raises(FormatError, match="scale"):
        decode_pool(b"\x02", np.array([MAX_CLASS + 1]), 3)


@pytest.mark.parametrize("effort", ["default", "max"])
def test_few_values_among_many_others_cost_no_more_than_under_adaptive_bins(effort):
    """As where some blocks of a matrix took few values before and others did not: no smooth shape fits both."""
    random = np.random.default_rng(3)
    q = np.where(random.random(60_000) < 0.5, random.integers(-4, 5, 60_000) * 9000, integers("gaussian", 60_000, 9e3))
    data = encode_pool(q, class_of(q.std())[None], effort, width=200)
    np.testing.assert_array_equal(decode_pool(data, class_of(q.std())[None], len(q), 200), q)
    assert len(data) <= len(encode_noise(q)) + 1 and 8 * len(data) / len(q) < 11.5


@pytest.mark.parametrize("seed", range(4))
def test_sparse_columns_that_nearly_repeat_cost_no_more_than_by_a_dictionary_coder(seed):
    rng = np.random.default_rng(seed)
    once = np.where(rng.random((512, 11)) < 0.08, rng.integers(-6, 7, (512, 11)), 0)
    q = once[:, rng.permutation(33) % 11][:, :32]
    q = np.where((rng.random(q.shape) < 0.25) & (q != 0), q + rng.integers(-1, 2, q.shape), q)
    e = np.array([int(class_of(q.std()))])
    coded = encode_pool(q, e, width=32)
    assert len(coded) <= len(zstd_compress(q.T.astype(np.int8).tobytes(), 19)) + 2
    assert np.array_equal(decode_pool(coded, e, q.size, 32), q.reshape(-1))
