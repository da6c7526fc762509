import numpy as np
import pytest

from hmcompress.coding.sample import jittered


@pytest.mark.parametrize(("n", "stride"), [(512, 2), (512, 4), (1000, 7), (1, 1), (5, 8), (0, 3)])
def test_one_entry_of_each_stretch_is_taken(n, stride):
    assert np.array_equal(jittered(n, stride) // stride, np.arange(-(-n // stride)))
    assert jittered(n, stride).max(initial=0) < max(n, 1)


@pytest.mark.parametrize("stride", [2, 4, 6])
@pytest.mark.parametrize("period", [2, 3, 4])
def test_no_residue_is_left_out(stride, period):
    counts = np.bincount(jittered(4096, stride) % period, minlength=period)
    assert counts.min() > 0.7 * counts.mean()
