"""Codec `lattice`: weights that take few values by construction, kept as they are.

A dequantised int8 or int4 layer is whole multiples of a step by row, column, group or tensor; a clustered or ternary
one has a short list of values; a checkpoint in float32 may hold bfloat16 numbers. Each is found from the values alone.
"""

import numpy as np
import torch
from torch import Tensor

from hmcompress.coding.buffer import Reader, Writer
from hmcompress.coding.streams import decode_ints, encode_ints
from hmcompress.errors import FormatError
from hmcompress.hmatrix.basics import exact
from hmcompress.hmatrix.basics.bodies import DenseBody
from hmcompress.hmatrix.patterns import group_codes

Array = np.ndarray
VALUES, NARROW, GROUPS = range(1, 4)
_MOST_VALUES = 1 << 12
_MOST_SHORT_VALUES = 1 << 8  # of 16 bits, whose words are as short as places in a longer list
_AT_ONCE = 1 << 18  # entries, so that what they are compared with stays in the cache
_FIRST = 1 << 11  # entries of a first look, of which nine in ten differ where there is no list of values
_PROBE_ROWS = 4
_NARROWER = {
    torch.float64: (torch.float32, torch.bfloat16, torch.float16),
    torch.float32: (torch.bfloat16, torch.float16),
}
_CODES = (torch.float32, torch.bfloat16, torch.float16)


def find(w: Tensor, effort: str = "default") -> list[bytes]:
    """Forms of w (m, n) as a lattice, the smallest first; none where it is none.

    All give back its values but, of codes of groups, one that is off by what rounding to the dtype was.
    """
    return sorted([*_narrow(w, effort), *_values(w, effort), *_groups(w, effort), *_rounded(w, effort)], key=len)


def decode(data: bytes, shape: tuple[int, int], dtype: torch.dtype) -> DenseBody:
    """Inverse of find. Raises FormatError."""
    stream = Reader(data)
    kind, exactly = divmod(stream.uint(), 2)
    readers = {VALUES: _read_values, NARROW: _read_narrow, GROUPS: group_codes.read}
    if kind not in readers:
        raise FormatError(f"lattice kind {kind} is unknown: the file is damaged or newer than this release")
    return DenseBody(readers[kind](stream, shape, dtype), "lossless" if exactly else "hmatrix")


def _head(kind: int, w: Tensor, decoded: Tensor) -> Writer:
    """The kind, and whether decoding gives the same bits: a zero may lose its sign."""
    return Writer().uint(kind * 2 + bool(torch.equal(torch.signbit(w), torch.signbit(decoded))))


def _narrow(w: Tensor, effort: str) -> list[bytes]:
    for dtype in _NARROWER.get(w.dtype, ()):
        if torch.equal(w[:_PROBE_ROWS].to(dtype).to(w.dtype), w[:_PROBE_ROWS]):
            narrow = w.to(dtype)
            if torch.equal(narrow.to(w.dtype), w):
                bodies = [b"\1" + inner for inner in find(narrow, effort)]
                bodies.append(b"\0" + exact.encode(narrow, effort))
                return [Writer().uint(NARROW * 2 + 1).uint(_CODES.index(dtype)).raw(b).getvalue() for b in bodies]
    return []


def _rounded(w: Tensor, effort: str) -> list[bytes]:
    """Codes times scales in float64, as those in float32 that are next to them."""
    if w.dtype != torch.float64:
        return []
    narrow = w.float()
    inner = _groups(narrow, effort) if torch.isfinite(narrow).all() else []
    return [Writer().uint(NARROW * 2).uint(_CODES.index(torch.float32)).raw(b"\1" + b).getvalue() for b in inner]


def _read_narrow(stream: Reader, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    narrow = _CODES[stream.uint(len(_CODES) - 1)]
    if narrow not in _NARROWER.get(dtype, ()):
        raise FormatError("a layer is stored in a dtype as wide as its own: the file is damaged")
    body = decode if stream.uint(1) else exact.decode
    return body(stream.rest(), shape, narrow).to_dense().to(dtype)


def _values(w: Tensor, effort: str) -> list[bytes]:
    flat = w.reshape(-1)
    most = _MOST_VALUES if w.element_size() > 2 else _MOST_SHORT_VALUES
    limit = min(most, flat.numel() // 8)
    if limit == 0 or _distinct(flat[:_FIRST]) > 0.9 * _FIRST:
        return []
    values = _list_of_values(flat, limit)
    if values is None:
        return []
    index = torch.cat([torch.searchsorted(values, part, out_int32=True).short() for part in flat.split(_AT_ONCE)])
    out = _head(VALUES, w, values[index.int()].reshape(w.shape))
    out.uint(values.numel()).section(exact.encode(values[None], effort))
    return [out.raw(encode_ints(index.numpy(), effort)).getvalue()]


def _list_of_values(flat: Tensor, limit: int) -> Tensor | None:
    """The distinct values of flat (n,), ascending; None as soon as there are more than `limit`."""
    values = torch.unique(flat[: 4 * limit])
    for part in flat[4 * limit :].split(_AT_ONCE):
        if values.numel() > limit:
            return None
        place = torch.searchsorted(values, part, out_int32=True).clamp_(max=values.numel() - 1)
        values = torch.unique(torch.cat([values, part[values[place] != part]]))
    return values if values.numel() <= limit else None


def _distinct(x: Tensor) -> int:
    """How many values x (n,) takes, in float32."""
    ordered = np.sort(x.float().numpy())
    return 1 + int(np.count_nonzero(ordered[1:] != ordered[:-1]))


def _read_values(stream: Reader, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    count = stream.uint(_MOST_VALUES)
    values = exact.decode(stream.section(), (1, count), dtype).values[0]
    index = decode_ints(stream.rest(), shape[0] * shape[1], np.int64)
    if index.size and (index.min() < 0 or index.max() >= len(values)):
        raise FormatError("a layer names a value that is not in its list: the file is damaged")
    return values[torch.from_numpy(index)].reshape(shape)


def _groups(w: Tensor, effort: str) -> list[bytes]:
    return [Writer().uint(GROUPS * 2 + exactly).raw(body).getvalue() for body, exactly in group_codes.find(w, effort)]
