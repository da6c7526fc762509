"""Many integers of known scale, coded together: against one shape, by their places or by a general coder.

Every integer q comes with a class e: its standard deviation is about 2 ** (e / 4). The classes share one shape, so a
class costs nothing to describe.
"""

from collections.abc import Callable

import numpy as np

from hmcompress.coding.buffer import Reader, Writer
from hmcompress.coding.classes import (
    MAX_CLASS,
    ZERO_CLASS,
    Group,
    class_of,
    gather,
    groups_of,
    scales_of,
    scatter,
)
from hmcompress.coding.diagonals import Way, differences, promising, restored
from hmcompress.coding.general import FEW, histogram_promises, orders, smallest_general
from hmcompress.coding.pool_shapes import Values, candidate_shapes
from hmcompress.coding.ranged import decode_ranged, encode_ranged
from hmcompress.coding.sample import some_of
from hmcompress.coding.sparse import decode_places, encode_places, is_sparse
from hmcompress.coding.streams import decode_ints, encode_ints, encode_noise, encode_quickly
from hmcompress.errors import FormatError

LONG = 1 << 17  # integers from which decoding speed counts: pcodec is twenty times faster than range decoding
_QUICK_MAY_COST = 1.005
_PATTERN = 0.25  # bytes for each integer that is not zero: what takes less has a pattern that range coding misses

_THRIFT_STEPS = 256

# Shares of zeros: a Gaussian's over its standard deviation, how many times more are worth a look, and the least.
_PEAK, _MANY_ZEROS, _ZEROS_LEAST, _ZEROS_SAMPLE = 0.4, 2.0, 0.05, 1 << 12
# How a pool is coded, its first byte.
ANS, PCODEC, EMPTY, BY_ROWS, BY_COLUMNS, SPARSE, SPARSE_BY_COLUMNS = range(7)
DIAGONALS, THRIFTY = 8, 9
_SPARSE_KINDS = ((SPARSE, BY_ROWS), (SPARSE_BY_COLUMNS, BY_COLUMNS))
_BY_CLASSES = tuple(bytes([kind]) for kind in (ANS, PCODEC, THRIFTY))  # what is of no class of its own is not coded
_NOT_IN_SPARSE = tuple(bytes([kind]) for kind in (SPARSE, SPARSE_BY_COLUMNS, DIAGONALS))  # each once: no end of memory


def encode_pool(
    q: np.ndarray,
    e: np.ndarray,
    effort: str = "default",
    x: Values = None,
    width: int | None = None,
    thrift: float = 0.0,
) -> bytes:
    """Encode integers q (n,) of classes e (n,) or a single class. Where e <= ZERO_CLASS, q must be 0.

    x (n,): the values before rounding, in steps; they show the shape at low rates better than integers do. width: the
    row length, where the integers are one matrix; a general coder may then find repetitions along rows or columns.
    thrift: by which x was rounded, in whole 256ths.
    """
    q, e = np.asarray(q).reshape(-1), np.asarray(e, np.int16).reshape(-1)
    if is_sparse(q) and e.max(initial=ZERO_CLASS) > ZERO_CLASS:
        return _smallest_sparse(q, e, x, width, thrift)
    groups = groups_of(e, q.size)
    if not groups:
        return bytes([EMPTY])
    if effort == "fast":
        return bytes([PCODEC]) + encode_quickly(gather(q, e, groups))
    quick = effort == "default" and width is not None and q.size >= LONG
    best = _smallest(q, e, x, groups, quick, thrift)
    if q.size > FEW and not quick and (width is not None or histogram_promises(q, len(best))):
        kind, run = (PCODEC, gather(q, e, groups)) if width is None else (BY_ROWS, q)
        best = _shorter(best, kind, encode_noise(run))  # its bins fit mixtures, which no shape does
    if _has_many_zeros(q, e):
        best = _shorter(best, SPARSE, _encode_sparse(q, e))
    for kind, rows in zip((BY_ROWS, BY_COLUMNS), orders(q, width), strict=False):
        best = _shorter(best, kind, smallest_general(rows, len(best), effort == "max"))
    if width is not None:
        matrix = q.reshape(-1, width)
        best = min([best, *(_encode_diagonals(matrix, way) for way in promising(matrix))], key=len)
    return best


