"""Many numbers of known scale, quantised and coded together along a trellis.

As a pool (pool.py), but the numbers are quantised here too: the trellis lets the integers stand half as far apart as
their rate pays for, and loses 0.05 bit a number to the rate limit of a Gaussian where rounding loses 0.25.

Numbers are taken class by class, lowest first, and laid out step by step over many paths. Bit 0 of an integer is given
by the state, bit 1 is coded with the state known, so that all integers' remainders mod 4 are known before the rest is
coded, class by class.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hmcompress.coding.ans import AnsCoder, Bernoulli, Categorical, Uniform, coded_bytes, decoder_of
from hmcompress.coding.buffer import Reader, Writer
from hmcompress.coding.classes import CLASSES_PER_OCTAVE, ZERO_CLASS, Group, gather, groups_of, scales_of, scatter
from hmcompress.coding.shape import Shape, built_in_shapes, fit_shape, read_shape, write_shape
from hmcompress.coding.viterbi import MEMORIES, SUBSETS, Trellis
from hmcompress.errors import FormatError

Array = np.ndarray
Segment = tuple[int, int, int]  # a class, and where its numbers begin and end, one class after the other
SILENT_CLASS = -4  # and below: all zero, not coded; half a bit of such numbers would not pay
TOP_CLASS = 104
DISTORTION = 0.2513  # mean square error at high rates, 64 states
_SLOPE = 0.35  # what a bit may cost in squared error: 2 ln 2 times the distortion
_FINE = 28  # from this class on the low bits are uniform, and rates no longer matter to the path
_SPLIT = 4  # high parts keep a standard deviation of 16 to 32
_LARGEST = 4096
_SAMPLE = 1 << 16
_FEW_NUMBERS = 1 << 14  # up to which the bytes of a shape matter
_CHUNK = 1 << 20  # numbers that make one set of paths
_STEPS, _FEW = 512, 16
_PATHS = _CHUNK // _STEPS
_RARE = 1 << 8  # over 2 ** 20: the smallest probability of a bit


@dataclass(frozen=True)
class Model:
    """The probabilities of integers at each class, all of one shape."""

    shape: Shape

    def _scale(self, e: int) -> float:
        """Of the integers: they spread less than the numbers, by the error that is left, but for its dither."""
        scale = float(scales_of(e))
        square = scale * scale  # no power function: its last bit is not the same everywhere
        return float(np.sqrt(max(square - 0.5, 0.375 * square)))

    def largest(self, e: int) -> int:
        """The largest high part, in either direction."""
        return int(min(self.shape.support * float(scales_of(e)) / 4 / 2 ** low_bits(e) + 2, _LARGEST))

    def subsets(self, e: int) -> Array:
        """(4, 2 * largest + 1): probability of each integer 4 * u + r of a subset r, not normalised."""
        largest = self.largest(e)
        bins = self.shape.probabilities(np.arange(-4 * largest - 1, 4 * largest + 5) / self._scale(e))
        return np.ascontiguousarray((bins[:-1] + bins[1:]).reshape(-1, SUBSETS).T)

    def high_parts(self, e: int) -> Array:
        """(2 * largest + 1,): probability of each high part of a class whose integers are split."""
        edges = np.arange(-self.largest(e), self.largest(e) + 2) * 4.0 * 2.0 ** low_bits(e) - 0.5
        return self.shape.probabilities(edges / self._scale(e))


def low_bits(e: int) -> int:
    """Bits of 4 * u + r, beside those of r, that are stored as they are."""
    return max(0, e // CLASSES_PER_OCTAVE - 2 - _SPLIT)


def _bit_probabilities(tables: Array) -> Array:
    """(2,): probability that bit 1 is set, for even and for odd integers; the same on every machine."""
    sums = np.floor(tables.astype(np.float64) * 2.0**40).astype(np.int64).sum(1)
    p = sums[2:] / (sums[:2] + sums[2:])
    return np.clip(np.rint(p * 2.0**20), _RARE, 2**20 - _RARE) / 2.0**20


def _groups(e: Array, count: int) -> tuple[Array, list[Group]]:
    """Classes e (count,) or (1,), those of silent numbers as one of zeros, and how many numbers are of each. Raises
    FormatError where one is out of range."""
    e = np.asarray(e, np.int16).reshape(-1)
    if e.max(initial=SILENT_CLASS) > TOP_CLASS:
        raise FormatError("a scale is out of range: the file is damaged")
    e = np.where(e > SILENT_CLASS, e, np.int16(ZERO_CLASS))
    return e, groups_of(e, count)


def _segments(groups: list[Group]) -> list[Segment]:
    ends = np.cumsum([size for _, size in groups]).tolist()
    return [(c, end - size, end) for (c, size), end in zip(groups, ends, strict=True)]


def _chunks(count: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK))


def own_shape(x: Array, e: Array) -> Shape:
    """The shape of numbers x (n,) of classes e (n,) or (1,), with a support that covers them all."""
    e, groups = _groups(e, x.size)
    x = gather(x, e, groups)
    stride = max(1, len(x) // _SAMPLE)
    sample, support = [], 1.0
    for c, start, stop in _segments(groups):
        s, part = float(scales_of(c)), x[start:stop]
        sample.append(np.abs(part[:: min(stride, len(part))]) / s)
        support = max(support, (float(np.abs(part).max()) + 8) / s)
    shape = fit_shape(np.concatenate(sample))
    last = max(int(np.ceil(32 * np.log2(support))), shape.knots[-2] + 1)
    return Shape((*shape.knots[:-1], last))


def quantize(x: Array, e: Array, model: Model, trellis: Trellis) -> Array | None:
    """Integers (n,), int32, for numbers x (n,) of classes e (n,) or (1,). None: one is out of its class's reach."""
    count, (e, groups) = x.size, _groups(e, x.size)
    x, segments = gather(x, e, groups), _segments(groups)
    v = np.empty(len(x), np.int32)
    for c, start, stop in segments:
        reach = (model.largest(c) - 1) * 4.0 * 2.0 ** low_bits(c)
        if max(float(x[start:stop].max()), -float(x[start:stop].min())) + 4 > min(reach, 2.0**28):
            return None
    for start, stop in _chunks(len(x)):
        v[start:stop] = _follow(x[start:stop], _cut(segments, start, stop), model, trellis)
    return scatter(v, e, groups, count)


