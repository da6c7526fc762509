"""Claims about integers by class: they find back to their places, some at a time."""

import tracemalloc

import numpy as np
import pytest

from hmcompress.coding.classes import MAX_CLASS, ZERO_CLASS, gather, groups_of, largest_of, scatter
from hmcompress.errors import FormatError


def classes(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(ZERO_CLASS - 5, MAX_CLASS + 1, count).astype(np.int16)


@pytest.mark.parametrize("count", [0, 1, 7, 1000])
@pytest.mark.parametrize("chunk", [1, 3, 1 << 17])
def test_scattering_is_the_inverse_of_gathering(count, chunk, monkeypatch):
    monkeypatch.setattr("hmcompress.coding.classes._CHUNK", chunk)
    e = classes(count)
    q = np.where(e > ZERO_CLASS, np.arange(count), 0)
    groups = groups_of(e, count)
    values = gather(q, e, groups)
    assert np.array_equal(e[values], np.repeat([c for c, _ in groups], [size for _, size in groups]))
    assert np.array_equal(scatter(values, e, groups, count), q)


@pytest.mark.parametrize("chunk", [1, 3, 1 << 17])
@pytest.mark.parametrize("e", [classes(1000), np.full(1000, 3), np.array([3])])
def test_the_largest_of_each_group_is_found_wherever_it_stands(e, chunk, monkeypatch):
    monkeypatch.setattr("hmcompress.coding.classes._CHUNK", chunk)
    x = np.random.default_rng(1).standard_normal(1000) * 100
    spread = np.broadcast_to(e, 1000)
    expected = [np.ceil(np.abs(x[spread == c]).max()) for c, _ in groups_of(e, 1000)]
    assert np.array_equal(largest_of(x, e, groups_of(e, 1000)), expected)


@pytest.mark.parametrize("e", [np.array([3]), np.full(9, 3)])
def test_integers_of_one_class_stay_where_they_are(e):
    q = np.arange(9)
    assert groups_of(e, 9) == [(3, 9)]
    assert gather(q, e, groups_of(e, 9)) is q
    assert np.array_equal(scatter(q, e, groups_of(e, 9), 9), q)


def test_scattering_takes_little_memory_beside_the_integers():
    e = classes(1 << 22)
    groups = groups_of(e, e.size)
    values = np.ones(sum(size for _, size in groups), np.int32)
    tracemalloc.start()
    scatter(values, e, groups, e.size)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.3 * 4 * e.size


def test_classes_beyond_the_largest_or_too_few_are_a_format_error():
    with pytest.raises(FormatError, match="scale"):
        groups_of(np.array([MAX_CLASS + 1]), 1)
    with pytest.raises(FormatError, match="differ in number"):
        groups_of(np.array([1, 2]), 3)
