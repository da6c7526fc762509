import numpy as np
import pytest

from hmcompress.coding.sample import FromTable, InSteps, Joined, jittered

PLACES = np.array([0, 3, 11, 12, 20, 29])


@pytest.mark.parametrize(("n", "stride"), [(512, 2), (512, 4), (1000, 7), (1, 1), (5, 8), (0, 3)])
def test_one_entry_of_each_stretch_is_taken(n, stride):
    assert np.array_equal(jittered(n, stride) // stride, np.arange(-(-n // stride)))
    assert jittered(n, stride).max(initial=0) < max(n, 1)


@pytest.mark.parametrize("stride", [2, 4, 6])
@pytest.mark.parametrize("period", [2, 3, 4])
def test_no_residue_is_left_out(stride, period):
    counts = np.bincount(jittered(4096, stride) % period, minlength=period)
    assert counts.min() > 0.7 * counts.mean()


def test_arrays_read_one_after_the_other_are_the_joined_one() -> None:
    arrays = [np.arange(12.0).reshape(3, 4), np.zeros((0, 5)), np.arange(100.0, 118.0).reshape(2, 9)]
    assert np.array_equal(Joined(arrays)[PLACES], np.concatenate([a.reshape(-1) for a in arrays])[PLACES])
    assert np.array_equal(Joined([InSteps(a, 0.5) for a in arrays])[PLACES], 2 * Joined(arrays)[PLACES])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_matrix_in_steps_is_divided_in_its_own_precision(dtype: type) -> None:
    a = np.random.default_rng(0).standard_normal((5, 6)).astype(dtype)
    x = InSteps(a, 0.1)[PLACES]
    assert x.dtype == np.float32 and np.array_equal(x, (a / dtype(0.1)).reshape(-1)[PLACES].astype(np.float32))


def test_words_are_looked_up() -> None:
    table, words = np.arange(256.0) ** 2, np.arange(30, dtype=np.uint16)[::-1].copy()
    assert np.array_equal(FromTable(table, words)[PLACES], table[words][PLACES]) and FromTable(table, words).size == 30
    assert np.array_equal(FromTable(table, words)[slice(None)], table[words])