def _cut(segments: list[Segment], start: int, stop: int) -> list[Segment]:
    """The segments between start and stop, counted from start."""
    cut = [(c, max(a, start) - start, min(b, stop) - start) for c, a, b in segments]
    return [(c, a, b) for c, a, b in cut if a < b]


def _paths(count: int) -> int:
    return min(max(count // _STEPS, _FEW), _PATHS)


def _follow(x: Array, segments: list[Segment], model: Model, trellis: Trellis) -> Array:
    """Quantise one chunk, (n,)."""
    paths = _paths(len(x))
    steps = -(-len(x) // paths)
    costs = np.zeros((SUBSETS, steps * paths), np.float32)
    upper = np.zeros((SUBSETS, steps * paths), bool)
    whole = np.floor(x).astype(np.int32)
    fraction = (x - whole).astype(np.float32)
    for c, start, stop in segments:
        part = slice(start, stop)
        rates = None if c >= _FINE else _rates(model, c)
        _fill(whole[part], fraction[part], rates, costs[:, part], upper[:, part])
    subsets = trellis.cheapest_subsets(costs.reshape(SUBSETS, steps, paths).transpose(1, 0, 2))
    r = subsets.reshape(-1)[: len(x)]
    return whole - ((whole - r) & 3) + 4 * upper[r, np.arange(len(x))]


def _rates(model: Model, e: int) -> Array:
    """(4, 2 * largest + 1): price of each integer of each subset, in squared error."""
    tables = model.subsets(e).astype(np.float64)
    total = tables.sum(1)
    return (-_SLOPE * np.log2(tables / np.tile(total[:2] + total[2:], 2)[:, None])).astype(np.float32)


def _fill(whole: Array, fraction: Array, rates: Array | None, costs: Array, upper: Array) -> None:
    """For each subset, which of the two integers around each number is cheaper, and what it costs."""
    for r in range(SUBSETS):
        past = (whole - r) & 3
        below = fraction + past.astype(np.float32)
        above = np.float32(4) - below
        below *= below
        above *= above
        if rates is not None:
            at = (whole - past - r >> 2) + (rates.shape[1] // 2)
            below += rates[r][at]
            above += rates[r][at + 1]
        np.less(above, below, out=upper[r])
        np.minimum(above, below, out=costs[r])


def encode_dependent(v: Array, e: Array, model: Model, trellis: Trellis) -> bytes:
    """Encode what `quantize` returned, under the same model and trellis; few numbers may take a built-in shape."""
    e, groups = _groups(e, v.size)
    v, segments = gather(v, e, groups), _segments(groups)
    models = [model, *(map(Model, built_in_shapes(model.shape)) if v.size <= _FEW_NUMBERS else ())]
    return min((_encode(v, segments, m, trellis) for m in models), key=len)


def _encode(v: Array, segments: list[Segment], model: Model, trellis: Trellis) -> bytes:
    coder, chances = AnsCoder(), []
    for c, start, stop in reversed(segments):  # a stack: the decoder meets the lowest class first
        chances.append(_encode_class(coder, v[start:stop], c, model))
    chance = np.concatenate([np.zeros(0), *reversed(chances)])
    for start, stop in reversed(list(_chunks(len(v)))):
        part = v[start:stop]
        p = chance[_class_indices(segments, start, stop) + (part & 1)]
        coder.encode_reverse((part >> 1 & 1).astype(np.int32), Bernoulli(perfect=False), p)
    out = Writer().uint(trellis.memory)
    write_shape(out, model.shape)
    return out.raw(coded_bytes(coder)).getvalue()


def _class_indices(segments: list[Segment], start: int, stop: int) -> Array:
    """Twice the number of the class of each integer, (stop - start,), int32."""
    inside = np.clip([0, *(end for _, _, end in segments)], start, stop)
    return np.repeat(2 * np.arange(len(segments), dtype=np.int32), np.diff(inside))


def _encode_class(coder: AnsCoder, v: Array, e: int, model: Model) -> Array:
    """Code all but the lowest two bits; the probabilities of bit 1 for even and for odd integers."""
    low, largest = low_bits(e), model.largest(e)
    if low:
        coder.encode_reverse(v >> 2 & (1 << low) - 1, Uniform(1 << low))
        high = (v >> 2 + low) + np.int32(largest)
        coder.encode_reverse(high, Categorical(model.high_parts(e), perfect=False))
        return np.full(2, 0.5)
    tables = model.subsets(e)
    for r in reversed(range(SUBSETS)):
        u = (v[v & 3 == r] >> 2) + np.int32(largest)
        coder.encode_reverse(u, Categorical(tables[r], perfect=False))
    return _bit_probabilities(tables)


def decode_dependent(data: bytes | memoryview, e: Array, count: int) -> Array:
    """Decode `count` integers, int32, of classes e (count,) or (1,). Raises FormatError."""
    e, groups = _groups(e, count)
    segments = _segments(groups)
    stream = Reader(data)
    memory = stream.uint()
    if memory not in MEMORIES:
        raise FormatError(f"a trellis of 2^{memory} states is unknown: the file is damaged or newer than this release")
    model, coder = Model(read_shape(stream)), decoder_of(stream.rest())
    tables = [None if low_bits(c) else model.subsets(c) for c, _, _ in segments]
    v = _decode_remainders(coder, segments, tables, Trellis(memory))
    for (c, start, stop), table in zip(segments, tables, strict=True):
        _decode_class(coder, v[start:stop], c, model, table)
    if not coder.is_empty():
        raise FormatError("a range-coded stream holds more than its numbers: the file is damaged")
    return scatter(v, e, groups, count)


def _decode_remainders(coder: AnsCoder, segments: list[Segment], tables: list[Array | None], trellis: Trellis) -> Array:
    """Every integer mod 4, (n,), int32."""
    half = np.full(2, 0.5)
    chances = np.concatenate([np.zeros(0), *(half if t is None else _bit_probabilities(t) for t in tables)])
    coded = segments[-1][2] if segments else 0
    r, bernoulli = np.empty(coded, np.int32), Bernoulli(perfect=False)
    for start, stop in _chunks(coded):
        paths = _paths(stop - start)
        state, at = np.zeros(paths, np.int32), _class_indices(segments, start, stop)
        for first in range(0, stop - start, paths):
            state = state[: stop - start - first]
            even_or_odd = state & 1
            bit = coder.decode(bernoulli, chances[at[first : first + paths] + even_or_odd])
            bit += bit
            np.add(bit, even_or_odd, out=r[start + first : start + first + len(bit)])
            state = trellis.successors[state + state + (bit >> 1)]
    return r


def _decode_class(coder: AnsCoder, v: Array, e: int, model: Model, tables: Array | None) -> None:
    """Complete integers of which v holds the remainders mod 4, in place."""
    largest = np.int32(model.largest(e))
    if tables is None:
        low = low_bits(e)
        high = coder.decode(Categorical(model.high_parts(e), perfect=False), len(v)) - largest
        v += ((high << low) + coder.decode(Uniform(1 << low), len(v))) << 2
        return
    for r, table in enumerate(tables):
        where = np.flatnonzero(v & 3 == r)
        v[where] += (coder.decode(Categorical(table, perfect=False), len(where)) - largest) << 2
