"""Packed integers and Rice-coded gaps come back as they went in, in the bytes they promise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hmcompress.baselines.bits import pack, packed_bytes, rice_decode, rice_encode, rice_width, unpack


@given(st.integers(0, 24), st.integers(0, 300), st.integers(0, 2**31))
def test_packed_integers_come_back(width, count, seed):
    values = np.random.default_rng(seed).integers(0, 2**width, count)
    data = pack(values, width)
    assert len(data) == packed_bytes(count, width)
    assert np.array_equal(unpack(data, width, count), values)


def test_chunks_join_without_a_seam():
    values = np.random.default_rng(0).integers(0, 2**5, (1 << 18) + 77)
    assert np.array_equal(unpack(pack(values, 5), 5, values.size), values)


@given(st.lists(st.integers(0, 5000), max_size=200), st.integers(0, 12))
def test_rice_coded_gaps_come_back(gaps, width):
    gaps = np.array(gaps, np.int64)
    assert np.array_equal(rice_decode(rice_encode(gaps, width), width, gaps.size), gaps)


@pytest.mark.parametrize("density", [0.5, 0.1, 0.01, 0.001])
def test_rice_parameter_is_near_the_entropy(density):
    kept = np.flatnonzero(np.random.default_rng(1).random(200_000) < density)
    gaps = np.diff(kept, prepend=-1) - 1
    entropy = -density * np.log2(density) - (1 - density) * np.log2(1 - density)
    assert len(rice_encode(gaps, rice_width(gaps))) * 8 / 200_000 < 1.06 * entropy + 1e-3
