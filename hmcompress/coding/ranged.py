"""Integers of known classes by a range coder (asymmetric numeral systems), against one shape.

Integers that need more than about 300 values are split: the high part is range coded, the low bits, uniform within such
narrow bins, are stored as they are.
"""

from dataclasses import dataclass

import numpy as np

from hmcompress.coding.ans import AnsCoder, Categorical, Uniform, coded_bytes, decoder_of
from hmcompress.coding.buffer import Reader, Writer
from hmcompress.coding.classes import CLASSES_PER_OCTAVE, Group, scales_of
from hmcompress.coding.ladder import EVEN, Ladder
from hmcompress.coding.lossless import pcodec_decode, pcodec_encode
from hmcompress.coding.shape import Shape, read_shape, write_shape
from hmcompress.coding.streams import decode_ints, encode_ints
from hmcompress.coding.thrift import moved

_SPLIT = 4  # high parts keep a standard deviation of 16 to 32
_LARGEST = 2048  # high parts beyond are escaped
_RAW_LOW_BITS = 1 << 14  # runs at least this long store their low bits by pcodec
_UNIFORM_BITS = 24  # as many as the range coder takes at once; low parts are shorter than twice that
_AT_ONCE = 1 << 20  # numbers that are compared
_INT16 = 1 << 15
_MAX_NARROW = 18  # low bits up to which high and low part fit into 32 bits


@dataclass(frozen=True)
class Tables:
    """Of g groups: bits to split off (g,), the largest high part (g,), and the probabilities of the high parts.

    p: those of -largest to largest of the first group, then those of the next.
    """

    low: np.ndarray
    largest: np.ndarray
    p: np.ndarray

    @property
    def starts(self) -> np.ndarray:
        """Where the probabilities of each group begin (g,)."""
        sizes = 2 * self.largest + 1
        return np.cumsum(sizes) - sizes

    def groups(self) -> list[tuple[int, int, np.ndarray]]:
        """(bits to split off, largest high part, probabilities) of each group."""
        parts = np.split(self.p, self.starts[1:])
        return list(zip(self.low.tolist(), self.largest.tolist(), parts, strict=True))