def _shorter(best: bytes, kind: int, body: bytes | None) -> bytes:
    """`best`, or what a coder of this kind made, where it made something and that is shorter."""
    return best if body is None else min(best, bytes([kind]) + body, key=len)


def _encode_diagonals(q: np.ndarray, way: Way) -> bytes:
    """Integers (m, n) less what their diagonals tell, under one class of their own."""
    rest = differences(q, way)
    scale = max(int(class_of(np.sqrt(np.mean(np.square(rest, dtype=np.float64))))), ZERO_CLASS + 1)
    out = way.write(Writer().raw(bytes([DIAGONALS]))).sint(scale)
    width = rest.shape[1] if not any(True for _ in promising(rest)) else None  # once is enough
    return out.raw(encode_pool(rest, np.array([scale]), width=width)).getvalue()


def _decode_diagonals(data: bytes | memoryview, count: int, width: int) -> np.ndarray:
    stream = Reader(data)
    way, scale, body = Way.read(stream, width), stream.sint(), stream.rest()
    if body[:1] == bytes([DIAGONALS]) or not ZERO_CLASS < scale <= MAX_CLASS:
        raise FormatError("a pool of integers is of an unknown or impossible kind: the file is damaged")
    rest = decode_pool(body, np.array([scale]), count, width)
    return restored(rest.reshape(-1, width), way).reshape(-1)


def _smallest_sparse(q: np.ndarray, e: np.ndarray, x: Values, width: int | None, thrift: float) -> bytes:
    """By the places of what is not zero; range coded where these have no pattern; few integers by general coders."""
    found = [bytes([SPARSE]) + _encode_sparse(q, e)]
    for (sparse, general), rows in zip(_SPARSE_KINDS, orders(q, width), strict=False):
        flat = rows.reshape(-1)
        if sparse == SPARSE_BY_COLUMNS:
            found.append(bytes([sparse]) + _encode_sparse(flat, _by_columns(e, width)))
        found += [bytes([general]) + encode_ints(flat, "max", len(min(found, key=len)))] if q.size <= FEW else []
    if min(map(len, found)) > _PATTERN * np.count_nonzero(q):
        found.append(_smallest(q, e, x, groups_of(e, q.size), False, thrift))
    return min(found, key=len)


def _by_columns(e: np.ndarray, width: int | None) -> np.ndarray:
    return e if e.size == 1 or width is None else e.reshape(-1, width).T.reshape(-1)


def _encode_sparse(q: np.ndarray, e: np.ndarray) -> bytes:
    """Places, then the values there under classes that are as much higher as these are larger, all alike."""
    places = np.flatnonzero(q)
    values, own = q[places], e[places] if e.size > 1 else e
    rms = np.sqrt(np.mean(np.square(values / scales_of(own)))) if len(places) else 1.0
    shift = int(class_of(rms))
    out = Writer().section(encode_places(places, q.size)).sint(shift)
    return out.raw(encode_pool(values, _shifted(own, shift), width=len(values))).getvalue()


def _decode_sparse(data: bytes | memoryview, e: np.ndarray, count: int) -> np.ndarray:
    if e.size not in (1, count):
        raise FormatError("scales and integers differ in number: the file is damaged")
    places, values = _sparse_parts(data, lambda places: e[places] if e.size > 1 else e, count)
    q = np.zeros(count, values.dtype)
    q[places] = values
    return q


