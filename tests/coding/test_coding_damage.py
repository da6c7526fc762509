"""Claims about damaged streams: each decodes to something or is a FormatError, in little time and memory."""

import contextlib
import tracemalloc
from collections.abc import Callable, Iterable

import numpy as np
import pytest
from coding_integers import damaged, integers

from hmcompress.coding import pool
from hmcompress.coding.buffer import Writer
from hmcompress.coding.classes import class_of
from hmcompress.coding.diagonals import Way
from hmcompress.coding.lossless import decode_array, encode_array
from hmcompress.coding.pool import decode_pool, encode_pool
from hmcompress.coding.side import decode_side, encode_side
from hmcompress.coding.sparse import encode_places
from hmcompress.coding.streams import decode_ints, encode_ints, encode_quickly
from hmcompress.errors import FormatError

N = 3000
Q = integers("gaussian", N, 12.0)
Q[7] = 2**40
LONG = integers("cauchy", 1 << 14, 12.0)
CLASSES = np.random.default_rng(0).choice([-10, 0, 7, 21, 33, 60], N).astype(np.int16)
WEIGHTS = np.round(np.random.default_rng(0).standard_normal(N), 2).astype(np.float32)
STREAMS: dict[str, tuple[bytes, Callable[[bytes], object]]] = {
    "pool": (encode_pool(Q, class_of(12.0)), lambda b: decode_pool(b, class_of(12.0), N)),
    "classes": (encode_pool(Q, CLASSES), lambda b: decode_pool(b, CLASSES, N)),
    "general": (encode_pool(Q, CLASSES, "fast"), lambda b: decode_pool(b, CLASSES, N)),
    "ints": (encode_ints(Q), lambda b: decode_ints(b, N)),
    "split": (encode_quickly(LONG), lambda b: decode_ints(b, len(LONG))),
    "side": (encode_side(Q[:300]), lambda b: decode_side(b, 300)),
    "array": (encode_array(WEIGHTS), lambda b: decode_array(b, np.float32, N)),
    "planes": (encode_array(WEIGHTS.astype(np.float16)), lambda b: decode_array(b, np.float16, N)),
}


@pytest.mark.parametrize("name", STREAMS)
def test_damage_is_a_format_error_or_harmless(name):
    data, decode = STREAMS[name]
    for bad in damaged(data, 300):
        try:
            decode(bad)
        except FormatError as error:
            assert "\n" not in str(error) and str(error)


@pytest.mark.parametrize("name", STREAMS)
def test_damage_takes_at_most_twice_the_memory_of_the_honest_stream(name):
    data, decode = STREAMS[name]
    honest = peak_memory(decode, [data])
    assert peak_memory(decode, damaged(data, 60)) < 2 * honest + 1_000_000


def peak_memory(decode: Callable[[bytes], object], streams: Iterable[bytes]) -> int:
    tracemalloc.start()
    try:
        for data in streams:
            with contextlib.suppress(FormatError):
                decode(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kinds", [[pool.SPARSE] * 2, [pool.DIAGONALS] * 2, [pool.DIAGONALS, pool.SPARSE] * 2])
def test_pools_in_pools_have_an_end(kinds):
    """Each holds arrays of all its integers while it decodes the next."""
    q = integers("gaussian", N, 12.0)
    scale = int(class_of(12.0))
    data = encode_pool(q, np.array([scale]))
    for kind in reversed(kinds):
        inside = Writer().raw(bytes([kind]))
        if kind == pool.SPARSE:
            data = inside.section(encode_places(np.arange(N), N)).sint(0).raw(data).getvalue()
        else:
            data = Way(False, False).write(inside).sint(scale).raw(data).getvalue()
    with pytest.raises(FormatError, match="unknown or impossible kind"):
        decode_pool(data, np.array([scale]), N, N // 10)
