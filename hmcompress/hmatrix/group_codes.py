"""Weights that were codes of a few bits times a scale of their group: dequantised int4, int8, fp8, NF4.

w = code * scale, or code * scale + offset, rounded to the dtype. A group is a row or a column or a part of one, a tile,
or the whole; its scale follows from its largest entry, which has the largest code, or from its smallest gap. What
rounding then leaves is a unit in the last place here and there, and is coded with the rest where it counts.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hmcompress.coding.buffer import Reader, Writer
from hmcompress.coding.classes import MAX_CLASS, ZERO_CLASS, class_of
from hmcompress.coding.lossless import decode_array, encode_array
from hmcompress.coding.pool import decode_pool, encode_pool
from hmcompress.errors import FormatError
from hmcompress.hmatrix.blocks import Leaf
from hmcompress.hmatrix.parts import CodedLeaf, CodedRemainder
from hmcompress.hmatrix.rank_one import Scales, fit_scales
from hmcompress.hmatrix.tiles import Tile, from_tiles, to_tiles
from hmcompress.hmatrix.treestream import read_tree, write_tree

Array = np.ndarray
_PARTS, _TILES = (256, 128, 64, 32), (128, 64)
_LARGEST = 1 << 15  # codes beyond are no lattice worth the name
_LOOK, _REPEATED, _LINES = 128, 0.7, 4  # neighbours, how many of them differ at most, rows and columns looked at
_SOME, _BEGINNING = 8, 1 << 10  # groups, and entries of each, that tell whether a grouping is worth a try
_AT_ONCE = 1 << 18
_APART, _NOISE = 4.0, 1e-4  # roundings, and a share of the largest entry, that are no gap
_ROUNDINGS = 2.1  # that separate an entry over the largest from the ratio of their codes
_HALF = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}  # a unit in the last place, of 1
_WORDS = {torch.float32: torch.int32, torch.float16: torch.int16, torch.bfloat16: torch.int16}
_NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334),
    *(-0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
# Codes that are whole numbers, or places in one of these lists: 8-bit floats and the quantiles of a Gaussian.
_FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)


def _floats(dtype: torch.dtype) -> Array:
    values = torch.arange(256, dtype=torch.uint8).view(dtype).double().numpy()
    return np.unique(values[np.isfinite(values)])


TABLES = (*map(_floats, _FLOAT8), np.array(_NF4))
_INTEGERS = len(TABLES)
_TOPS, _SPANS = (127, 7, 128, 8, 1, 3, 4, 15, 31), (15, 3, 7, 255, 31, 63)


@dataclass(frozen=True)
class Rounding:
    """half: of a unit in the last place of 1. least: the smallest normal number."""

    half: float
    least: float

    @staticmethod
    def of(dtype: torch.dtype) -> "Rounding":
        return Rounding(_HALF[dtype], torch.finfo(dtype).tiny)

    def most(self, size: Array) -> Array:
        """By how much rounding moves numbers of these magnitudes, at most."""
        return self.half * np.maximum(size, self.least)


@dataclass(frozen=True)
class _Codes:
    """Codes (groups, entries) as whole numbers, scales (groups,) and offsets; table: of TABLES, or _INTEGERS."""

    table: int
    codes: Array
    scales: Array
    offsets: Array | None = None

    def times(self, dtype: torch.dtype) -> Tensor:
        return _times(_values(self.table, self.codes), self.scales, self.offsets, dtype)


def find(w: Tensor, effort: str = "default") -> list[tuple[bytes, bool]]:
    """Bodies of w (m, n), each with whether it is without loss; without codes there is none."""
    if w.dtype not in _HALF or not _repeats(w):
        return []
    for tile in _tiles((w.shape[0], w.shape[1])):
        groups = to_tiles(w, tile)
        some = _wide(_beginnings(groups))
        for how in _WAYS:
            if how(some, Rounding.of(w.dtype)) is not None:
                found = _all(groups, how)
                if found is not None:
                    return _write(w, tile, groups, found, effort)
    return []


def _repeats(w: Tensor) -> bool:
    """Whether neighbours that are not zero take equal magnitudes so often that there may be few codes."""
    return any(_repeat(lines) for lines in (w[:_LINES, :_LOOK], w[:_LOOK, :_LINES].T))


def _repeat(lines: Tensor) -> bool:
    """Whether magnitudes other than zero come again often in one of the lines (k, n)."""
    ordered = np.sort(lines.abs().float().numpy(), axis=1)
    different = np.count_nonzero(np.diff(ordered, axis=1, prepend=0), axis=1)
    return bool((different <= _REPEATED * np.count_nonzero(ordered, axis=1))[different > 0].any())


def _tiles(shape: tuple[int, int]) -> Iterator[Tile]:
    m, n = shape
    yield m, n
    for t in _TILES:
        if m % t == 0 and n % t == 0 and m * n > t * t:
            yield t, t
    yield 1, n
    yield m, 1
    for part in _PARTS:
        if n % part == 0 and part < n:
            yield 1, part
        if m % part == 0 and part < m:
            yield part, 1


def _beginnings(groups: Tensor) -> Tensor:
    """Some groups: their first entries, the smallest and the largest."""
    some = groups[:: -(-len(groups) // _SOME)]
    ends = some.amin(1, keepdim=True), some.amax(1, keepdim=True)
    return torch.cat([some[:, :_BEGINNING], *ends], 1)


def _wide(groups: Tensor) -> Array:
    return groups.double().numpy()


# ---- three ways to find the codes of groups x (groups, entries), float64 ----


def _by_gap(x: Array, rounding: Rounding) -> _Codes | None:
    """Whole multiples of the smallest gap between magnitudes."""
    ordered = np.sort(np.abs(x), axis=1)
    gaps = np.diff(ordered, axis=1, prepend=0)
    real = gaps > np.maximum(_APART * rounding.most(ordered[:, -1:]), _NOISE * ordered[:, -1:])
    smallest = np.where(real, gaps, np.inf).min(axis=1, initial=np.inf)
    scales = np.where(np.isfinite(smallest), smallest, 1.0)
    return _multiples(x, rounding, scales)


def _by_largest(x: Array, rounding: Rounding) -> _Codes | None:
    """Codes of which the largest stands for the largest magnitude."""
    largest = np.abs(x).max(axis=1, initial=0)
    largest = np.where(largest > 0, largest, 1.0)
    for table, points in enumerate(TABLES):
        scales = largest / points[-1]
        codes = np.searchsorted((points[1:] + points[:-1]) / 2, x / scales[:, None])
        found = _checked(x, rounding, table, codes, scales)
        if found is not None:
            return found
    for top in _TOPS:
        found = _multiples(x, rounding, largest / top)
        if found is not None:
            return found
    return None


def _multiples(x: Array, rounding: Rounding, scales: Array) -> _Codes | None:
    """Whole multiples of scales (groups,) that are known about."""
    codes = np.rint(x / scales[:, None])
    for _ in range(2):  # the least-squares scale for the multiples that the last one gives
        if np.abs(codes).max(initial=0) > _LARGEST:
            return None
        power = np.square(codes).sum(1)
        scales = np.where(power > 0, (x * codes).sum(1) / np.maximum(power, 1), 1.0)
        codes = np.rint(x / scales[:, None])
    return _checked(x, rounding, _INTEGERS, codes, scales)


def _by_ends(x: Array, rounding: Rounding) -> _Codes | None:
    """Whole multiples above the smallest entry, of which the largest is a power of two less one."""
    low, high = x.min(axis=1, initial=np.inf), x.max(axis=1, initial=-np.inf)
    for span in _SPANS:
        scales = np.where(high > low, (high - low) / span, 1.0)
        codes = np.rint((x - low[:, None]) / scales[:, None])
        allowed = _ROUNDINGS * rounding.most(np.abs(x).max(axis=1)) / scales
        off = np.abs((x - low[:, None]) / scales[:, None] - codes).max(axis=1)
        if (allowed < 0.25).all() and (off <= allowed).all():
            fitted = _fit(x, codes)
            return _Codes(_INTEGERS, codes, *(part.astype(np.float32) for part in fitted))
    return None


Way = Callable[[Array, Rounding], _Codes | None]
_WAYS: tuple[Way, ...] = (_by_gap, _by_largest, _by_ends)


def _fit(x: Array, codes: Array) -> tuple[Array, Array]:
    """Scales and offsets (groups,) by least squares."""
    mean, middle = codes.mean(1, keepdims=True), x.mean(1, keepdims=True)
    power = np.square(codes - mean).sum(1)
    scales = ((codes - mean) * (x - middle)).sum(1) / np.maximum(power, 1e-30)
    return scales, (middle - scales[:, None] * mean)[:, 0]


def _checked(x: Array, rounding: Rounding, table: int, codes: Array, scales: Array) -> _Codes | None:
    """The codes, with the simplest scales that give back x, if they are x to within its rounding."""
    values = _values(table, codes)
    size = np.abs(values)
    off = np.abs(x - values * scales[:, None])
    allowed = np.where(size > 0, _ROUNDINGS * rounding.most(size * scales[:, None]), rounding.most(np.zeros(1)))
    if (off > allowed).any():
        return None
    # What x was rounded from lies within half a unit in the last place, which bounds the scale from both sides.
    half = rounding.most(np.exp2(np.floor(np.log2(np.maximum(np.abs(x), 1e-300)))))
    some, divisor = size > 0, np.maximum(size, 1e-300)
    low = np.where(some, (np.abs(x) - half) / divisor, 0).max(axis=1)
    high = np.where(some, (np.abs(x) + half) / divisor, np.inf).min(axis=1)
    middle = np.where((low <= high) & np.isfinite(high), (low + np.where(np.isfinite(high), high, 0)) / 2, scales)
    return _Codes(table, codes, _simplest(middle, low, high))


def _simplest(middle: Array, low: Array, high: Array) -> Array:
    """float32 scales between low and high (groups,), those of fewer bits where they do."""
    best = middle.astype(np.float32)
    for dtype in (torch.float16, torch.bfloat16):
        short = torch.from_numpy(middle).to(dtype).double().numpy()
        best = np.where((low <= short) & (short <= high), short, best).astype(np.float32)
    return best


def _values(table: int, codes: Array) -> Array:
    return codes if table == _INTEGERS else TABLES[table][codes.astype(np.int64)]


def _times(values: Array, scales: Array, offsets: Array | None, dtype: torch.dtype) -> Tensor:
    """values (groups, entries) by scales (groups,), in float32, then rounded to the dtype."""
    x = values.astype(np.float32) * scales.astype(np.float32)[:, None]
    x = x if offsets is None else x + offsets.astype(np.float32)[:, None]
    return torch.from_numpy(x).to(dtype)


def _all(groups: Tensor, how: Way) -> _Codes | None:
    """The codes of all groups, some at a time."""
    found: list[_Codes] = []
    for some in groups.split(max(1, _AT_ONCE // groups.shape[1])):
        part = how(_wide(some), Rounding.of(groups.dtype))
        if part is None or (found and part.table != found[0].table):
            return None
        found.append(part)
    offsets = [part.offsets for part in found if part.offsets is not None]
    codes = np.concatenate([part.codes.astype(np.int32) for part in found])
    scales = np.concatenate([part.scales for part in found])
    return _Codes(found[0].table, codes, scales, np.concatenate(offsets) if offsets else None)


# ---- bytes ----


def _write(w: Tensor, tile: Tile, groups: Tensor, found: _Codes, effort: str) -> list[tuple[bytes, bool]]:
    shape, middle = (w.shape[0], w.shape[1]), int(np.rint(found.codes.mean()))
    left = _words(groups) - _words(found.times(w.dtype))
    out = Writer().uint(tile[0]).uint(tile[1]).uint(found.table * 2 + (found.offsets is not None)).sint(middle)
    for numbers in (found.scales, found.offsets):
        if numbers is not None:
            out.section(encode_array(numbers, effort))
    x = from_tiles(torch.from_numpy(found.codes - middle), shape, tile).double().numpy()
    part = CodedRemainder(x.astype(np.int32), _audible(x), 0, x)
    data = out.section(write_tree(Leaf(0, True), [CodedLeaf(shape, (part,))], effort)).getvalue()
    if not left.any():
        return [(data, True)]
    scale = class_of(np.sqrt(np.mean(np.square(left, dtype=np.float64))))
    pool = encode_pool(left, np.array([max(scale, ZERO_CLASS + 1)]))
    return [(data + Writer().sint(int(scale)).raw(pool).getvalue(), True), (data, False)]


def _audible(x: Array) -> Scales:
    """Scales under which no entry is left out."""
    scales = fit_scales(x, alone=True)
    silent = (scales.classes(x.shape) <= ZERO_CLASS) & (x.reshape(-1) != 0)
    return Scales(max(scales.block, ZERO_CLASS + 1)) if silent.any() else scales


def read(stream: Reader, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Inverse of find. Raises FormatError."""
    tile = stream.uint(shape[0]), stream.uint(shape[1])
    if dtype not in _HALF or not all(tile) or shape[0] % tile[0] or shape[1] % tile[1]:
        raise FormatError("groups of codes do not fit their layer: the file is damaged")
    table, has_offsets = divmod(stream.uint(2 * _INTEGERS + 1), 2)
    middle, count = stream.sint(), shape[0] * shape[1] // (tile[0] * tile[1])
    scales, *offsets = (decode_array(stream.section(), np.float32, count) for _ in range(1 + has_offsets))
    codes = to_tiles(torch.from_numpy(read_integers(Reader(stream.section()), shape)), tile).numpy() + middle
    if table != _INTEGERS and (codes.min() < 0 or codes.max() >= len(TABLES[table])):
        raise FormatError("a code is not in its table: the file is damaged")
    x = _times(_values(table, codes), scales, offsets[0] if has_offsets else None, dtype)
    if stream.left:
        scale = min(max(stream.sint(), ZERO_CLASS + 1), MAX_CLASS)
        left = decode_pool(stream.rest(), np.array([scale]), codes.size)
        x = _from_words(_words(x) + left.reshape(codes.shape), dtype)
    return from_tiles(x, shape, tile).contiguous()


def read_integers(stream: Reader, shape: tuple[int, int]) -> Array:
    """A matrix of whole numbers, the remainder of a tree of one leaf. Raises FormatError."""
    _, leaves = read_tree(stream, shape)
    parts = leaves[0].parts if len(leaves) == 1 else ()
    if len(parts) != 1 or not isinstance(parts[0], CodedRemainder) or parts[0].basis:
        raise FormatError("a lattice holds no integers: the file is damaged")
    return parts[0].q.astype(np.int64)


def _words(x: Tensor) -> Array:
    """The numbers' places among all of their dtype, as integers: neighbours differ by one."""
    words = x.contiguous().view(_WORDS[x.dtype]).numpy().astype(np.int64)
    top = np.int64(1) << (8 * x.element_size() - 1)
    return np.where(words < 0, -1 - (words & (top - 1)), words)


def _from_words(places: Array, dtype: torch.dtype) -> Tensor:
    top = np.int64(1) << (8 * dtype.itemsize - 1)
    words = np.where(places < 0, (-1 - places) | -top, places)
    return torch.from_numpy(words.astype(np.int32 if dtype.itemsize == 4 else np.int16)).view(dtype)
