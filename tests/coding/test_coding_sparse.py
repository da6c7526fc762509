"""Claims about sparse integers: they come back, patterns of their places cost next to nothing, damage is noticed."""

import numpy as np
import pytest

import hmcompress.coding.streams as streams
from hmcompress.coding.buffer import Writer
from hmcompress.coding.classes import class_of
from hmcompress.coding.lossless import zstd_compress
from hmcompress.coding.pool import decode_pool, encode_pool
from hmcompress.coding.sparse import decode_places, encode_places, is_sparse
from hmcompress.coding.streams import encode_ints
from hmcompress.errors import FormatError


def patterns() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    scattered = np.where(random.random((200, 300)) < 0.005, random.integers(-9, 10, (200, 300)), 0)
    bands = np.eye(256, dtype=np.int64) - 3 * np.eye(256, k=1, dtype=np.int64)
    column = np.zeros((256, 256), np.int64)
    column[:, 7] = random.integers(1, 100, 256)
    last = np.zeros((64, 64), np.int64)
    last[-1, -1] = 2**40
    return {"scattered": scattered, "bands": bands, "column": column, "last": last, "none": np.zeros((9, 9), np.int64)}


@pytest.mark.parametrize("effort", ["fast", "default", "max"])
@pytest.mark.parametrize("name", patterns())
def test_sparse_integers_come_back_from_a_pool(name, effort):
    q = patterns()[name]
    e = np.array([max(int(class_of(np.sqrt(np.mean(q**2.0)))), -19)])
    for width in (None, q.shape[1]):
        data = encode_pool(q, e, effort, width=width)
        np.testing.assert_array_equal(decode_pool(data, e, q.size, width), q.reshape(-1))


@pytest.mark.parametrize("n", [256, 1024, 2048])
def test_a_diagonal_takes_no_more_bytes_the_longer_it_is(n):
    assert len(encode_pool(np.eye(n, dtype=np.int32), np.array([-8]), width=n)) < 40


def test_few_integers_on_one_column_cost_less_by_columns():
    q = patterns()["column"]
    e = class_of(np.sqrt(np.mean(q**2.0)))[None]
    assert len(encode_pool(q, e, width=256)) < 256 + 40


def test_places_without_a_pattern_are_coded_by_whatever_is_smallest():
    random = np.random.default_rng(1)
    q = (random.random(1 << 16) < 0.01).astype(np.int32)
    entropy = -(0.01 * np.log2(0.01) + 0.99 * np.log2(0.99)) * q.size / 8
    assert len(encode_pool(q, np.array([-13]))) < 1.06 * entropy + 40


@pytest.mark.parametrize(("repeats", "highest"), [(False, 0), (True, 2)])
def test_places_without_a_pattern_do_not_take_the_time_of_the_highest_level(monkeypatch, repeats, highest):
    random = np.random.default_rng(1)
    q = np.where(random.random((100, 120)) < 0.02, random.integers(-9, 10, (100, 120)), 0)
    q = np.tile(q[:10, :12], (10, 10)) if repeats else q
    begun = []

    def compressed(data: bytes, level: int) -> bytes:
        begun.append((len(data), level))
        return zstd_compress(data, level)

    monkeypatch.setattr(streams, "zstd_compress", compressed)
    data = encode_pool(q, class_of(np.sqrt(np.mean(q**2.0)))[None], width=120)
    assert begun.count((q.size, 19)) == highest  # by rows and by columns
    assert len(data) < (60 if repeats else 360)


def test_noise_is_not_taken_for_sparse():
    q = np.zeros(1 << 16, np.int32)
    assert not is_sparse(np.ones(100, np.int32)) and not is_sparse(np.zeros(0, np.int32))
    assert is_sparse(q)
    q[: 1 << 14] = 1
    assert not is_sparse(q)


def test_the_widest_integers_come_back():
    q = np.zeros(1000, np.int64)
    q[[0, 500, 999]] = 2**62, -(2**62), 1
    e = np.array([100])
    np.testing.assert_array_equal(decode_pool(encode_pool(q, e), e, 1000), q)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("by_row", [False, True])
def test_pruned_integers_cost_their_places_and_the_entropy_of_the_rest(share, by_row):
    random = np.random.default_rng(2)
    scale = np.exp2(random.integers(4, 10, 200)) if by_row else np.full(200, 300.0)
    kept = random.random((200, 500)) < share
    q = np.where(kept, np.rint(random.standard_normal((200, 500)) * scale[:, None]), 0).astype(np.int64)
    e = np.repeat(class_of(scale * np.sqrt(share)), 500) if by_row else class_of(scale[:1] * np.sqrt(share))
    data = encode_pool(q, e, width=500)
    np.testing.assert_array_equal(decode_pool(data, e, q.size, 500), q.reshape(-1))
    places = -share * np.log2(share) - (1 - share) * np.log2(1 - share)
    bits = places + share * float(np.mean(np.log2(scale * np.sqrt(2 * np.pi * np.e))))
    assert 8 * len(data) / q.size < 1.02 * bits + 0.02


@pytest.mark.parametrize("gaps", [[1, 0], [3, -1], [9, 9], [2**62, 2**62, 2**62]])
def test_places_outside_of_the_stream_are_damage(gaps):
    data = Writer().uint(len(gaps)).raw(b"\0").raw(encode_ints(np.array(gaps)))
    with pytest.raises(FormatError, match="outside"):
        decode_places(data.getvalue(), 10)


@pytest.mark.parametrize("places", [np.arange(0, 40, 2), np.flatnonzero(np.random.default_rng(0).random(400) < 0.3)])
def test_places_that_are_not_what_they_say_are_damage(places):
    count = int(places[-1]) + 2
    data = encode_places(places, count)
    assert decode_places(data, count).tolist() == places.tolist()
    for damaged in (data[:-1], bytes([data[0] + 1]) + data[1:]):
        with pytest.raises(FormatError, match=r"places|cut|frame"):
            decode_places(damaged, count)
    with pytest.raises(FormatError, match=r"places|cut|frame"):
        decode_places(data, 2 * count)
    with pytest.raises(FormatError, match="kind"):
        decode_places(data[:1] + b"\7" + data[2:], count)


@pytest.mark.parametrize("side", [8, 32])
def test_pruned_blocks_cost_little_more_than_what_is_left(side):
    random = np.random.default_rng(0)
    kept = np.kron(random.random((512 // side, 512 // side)) < 0.2, np.ones((side, side), bool))
    places = np.flatnonzero(kept)
    data = encode_places(places, kept.size)
    assert np.array_equal(decode_places(data, kept.size), places)
    assert len(data) < 0.1 * kept.size / 8


def test_a_sparse_pool_within_another_is_damage():
    e = np.array([-8])
    data = encode_pool(np.eye(64, dtype=int), e)
    size = Writer().section(encode_places(np.arange(4096), 4096)).sint(0).getvalue()
    with pytest.raises(FormatError, match="impossible kind"):
        decode_pool(data[:1] + size + data, e, 4096)
