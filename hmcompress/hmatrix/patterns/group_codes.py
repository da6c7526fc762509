"""Weights that were codes of a few bits times a scale of their group: dequantised int4, int8, fp8, NF4.

w = code * scale, or code * scale + offset, rounded to the dtype. A group is a row or a column or a part of one, a tile,
or the whole; its scale follows from its largest entry, which has the largest code, or from its smallest gap. What
rounding then leaves is a unit in the last place here and there, and is coded with the rest where it counts.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from hmcompress.coding.buffer import Reader, Writer
from hmcompress.coding.classes import MAX_CLASS, ZERO_CLASS, class_of
from hmcompress.coding.lossless import decode_array, encode_array
from hmcompress.coding.pool import decode_pool, encode_pool
from hmcompress.errors import FormatError
from hmcompress.hmatrix.patterns.divisors import by_divisor, by_divisor_above, may_divide
from hmcompress.hmatrix.patterns.scaled_codes import (
    HALF,
    INTEGERS,
    LARGEST,
    TABLES,
    WAYS,
    Codes,
    Precision,
    Way,
    times_scales,
)
from hmcompress.hmatrix.patterns.tiles import Tile, from_tiles, to_tiles
from hmcompress.hmatrix.tree.integers import read_integers, write_integers

Array = np.ndarray
_PARTS, _TILES = (256, 128, 96, 64, 32, 16), (128, 64)
_WAYS = (*WAYS, by_divisor, by_divisor_above)
_SHORT, _LESS, _SCALE_BITS = 15, 0.8, 16  # what codes span; a share of the bits; those of a scale, about
_BYTES, _FEW, _SURE = 127, 32, 0.2  # the largest code of 8 bits, entries of a small group, and a miss that tells little
_LOOK, _REPEATED, _LINES = 128, 0.7, 4  # neighbours, how many of them differ at most, rows and columns looked at
_SOME, _BEGINNING = 8, 1 << 10  # groups, and entries of each, that tell whether a grouping is worth a try
_ROUNDINGS = 2.1  # by which a code over the largest may miss
_AT_ONCE = 1 << 18
_MANY_SCALES, _SCALES_PARTS = 256, (16, 8)  # groups of scales that have scales of their own
_NESTED = 16  # in place of the first byte of a coded array
_INT32 = 1 << 31
_WORDS = {torch.float32: torch.int32, torch.float16: torch.int16, torch.bfloat16: torch.int16}


def find(w: Tensor, effort: str = "default") -> list[tuple[bytes, bool]]:
    """Bodies of w (m, n), each with whether it is without loss; without codes there is none."""
    if w.dtype not in HALF or not may_be(w):
        return []
    return _forms(w, _tiles((w.shape[0], w.shape[1])), effort)


def _forms(w: Tensor, tiles: Iterable[Tile], effort: str, nested: bool = False) -> list[tuple[bytes, bool]]:
    """Bodies by the first grouping that has short codes, or by that which takes least."""
    best: tuple[Tile, Codes] | None = None
    limit = math.inf
    for tile in tiles:
        codes = _find(to_tiles(w, tile), limit)
        if codes is not None:
            best, limit = (tile, codes), _LESS * _bits(codes)
            if codes.span <= _SHORT:
                break
    return [] if best is None else _write(w, *best, effort, nested)


def _find(groups: Tensor, limit: float) -> Codes | None:
    """Codes of all groups that take less than `limit` bits an entry, as far as some tell."""
    some = _wide(_beginnings(groups))
    for how in _WAYS:
        part = how(some, Precision.of(groups.dtype))
        if part is not None and _bits(part) < limit:
            found = _all(groups, how)
            if found is not None:
                return found
    return None


def _bits(found: Codes) -> float:
    """About what codes and scales take, an entry."""
    return math.log2(found.span + 1) + _SCALE_BITS * found.scales.size / found.codes.size


def may_be(w: Tensor) -> bool:
    """Whether neighbours that are not zero take equal magnitudes so often, or such multiples, that codes are likely."""
    looks = w[:_LINES, :_LOOK], w[:_LOOK, :_LINES].T
    return any(_repeat(x) or _are_bytes(x) or may_divide(x[0].float().numpy(), HALF[x.dtype]) for x in looks)


def _are_bytes(lines: Tensor) -> bool:
    """Whether small groups along the lines (k, n) are codes of 8 bits, of which few are equal in so few entries."""
    miss = _ROUNDINGS * _BYTES * HALF[lines.dtype]
    if miss > _SURE or lines.shape[1] < _FEW:
        return False
    groups = lines[:, : lines.shape[1] // _FEW * _FEW].reshape(-1, _FEW).double()
    codes = _BYTES * groups / groups.abs().amax(1, keepdim=True)
    return bool(((codes - codes.round()).abs() <= miss).all(1).any())


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


def _all(groups: Tensor, how: Way) -> Codes | None:
    """The codes of all groups, some at a time."""
    codes, found = np.empty(groups.shape, np.int32), list[Codes]()
    rows = max(1, _AT_ONCE // groups.shape[1])
    for start in range(0, len(groups), rows):
        part = how(_wide(groups[start : start + rows]), Precision.of(groups.dtype))
        if part is None or (found and part.table != found[0].table):
            return None
        codes[start : start + rows] = part.codes
        found.append(replace(part, codes=codes))
    offsets = [part.offsets for part in found if part.offsets is not None]
    scales = np.concatenate([part.scales for part in found])
    return Codes(found[0].table, codes, scales, np.concatenate(offsets) if offsets else None)


# ---- bytes ----


def _write(w: Tensor, tile: Tile, found: Codes, effort: str, nested: bool) -> list[tuple[bytes, bool]]:
    """Forms with the scales as they are and, where that is shorter, as codes themselves."""
    shape, middle = (w.shape[0], w.shape[1]), int(np.rint(found.codes.mean()))
    codes = from_tiles(torch.from_numpy(found.codes - middle), shape, tile)
    tree = Writer().section(write_integers(codes.numpy(), effort)).getvalue()
    forms = []
    for kept, sections in _numbers(found, (shape[0] // tile[0], shape[1] // tile[1]), effort, nested):
        out = Writer().uint(tile[0]).uint(tile[1]).uint(found.table * 2 + (found.offsets is not None)).sint(middle)
        for section in sections:
            out.section(section)
        forms += _with_rest(out.raw(tree).getvalue(), _left(to_tiles(w, tile), kept.times(w.dtype)))
    return forms


def _with_rest(data: bytes, left: Array) -> list[tuple[bytes, bool]]:
    """A body, with what rounding has left and without."""
    if not left.any():
        return [(data, True)]
    scale = class_of(_rms(left))
    pool = encode_pool(left, np.array([max(scale, ZERO_CLASS + 1)]))
    return [(data + Writer().sint(int(scale)).raw(pool).getvalue(), True), (data, False)]


def _numbers(found: Codes, shape: tuple[int, int], effort: str, nested: bool) -> Iterator[tuple[Codes, list[bytes]]]:
    """Scales and offsets as they are, and where they are codes times scales of their own, as these."""
    some = [x for x in (found.scales, found.offsets) if x is not None]
    plain = [encode_array(x, effort) for x in some]
    yield found, plain
    if nested or found.scales.size < _MANY_SCALES:
        return
    kept, sections = [], []
    for x, as_is in zip(some, plain, strict=True):
        matrix = torch.from_numpy(x).reshape(shape)
        parts = ((1, part) for part in _SCALES_PARTS if shape[1] % part == 0)
        body = min((body for body, _ in _forms(matrix, parts, effort, True)), key=len, default=as_is)
        shorter = len(body) < len(as_is) - 1
        sections.append(bytes([_NESTED]) + body if shorter else as_is)
        kept.append(read(Reader(body), shape, torch.float32, True).numpy().reshape(-1) if shorter else x)
    if sections != plain:
        yield replace(found, scales=kept[0], offsets=kept[1] if len(kept) > 1 else None), sections


def _left(groups: Tensor, decoded: Tensor, dtype: type = np.int32) -> Array:
    """How many representable numbers each weight lies above the decoded one, flat; int32 where that holds all."""
    x, y = groups.reshape(-1), decoded.reshape(-1)
    found: Array = np.empty(len(x), dtype)
    for start in range(0, len(x), _AT_ONCE):
        part = _words(x[start : start + _AT_ONCE]) - _words(y[start : start + _AT_ONCE])
        if dtype == np.int32 and max(int(part.max()), -int(part.min())) >= _INT32:
            return _left(groups, decoded, np.int64)
        found[start : start + _AT_ONCE] = part
    return found


def _rms(x: Array) -> float:
    parts = (x[i : i + _AT_ONCE].astype(np.float64) for i in range(0, x.size, _AT_ONCE))
    return math.sqrt(sum(float(np.dot(part, part)) for part in parts) / x.size)


def _read_numbers(data: bytes, shape: tuple[int, int], nested: bool) -> Array:
    """Scales or offsets of groups (m, n), flat. Raises FormatError."""
    if data[:1] != bytes([_NESTED]):
        return decode_array(data, np.float32, shape[0] * shape[1])
    if nested:
        raise FormatError("scales of groups are nested twice: the file is damaged")
    return read(Reader(data[1:]), shape, torch.float32, True).numpy().reshape(-1)


def read(stream: Reader, shape: tuple[int, int], dtype: torch.dtype, nested: bool = False) -> Tensor:
    """Inverse of find. Raises FormatError."""
    tile = stream.uint(shape[0]), stream.uint(shape[1])
    if dtype not in HALF or not all(tile) or shape[0] % tile[0] or shape[1] % tile[1]:
        raise FormatError("groups of codes do not fit their layer: the file is damaged")
    table, has_offsets = divmod(stream.uint(2 * INTEGERS + 1), 2)
    middle = stream.sint()
    if abs(middle) > LARGEST:
        raise FormatError("codes of groups are out of range: the file is damaged")
    grid = shape[0] // tile[0], shape[1] // tile[1]
    scales, *offsets = (_read_numbers(stream.section(), grid, nested) for _ in range(1 + has_offsets))
    codes = to_tiles(torch.from_numpy(read_integers(Reader(stream.section()), shape)), tile).numpy()
    codes = np.add(codes, middle, dtype=np.int64 if codes.itemsize > 4 else np.int32)
    if table != INTEGERS and (codes.min() < 0 or codes.max() >= len(TABLES[table])):
        raise FormatError("a code is not in its table: the file is damaged")
    x = times_scales(table, codes, scales, offsets[0] if has_offsets else None, dtype)
    if stream.left:
        scale = min(max(stream.sint(), ZERO_CLASS + 1), MAX_CLASS)
        left = decode_pool(stream.rest(), np.array([scale]), codes.size)
        del codes  # as large as the layer
        for part, above in zip(
            x.reshape(-1).split(_AT_ONCE), np.split(left, range(_AT_ONCE, left.size, _AT_ONCE)), strict=True
        ):
            part.copy_(_from_words(_words(part) + above, dtype))
    return from_tiles(x, shape, tile).contiguous()


def _words(x: Tensor) -> Array:
    """The numbers' places among all of their dtype, as integers: neighbours differ by one."""
    words = x.contiguous().view(_WORDS[x.dtype]).numpy().astype(np.int64)
    top = np.int64(1) << (8 * x.element_size() - 1)
    return np.where(words < 0, -1 - (words & (top - 1)), words)


def _from_words(places: Array, dtype: torch.dtype) -> Tensor:
    top = np.int64(1) << (8 * dtype.itemsize - 1)
    words = np.where(places < 0, (-1 - places) | -top, places)
    return torch.from_numpy(words.astype(np.int32 if dtype.itemsize == 4 else np.int16)).view(dtype)
