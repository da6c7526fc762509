"""Claims about estimates of what integers cost."""

import numpy as np
import pytest
from hmatrix_matrices import noise

from hmcompress.hmatrix.basics import price


@pytest.mark.parametrize("scale", [1.0, 3.0, 30.0])
def test_places_are_no_bargain_for_noise(scale):
    usual = price.bits(np.array([scale]))[0]
    assert 0 < price.places(noise(256, 256) * scale) / 256**2 - usual < 1


def test_places_price_few_large_entries_by_their_number():
    x = noise(256, 256) * 1e-3
    x.reshape(-1)[::1000] = 500
    assert 66 * 12 < price.places(x) < 66 * 24


def test_nothing_costs_nothing():
    assert price.places(np.zeros((64, 64))) == 0
