"""Claims about integers by class: they find back to their places, some at a time."""

import tracemalloc

import numpy as np
import pytest

from hmcompress.coding.classes import MAX_CLASS, ZERO_CLASS, gather, groups_of, scatter, sizes_of
from hmcompress.errors import FormatError


def classes(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(ZERO_CLASS - 5, MAX_CLASS + 1, count).astype(np.int16)


@pytest.mark.parametrize("count", [0, 1, 7, 1000])
@pytest.mark.parametrize("chunk", [1, 3, 1 << 17])
def test_scattering_is_the_inverse_of_gathering(count, chunk, monkeypatch):
    monkeypatch.setattr("hmcompress.coding.classes._CHUNK", chunk)
    e = classes(count)
    q = np.where(e > ZERO_CLASS, np.arange(count), 0)
    groups, sizes = groups_of(e, count), sizes_of(e, count)
    assert [(c, size) for c, _, size in groups] == [(c, size) for c, _, size in sizes]
    values = gather(q, groups) if groups else q[:0]
    assert np.array_equal(scatter(values, e, sizes, count), q)


@pytest.mark.parametrize("e", [np.array([3]), np.full(9, 3)])
def test_integers_of_one_class_stay_where_they_are(e):
    q = np.arange(9)
    assert [group[::2] for group in groups_of(e, 9)] == [(3, 9)]
    assert np.array_equal(scatter(q, e, sizes_of(e, 9), 9), q)


def test_scattering_takes_little_memory_beside_the_integers():
    e = classes(1 << 22)
    sizes = sizes_of(e, e.size)
    values = np.ones(sum(size for _, _, size in sizes), np.int32)
    tracemalloc.start()
    scatter(values, e, sizes, e.size)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.3 * 4 * e.size


def test_classes_beyond_the_largest_or_too_few_are_a_format_error():
    with pytest.raises(FormatError, match="scale"):
        sizes_of(np.array([MAX_CLASS + 1]), 1)
    with pytest.raises(FormatError, match="differ in number"):
        sizes_of(np.array([1, 2]), 3)
