"""Claims about runs of integers, side information, number fields and distribution shapes."""

import numpy as np
import pytest
from coding_integers import SETTINGS, integer_arrays, integers
from hypothesis import given
from hypothesis import strategies as st

from hmcompress.coding.buffer import Reader, Writer
from hmcompress.coding.shape import BUILT_IN, Shape, fit_shape, octaves, read_shape, write_shape
from hmcompress.coding.side import decode_side, encode_side
from hmcompress.coding.streams import decode_ints, encode_ints
from hmcompress.errors import FormatError

EXTREMES = np.array([0, 1, -1, 127, -128, 2**31 - 1, -(2**31), 2**62, -(2**62)])


@SETTINGS
@given(integer_arrays(), st.sampled_from(("fast", "default", "max")))
def test_any_integers_come_back_from_a_stream_and_from_side_information(q, effort):
    np.testing.assert_array_equal(decode_ints(encode_ints(q, effort), q.size, np.int64), q)
    np.testing.assert_array_equal(decode_side(encode_side(q, effort), q.size), q)


@SETTINGS
@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=40))
def test_integers_of_all_64_bits_come_back_from_a_stream(values):
    q = np.array(values, np.int64)
    np.testing.assert_array_equal(decode_ints(encode_ints(q), q.size, np.int64), q)


def test_integers_of_62_bits_come_back_from_side_information():
    np.testing.assert_array_equal(decode_side(encode_side(EXTREMES), EXTREMES.size), EXTREMES)


@pytest.mark.parametrize("value", [0, -7, 2**40])
def test_a_constant_run_costs_at_most_nine_bytes_whatever_its_length(value):
    assert len(encode_ints(np.full(100000, value))) <= 9


def test_type_follows_the_stored_width_where_none_is_asked_for():
    assert decode_ints(encode_ints(np.arange(9)), 9, None).dtype == np.int32
    assert decode_ints(encode_ints(EXTREMES), 9, None).dtype == np.int64


def test_side_information_of_one_spread_costs_its_entropy_and_a_few_bytes():
    q = integers("gaussian", 300, 3.0) + 50
    entropy = 300 * np.log2(q.std() * np.sqrt(2 * np.pi * np.e)) / 8
    assert len(encode_side(q)) < entropy + 16  # up to two words of the range coder and its model


def test_side_information_is_never_larger_than_a_stream():
    for scale in (0.1, 1.0, 30.0):
        for n in (1, 2, 20, 500):
            q = integers("laplace", n, scale)
            assert len(encode_side(q)) <= len(encode_ints(q))


@pytest.mark.parametrize("decode", [decode_ints, decode_side])
@pytest.mark.parametrize("data", [b"", b"\x3f", b"\x00", b"\x00\x00\x00", b"\x04\x01", b"\x08\x01", b"\x0c\x01"])
def test_what_is_no_run_of_integers_is_a_format_error(decode, data):
    with pytest.raises(FormatError, match="damaged"):
        decode(data, 5)


@pytest.mark.parametrize(
    "data", [b"\xff", b"\xff\x00", b"\xff\x00\x80\x80", b"\xff\x00\x50\x09", b"\xff\x00\xff\x7f\x00"]
)
def test_damaged_side_information_is_a_format_error(data):
    with pytest.raises(FormatError, match="damaged"):
        decode_side(data, 5)


@SETTINGS
@given(st.lists(st.integers(-(2**61), 2**61)), st.binary(max_size=300))
def test_fields_come_back_in_order(numbers, blob):
    out = Writer()
    for n in numbers:
        out.uint(abs(n)).sint(n)
    stream = Reader(out.section(blob).raw(b"end").getvalue())
    assert [(stream.uint(), stream.sint()) for _ in numbers] == [(abs(n), n) for n in numbers]
    assert (stream.section(), stream.rest(), stream.left) == (blob, b"end", 0)


def test_a_negative_number_does_not_pass_for_an_unsigned_one():
    with pytest.raises(ValueError, match="negative"):
        Writer().uint(-1)


@pytest.mark.parametrize(
    ("data", "read"),
    [
        (b"", lambda r: r.uint()),
        (b"\x80", lambda r: r.uint()),
        (b"\xff" * 10, lambda r: r.uint()),
        (b"\x05", lambda r: r.uint(4)),
        (b"\x05ab", lambda r: r.section()),
        (b"ab", lambda r: r.raw(3)),
    ],
)
def test_a_field_past_the_end_or_its_limit_is_a_format_error(data, read):
    with pytest.raises(FormatError, match="damaged"):
        read(Reader(data))


SHAPES = [Shape(tuple(int(k) for k in knots + shift)) for knots in BUILT_IN.values() for shift in (-40, 0, 25)]
SHAPES.append(fit_shape(np.random.default_rng(0).standard_cauchy(5000)))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_comes_back(shape):
    out = Writer()
    write_shape(out, shape)
    assert read_shape(Reader(out.getvalue())).knots == shape.knots


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_is_a_distribution(shape):
    t = np.linspace(0, 1.1 * shape.support, 3001)
    cdf = shape.cdf(t)
    assert cdf[0] == 0 and cdf[-1] == pytest.approx(1) and np.diff(cdf).min() > -1e-12


def test_a_fitted_shape_has_the_sample_s_distribution():
    z = np.random.default_rng(0).laplace(size=100000)
    t = np.linspace(0.05, 5, 100)
    assert np.abs(fit_shape(z).cdf(t) - (1 - np.exp(-t))).max() < 0.02


@pytest.mark.parametrize("data", [b"\x04\x00", b"\x00\x00" + b"\x00" * 15, b"\x01\xff\x7f\x01", b"\x00\x01\xff\xff"])
def test_an_impossible_shape_is_a_format_error(data):
    with pytest.raises(FormatError):
        read_shape(Reader(data))


def test_octaves_are_powers_of_two_to_forty_bits():
    n = np.arange(-200, 200)
    np.testing.assert_allclose(octaves(n), 2.0 ** (n / 32), rtol=2.0**-40)
