"""Claims about the fast way to code many integers."""

import numpy as np
import pytest
from coding_integers import SETTINGS, integer_arrays, integers
from hypothesis import given

from hmcompress.coding.buffer import Reader, Writer
from hmcompress.coding.split import decode_split, encode_split
from hmcompress.coding.streams import SPLIT, decode_ints, encode_ints, encode_quickly
from hmcompress.errors import FormatError

N = 1 << 15


@SETTINGS
@given(integer_arrays().filter(len))
def test_any_integers_come_back_with_those_that_escape(q):
    data, escapes = encode_split(q)
    back, places = decode_split(data, len(q), np.int64)
    back[places] = escapes
    np.testing.assert_array_equal(back, q)


@pytest.mark.parametrize("kind", ["gaussian", "laplace", "cauchy", "uniform"])
@pytest.mark.parametrize("scale", [0.5, 290.0, 1e9])
def test_long_runs_come_back(kind, scale):
    q = integers(kind, N + 3, scale)
    assert np.array_equal(decode_ints(encode_quickly(q), len(q), np.int64), q)
    assert decode_ints(encode_quickly(q), len(q), None).dtype == decode_ints(encode_ints(q), len(q), None).dtype


@pytest.mark.parametrize("scale", [4.0, 29.0, 290.0, 2900.0])
def test_noise_is_split_and_costs_hardly_more_than_its_entropy(scale):
    q = integers("gaussian", 1 << 18, scale)
    data = encode_quickly(q)
    assert data[0] // 4 == SPLIT
    assert len(data) * 8 / len(q) < np.log2(scale * np.sqrt(2 * np.pi * np.e)) + 0.06
    assert len(data) < 1.015 * len(encode_ints(q))


def test_integers_with_a_pattern_and_short_runs_are_not_split():
    smooth = np.rint(1e4 * np.sin(np.arange(N) / 50)).astype(np.int64)
    for q in (smooth, integers("gaussian", 100, 29.0), np.zeros(N, np.int64)):
        assert encode_quickly(q) == encode_ints(q)


def test_escapes_are_not_split_once_more():
    data = encode_quickly(integers("gaussian", N, 29.0))
    stream = Reader(data)
    kind, _, body = stream.raw(1), stream.section(), stream.rest()
    nested = Writer().raw(kind).section(data).raw(body).getvalue()
    with pytest.raises(FormatError, match="split once more"):
        decode_ints(nested, N)
    with pytest.raises(FormatError, match="differ in number"):
        decode_ints(data + b"\0", N)
