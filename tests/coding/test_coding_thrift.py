"""Claims about integers that were rounded to the smaller of two: what the coder knows of it, and what that saves."""

import numpy as np
import pytest

from hmcompress.coding.classes import class_of, groups_of
from hmcompress.coding.pool import THRIFTY, decode_pool, encode_pool
from hmcompress.coding.ranged import class_tables
from hmcompress.coding.shape import BUILT_IN, Shape
from hmcompress.coding.thrift import THRIFT, moved, shrunk
from hmcompress.errors import FormatError


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize("scale", [1e-30, 0.1, 0.5, 1.0, 30.0, 1e6])
def test_no_number_is_rounded_by_a_whole_step_nor_away_from_zero(scale):
    x = scale * noise(400, 1)
    q = np.rint(shrunk(x, np.full(1, scale)))
    assert np.abs(q - x).max() < 1 and (np.abs(q) <= np.abs(np.rint(x))).all()


def test_borders_stand_where_the_coder_takes_them_to_be():
    scales = np.array([0.3, 1.0, 3.0])
    for scale, off in zip(scales, moved(scales, THRIFT), strict=True):
        border = 1.5 + off
        q = np.rint(shrunk(np.array([[border - 1e-6, border + 1e-6]]), np.array([scale])))
        assert q.tolist() == [[1, 2]]


def test_nothing_is_moved_at_high_rates():
    assert moved(np.array([1e4]), THRIFT)[0] < 1e-4


def test_probabilities_of_a_class_still_sum_to_one():
    shape = Shape(tuple(int(k) for k in BUILT_IN[1]))
    groups = [(-8, 10), (0, 10), (6, 10), (30, 10)]
    for _, _, p in class_tables(groups, shape, thrift=THRIFT).groups():
        assert p.sum() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_integers_come_back_and_take_less_where_the_coder_knows(seed):
    scales = np.exp(noise(1, 300, seed=seed) - 0.5)
    x = noise(200, 300, seed=seed + 9) * scales
    q = np.rint(shrunk(x, scales)).astype(np.int64).reshape(-1)
    e = np.broadcast_to(class_of(scales), x.shape).reshape(-1)
    known = encode_pool(q, e, x=x.reshape(-1), thrift=THRIFT)
    assert known[0] == THRIFTY and len(known) < 0.99 * len(encode_pool(q, e, x=x.reshape(-1)))
    assert np.array_equal(decode_pool(known, e, q.size), np.where(e > -20, q, 0))


@pytest.mark.parametrize("data", [[THRIFTY], [THRIFTY, 20], [THRIFTY, 255, 1, 0, 0]])
def test_what_is_cut_off_is_told(data):
    e = np.zeros(1, np.int16)
    assert groups_of(e, 50)
    with pytest.raises(FormatError):
        decode_pool(bytes(data), e, 50)
