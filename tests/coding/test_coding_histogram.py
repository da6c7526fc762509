"""Claims about histograms: integers come back, gaps and mixtures cost what they are worth, damage is noticed."""

import contextlib

import numpy as np
import pytest
from coding_integers import damaged

from hmcompress.coding.classes import class_of
from hmcompress.coding.histogram import decode_histogram, smallest_histogram
from hmcompress.coding.pool import ANS, HISTOGRAM, decode_pool, encode_pool
from hmcompress.errors import FormatError

N = 1 << 15


def integers() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    noise = random.standard_normal(N)
    small = random.random(N) < 0.9
    return {
        "gaps": np.rint(noise * 20).astype(np.int32) * 37,
        "mixture": np.rint(noise * np.where(small, 3, 3000)).astype(np.int32),
        "large": np.rint(noise * np.where(small, 300, 1e7)).astype(np.int64),
        "one": np.full(N, -7),
        "few": np.tile([5, 5, -5, 5], 200),
    }


def entropy(q: np.ndarray) -> float:
    counts = np.unique(q, return_counts=True)[1]
    return float(counts @ np.log2(q.size / counts)) / 8


@pytest.mark.parametrize("name", integers())
def test_integers_come_back(name):
    q = integers()[name]
    data = smallest_histogram(q, 8 * q.size)
    assert data is not None
    np.testing.assert_array_equal(decode_histogram(data, q.size), q)


def test_values_with_gaps_cost_their_entropy():
    q = integers()["gaps"]
    e = class_of(np.sqrt(np.mean(np.square(q, dtype=float))))[None]
    data = encode_pool(q, e)
    assert data[0] == HISTOGRAM and len(data) < 1.01 * entropy(q) + 60
    np.testing.assert_array_equal(decode_pool(data, e, q.size), q)


def test_a_mixture_of_two_scales_costs_what_its_parts_do_and_which_is_which():
    q = integers()["mixture"]
    e = class_of(np.sqrt(np.mean(np.square(q, dtype=float))))[None]
    gaussian, which = 2.05, -0.9 * np.log2(0.9) - 0.1 * np.log2(0.1)
    bits = gaussian + 0.9 * np.log2(3) + 0.1 * np.log2(3000) + which
    assert 8 * len(encode_pool(q, e)) / q.size < 1.01 * bits


def test_noise_is_coded_by_its_shape():
    q = np.rint(np.random.default_rng(0).standard_normal(N) * 30).astype(np.int32)
    assert encode_pool(q, class_of(30.0)[None])[0] == ANS


@pytest.mark.parametrize("name", ["gaps", "mixture"])
def test_damage_is_a_format_error_or_harmless(name):
    q = integers()[name][:2000]
    data = smallest_histogram(q, 8 * q.size)
    assert data is not None
    for bad in damaged(data, 300):
        with contextlib.suppress(FormatError):
            assert decode_histogram(bad, q.size).shape == q.shape
    with pytest.raises(FormatError, match="histogram is impossible"):
        decode_histogram(data, q.size + 1)