def class_tables(groups: list[Group], shape: Shape, ladder: Ladder = EVEN, thrift: float = 0.0) -> Tables:
    """The tables of groups that share a shape; ladder, thrift: see there."""
    classes = np.array([e for e, _ in groups])
    scales = scales_of(classes)
    low = np.clip(classes // CLASSES_PER_OCTAVE - _SPLIT, 0, ladder.most_low_bits)
    tops = [ladder.rung(shape.support * scale) for scale in scales.tolist()]
    largest = np.minimum(np.maximum(np.array(tops) / 2.0**low, 0) + 2, _LARGEST).astype(np.int64)
    sizes = 2 * largest + 2  # one edge more than there are intervals
    ends = np.cumsum(sizes)
    numbers = np.arange(ends[-1]) - np.repeat(ends - sizes + largest, sizes)
    edges = ladder.positions(numbers * np.repeat(2.0**low, sizes) - 0.5)
    if thrift:
        edges += np.sign(edges) * np.repeat(np.where(low == 0, moved(scales, thrift), 0), sizes)
    edges /= np.repeat(scales, sizes)
    return Tables(low, largest, np.delete(shape.probabilities(edges), ends[:-1] - 1))


def encode_ranged(
    q: np.ndarray, groups: list[Group], shape: Shape, ladder: Ladder = EVEN, thrift: float = 0.0
) -> bytes:
    """q: the integers of all groups, one group after the other; they are left as they are."""
    coder, runs, escapes, end = AnsCoder(), list[bytes](), list[np.ndarray](), len(q)
    tables = class_tables(groups, shape, ladder, thrift).groups()
    for (_, size), (low, largest, p) in zip(reversed(groups), reversed(tables), strict=True):
        # A stack: the decoder meets the classes in ascending order.
        values, end = q[end - size : end], end - size
        high = _high_parts(values, low, coder, runs) if low else values
        escapes.append(_encode_high_parts(high, largest, p, coder, may_change=high is not values))
        del high  # as large as the values
    out = Writer()
    write_shape(out, shape)
    while runs:
        out.section(runs.pop())
    out.section(_encode_escapes(np.concatenate(escapes[::-1])))
    out.raw(coded_bytes(coder))
    del coder  # as large as what it wrote
    return out.getvalue()


def _high_parts(values: np.ndarray, low: int, coder: AnsCoder, runs: list[bytes]) -> np.ndarray:
    """The values without their low bits, which go to the coder or, of many, to a run of their own."""
    wide = np.dtype(np.int64) if low > _MAX_NARROW else np.promote_types(values.dtype, np.int32)
    values = values.astype(wide, copy=False)
    rest = values & ((1 << low) - 1)
    if len(values) < _RAW_LOW_BITS:
        _push_bits(coder, rest, low)
    else:
        carrier = _carrier(low)
        same = carrier.itemsize == rest.itemsize  # these numbers have no sign: no copy of a large layer is made
        runs.append(pcodec_encode(rest.view(carrier) if same else rest.astype(carrier), 1))
    del rest  # as large as the values
    return values >> low


def _encode_high_parts(high: np.ndarray, largest: int, p: np.ndarray, coder: AnsCoder, may_change: bool) -> np.ndarray:
    """Code high parts, clipped to the largest that has a probability; what clipping takes off each at the edge."""
    escapes = np.zeros(0, np.int64)
    if max(int(high.max()), -int(high.min())) >= largest:
        escapes = _cut(high, largest)
        high, may_change = np.clip(high, -largest, largest, out=high if may_change else None), True
    own = may_change and high.dtype == np.int32
    shifted = np.add(high, largest, out=high if own else None, dtype=np.int32)
    coder.encode_reverse(shifted, Categorical(p, perfect=False))
    return escapes


def _cut(high: np.ndarray, largest: int) -> np.ndarray:
    """What clipping takes off each value that it brings to the edge, in order."""
    outside = high[(high >= largest) | (high <= -largest)].astype(np.int64)
    return outside - np.clip(outside, -largest, largest)


def decode_ranged(
    data: bytes | memoryview, groups: list[Group], ladder: Ladder = EVEN, narrow: bool = False, thrift: float = 0.0
) -> np.ndarray:
    """The integers of all groups, one group after the other; narrow: as int16 if all fit. Raises FormatError."""
    stream = Reader(data)
    shape = read_shape(stream)
    tables = class_tables(groups, shape, ladder, thrift).groups()
    raw_lows = [
        _decode_lows(stream.section(), low, size) if low and size >= _RAW_LOW_BITS else None
        for (low, _, _), (_, size) in zip(tables, groups, strict=True)
    ]
    escapes, words = stream.section(), stream.view()
    coder = decoder_of(words)
    parts = []
    for (low, largest, p), (_, size), rest in zip(tables, groups, raw_lows, strict=True):
        high = coder.decode(Categorical(p, perfect=False), size)
        high -= np.int32(largest)
        if low and rest is None:
            rest = _pop_bits(coder, low, size)
        parts.append((high.astype(np.int64) if low > _MAX_NARROW else high, low, rest))
        del high, rest
    del coder, raw_lows
    if escapes:
        _add_escapes(escapes, parts, [_at_edge(high, t[1]) for (high, _, _), t in zip(parts, tables, strict=True)])
    return _join(parts, narrow)


def _at_edge(high: np.ndarray, largest: int) -> np.ndarray:
    """Where the high parts (n,) are as large as one may be; a part of them at a time, since there may be very many."""
    starts = range(0, len(high), _AT_ONCE)
    return np.concatenate([i + np.flatnonzero(np.abs(high[i : i + _AT_ONCE]) == largest) for i in starts])


def _carrier(low: int) -> np.dtype:
    """The type that holds `low` bits in a run of their own."""
    return np.dtype(np.uint32 if low <= 32 else np.uint64)


def _decode_lows(data: bytes | memoryview, low: int, count: int) -> np.ndarray:
    """Numbers of `low` bits from a run of their own, in the narrowest type: there may be very many."""
    rest = pcodec_decode(bytes(data), _carrier(low), count)
    return rest.astype(np.uint8) if low <= 8 else rest


def _push_bits(coder: AnsCoder, rest: np.ndarray, low: int) -> None:
    """Code the `low` bits of each number; a stack: the decoder meets the lowest bits first."""
    for start in reversed(range(0, low, _UNIFORM_BITS)):
        bits = min(_UNIFORM_BITS, low - start)
        coder.encode_reverse((rest >> start & ((1 << bits) - 1)).astype(np.int32), Uniform(1 << bits))


def _pop_bits(coder: AnsCoder, low: int, count: int) -> np.ndarray:
    """Inverse of _push_bits."""
    if low <= _UNIFORM_BITS:
        return coder.decode(Uniform(1 << low), count)
    lowest = coder.decode(Uniform(1 << _UNIFORM_BITS), count).astype(np.int64)
    return lowest | coder.decode(Uniform(1 << (low - _UNIFORM_BITS)), count).astype(np.int64) << _UNIFORM_BITS


def _join(parts: list, narrow: bool) -> np.ndarray:
    fits = narrow
    for i, part in enumerate(parts):  # one after the other becomes smaller
        parts[i] = _whole(*part)
        fits = fits and max(int(parts[i].max()), -int(parts[i].min())) < _INT16
        parts[i] = parts[i].astype(np.int16) if fits else parts[i]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _whole(high: np.ndarray, low: int, rest: np.ndarray | None) -> np.ndarray:
    """High and low bits together, in place of the high ones."""
    if rest is not None:
        high <<= low
        high |= rest.astype(high.dtype) if rest.itemsize > 1 else rest
    return high


def _encode_escapes(escapes: np.ndarray) -> bytes:
    return encode_ints(escapes) if escapes.any() else b""


def _add_escapes(data: bytes, parts: list, outside: list[np.ndarray]) -> None:
    counts = [len(places) for places in outside]
    values = decode_ints(data, sum(counts), np.int64)
    for i, (start, stop) in enumerate(zip(np.cumsum([0, *counts[:-1]]), np.cumsum(counts), strict=True)):
        high, low, rest = parts[i]
        whole = high[outside[i]].astype(np.int64) + values[start:stop]
        if high.dtype != np.int64 and np.abs(whole).max(initial=0) >> (31 - low):  # with its low bits beyond 32
            high = high.astype(np.int64)
        high[outside[i]] = whole
        parts[i] = (high, low, rest)