def _sparse_parts(
    data: bytes | memoryview, classes: Callable[[np.ndarray], np.ndarray], count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Places and values of what _encode_sparse wrote; classes: those of given places."""
    stream = Reader(data)
    places, shift, body = decode_places(stream.section(), count), stream.sint(), stream.rest()
    if body[:1] in _NOT_IN_SPARSE or abs(shift) > MAX_CLASS:
        raise FormatError("a pool of integers is of an unknown or impossible kind: the file is damaged")
    return places, decode_pool(body, _shifted(classes(places), shift), len(places), len(places))


def _shifted(e: np.ndarray, shift: int) -> np.ndarray:
    return np.clip(e.astype(np.int32) + shift, ZERO_CLASS + 1, MAX_CLASS).astype(np.int16)


def _has_many_zeros(q: np.ndarray, e: np.ndarray) -> bool:
    """Whether there are more zeros than a smooth distribution of these scales has, judged by some."""
    some = some_of(q.size, _ZEROS_SAMPLE)
    expected = float(np.mean(np.minimum(_PEAK / scales_of(e[some] if e.size > 1 else e), 1.0)))
    return 1 - int(np.count_nonzero(q[some])) / len(some) > _MANY_ZEROS * expected + _ZEROS_LEAST


def _smallest(q: np.ndarray, e: np.ndarray, x: Values, groups: list[Group], quick: bool, thrift: float) -> bytes:
    """Range coded by the best shape; where `quick`, by pcodec if that costs little more or may be taken to."""
    fast = bytes([BY_ROWS]) + encode_noise(q) if quick else None
    if fast is not None and e.size == 1:
        return fast
    shapes = candidate_shapes(q, e, x, groups)
    q = gather(q, e, groups)
    head = bytes([THRIFTY, round(thrift * _THRIFT_STEPS)]) if thrift else bytes([ANS])
    best = min((head + encode_ranged(q, groups, shape, thrift=thrift) for shape in shapes), key=len)
    return fast if fast is not None and len(fast) <= _QUICK_MAY_COST * len(best) else best


def decode_pool(
    data: bytes | memoryview, e: np.ndarray, count: int, width: int | None = None, narrow: bool = False
) -> np.ndarray:
    """Decode `count` integers, int32 or int64, of classes e (count,) or a single class. Raises FormatError.

    narrow: int16 may be returned too, which is half the memory of a large layer.
    """
    if len(data) < 1:
        raise FormatError("an empty pool of integers: the file is damaged")
    e = np.asarray(e, np.int16).reshape(-1)
    kind, body = data[0], memoryview(data)[1:]
    if kind == SPARSE:
        return _decode_sparse(body, e, count)
    if kind == SPARSE_BY_COLUMNS and width:
        return _decode_sparse(body, _by_columns(e, width), count).reshape(width, -1).T.reshape(-1)
    groups = groups_of(e, count)
    if kind == PCODEC:
        return scatter(decode_ints(body, sum(n for _, n in groups), None), e, groups, count)
    if kind == ANS and groups:
        return scatter(decode_ranged(body, groups, narrow=narrow), e, groups, count)
    if kind == THRIFTY and groups and len(body):
        thrift = body[0] / _THRIFT_STEPS
        return scatter(decode_ranged(body[1:], groups, narrow=narrow, thrift=thrift), e, groups, count)
    if kind in (BY_ROWS, BY_COLUMNS) and width:
        values = decode_ints(body, count, None, narrow)
        return values if kind == BY_ROWS else values.reshape(width, -1).T.reshape(-1)
    if kind == DIAGONALS and width:
        return _decode_diagonals(body, count, width)
    if kind == EMPTY and not groups:
        return np.zeros(count, np.int32)
    raise FormatError("a pool of integers is of an unknown or impossible kind: the file is damaged")


def decode_pool_runs(
    data: bytes | memoryview, classes: np.ndarray, sizes: np.ndarray, width: int
) -> list[tuple[np.ndarray | None, np.ndarray]]:
    """The integers of a pool that consists of runs: of each its values (k,) and where in it they stand, all else zero.

    classes, sizes (runs,): of each run; places are None where all values are given. Runs that are all zero take no
    memory. Raises FormatError.
    """
    classes, count = classes.astype(np.int16), int(sizes.sum())
    ends = np.cumsum(sizes)
    if data[:1] == bytes([SPARSE]):
        places, q = _sparse_parts(bytes(data[1:]), lambda at: classes[np.searchsorted(ends, at, "right")], count)
        cuts = np.searchsorted(places, ends)[:-1]
        at = np.split(places - np.repeat(ends - sizes, np.diff(cuts, prepend=0, append=len(places))), cuts)
        return list(zip(at, np.split(q, cuts), strict=True))
    silent = classes <= ZERO_CLASS if data[:1] in _BY_CLASSES else np.zeros(len(classes), np.bool_)
    some = np.where(silent, 0, sizes)
    q = decode_pool(data, np.repeat(classes, some), int(some.sum()), width)
    none = np.zeros(0, np.int64)
    runs = zip(silent, np.split(q, np.cumsum(some)[:-1]), strict=True)
    return [(none if is_silent else None, values) for is_silent, values in runs]
