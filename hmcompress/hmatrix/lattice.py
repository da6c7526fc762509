"""Codec `lattice`: weights that take few values by construction, kept as they are.

A dequantised int8 or int4 layer is whole multiples of a step by row, column, group or tensor; a clustered or ternary
one has a short list of values; a checkpoint in float32 may hold bfloat16 numbers. Each is found from the values alone.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from hmcompress.coding.buffer import Reader, Writer
from hmcompress.coding.classes import ZERO_CLASS
from hmcompress.coding.lossless import decode_array, encode_array
from hmcompress.coding.streams import decode_ints, encode_ints
from hmcompress.errors import FormatError
from hmcompress.hmatrix import exact
from hmcompress.hmatrix.blocks import Leaf
from hmcompress.hmatrix.bodies import DenseBody
from hmcompress.hmatrix.parts import CodedLeaf, CodedRemainder
from hmcompress.hmatrix.rank_one import Scales, fit_scales
from hmcompress.hmatrix.treestream import read_tree, write_tree

Array = np.ndarray
MULTIPLES, VALUES, NARROW = range(3)
_GROUPS = (0, 256, 128, 64, 32)  # entries that share a step; 0: a whole row
_LARGEST = 1 << 15  # multiples beyond are no lattice worth the name
_MOST_VALUES = 1 << 12
_MOST_SHORT_VALUES = 1 << 8  # of 16 bits, whose words are as short as places in a longer list
_AT_ONCE = 1 << 18  # entries, so that what they are compared with stays in the cache
_FIRST = 1 << 11  # entries of a first look, of which nine in ten differ where there is no list of values
_PROBE_ROWS = 4
_LOOK = 1 << 10  # entries of a row or column
_NARROWER = {
    torch.float64: (torch.float32, torch.bfloat16, torch.float16),
    torch.float32: (torch.bfloat16, torch.float16),
}
_CODES = (torch.float32, torch.bfloat16, torch.float16)


def find(w: Tensor, effort: str = "default") -> bytes | None:
    """The smallest form of w (m, n) as a lattice, or None where it is none. Its values come back equal."""
    found = [body for body in (_narrow(w, effort), _values(w, effort), _multiples(w, effort)) if body is not None]
    return min(found, key=len, default=None)


def decode(data: bytes, shape: tuple[int, int], dtype: torch.dtype) -> DenseBody:
    """Inverse of find. Raises FormatError."""
    stream = Reader(data)
    kind, exactly = divmod(stream.uint(), 2)
    readers = {MULTIPLES: _read_multiples, VALUES: _read_values, NARROW: _read_narrow}
    if kind not in readers:
        raise FormatError(f"lattice kind {kind} is unknown: the file is damaged or newer than this release")
    return DenseBody(readers[kind](stream, shape, dtype), "lossless" if exactly else "hmatrix")


def _head(kind: int, w: Tensor, decoded: Tensor) -> Writer:
    """The kind, and whether decoding gives the same bits: a zero may lose its sign."""
    return Writer().uint(kind * 2 + bool(torch.equal(torch.signbit(w), torch.signbit(decoded))))


def _narrow(w: Tensor, effort: str) -> bytes | None:
    for dtype in _NARROWER.get(w.dtype, ()):
        if torch.equal(w[:_PROBE_ROWS].to(dtype).to(w.dtype), w[:_PROBE_ROWS]):
            narrow = w.to(dtype)
            if torch.equal(narrow.to(w.dtype), w):
                inner = find(narrow, effort)
                body = b"\1" + inner if inner is not None else b"\0" + exact.encode(narrow, effort)
                return Writer().uint(NARROW * 2 + 1).uint(_CODES.index(dtype)).raw(body).getvalue()
    return None


def _read_narrow(stream: Reader, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    narrow = _CODES[stream.uint(len(_CODES) - 1)]
    if narrow not in _NARROWER.get(dtype, ()):
        raise FormatError("a layer is stored in a dtype as wide as its own: the file is damaged")
    body = decode if stream.uint(1) else exact.decode
    return body(stream.rest(), shape, narrow).to_dense().to(dtype)


def _values(w: Tensor, effort: str) -> bytes | None:
    flat = w.reshape(-1)
    most = _MOST_VALUES if w.element_size() > 2 else _MOST_SHORT_VALUES
    limit = min(most, flat.numel() // 8)
    if limit == 0 or _distinct(flat[:_FIRST]) > 0.9 * _FIRST:
        return None
    values = _list_of_values(flat, limit)
    if values is None:
        return None
    index = torch.cat([torch.searchsorted(values, part, out_int32=True).short() for part in flat.split(_AT_ONCE)])
    out = _head(VALUES, w, values[index.int()].reshape(w.shape))
    out.uint(values.numel()).section(exact.encode(values[None], effort))
    return out.raw(encode_ints(index.numpy(), effort)).getvalue()


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
    return 1 + int(np.count_nonzero(np.diff(ordered)))


def _read_values(stream: Reader, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    count = stream.uint(_MOST_VALUES)
    values = exact.decode(stream.section(), (1, count), dtype).values[0]
    index = decode_ints(stream.rest(), shape[0] * shape[1], np.int64)
    if index.size and (index.min() < 0 or index.max() >= len(values)):
        raise FormatError("a layer names a value that is not in its list: the file is damaged")
    return values[torch.from_numpy(index)].reshape(shape)


def _multiples(w: Tensor, effort: str) -> bytes | None:
    if w.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return None
    groupings = list(_groupings(w.shape))
    for (transposed, group), promising in zip(groupings, _promising(w, groupings), strict=True):
        if not promising:
            continue
        grouped = _grouped(w, transposed, group)
        steps = _steps(grouped)
        if steps is not None:
            return _write_multiples(w, grouped, steps, transposed, group, effort)
    return None


def _promising(w: Tensor, groupings: list[tuple[bool, int]]) -> Array:
    """For each grouping of w (m, n) whether its first group, or the beginning of a long one, is multiples of one step.

    Its first row and column tell, with no copy of the whole.
    """
    lines = [line[:_LOOK].double().numpy() for line in (w[0], w[:, 0])]
    looks = np.zeros((len(groupings), max(map(len, lines))))  # zero is a multiple of any step
    for look, (transposed, group) in zip(looks, groupings, strict=True):
        first = lines[transposed][: group or _LOOK]
        look[: len(first)] = first
    return _multiples_of(looks)[2]


def _groupings(shape: torch.Size) -> Iterator[tuple[bool, int]]:
    for group in _GROUPS:
        for transposed, n in ((False, shape[1]), (True, shape[0])):
            if group == 0 or (n % group == 0 and group < n):
                yield transposed, group


def _grouped(w: Tensor, transposed: bool, group: int) -> Tensor:
    x = w.T if transposed else w
    return x.reshape(-1, group) if group else x


def _steps(rows: Tensor) -> Array | None:
    """The step of each row, float32, if every row is whole multiples of one in its own dtype; else None."""
    found = []
    for some in rows.split(max(1, _AT_ONCE // rows.shape[1])):
        k, steps, whole = _multiples_of(some.double().numpy())
        settled = _settle(some, k, steps.astype(np.float32)) if whole.all() else None
        if settled is None:
            return None
        found.append(settled)
    return np.concatenate(found)


def _multiples_of(x: Array) -> tuple[Array, Array, Array]:
    """For the rows of x (m, n): multiples (m, n), steps (m,), and whether the row is these multiples of its step."""
    ordered = np.sort(np.abs(x), axis=1)
    gaps = np.diff(ordered, axis=1, prepend=0)
    tiny = 1e-4 * ordered[:, -1:]
    smallest = np.where(gaps > tiny, gaps, np.inf).min(axis=1, initial=np.inf)
    steps = np.where(np.isfinite(smallest), smallest, 1.0)
    found = np.ones(len(x), bool)
    for _ in range(2):  # the least-squares step for the multiples that the last one gives
        k = np.rint(x / steps[:, None])
        found &= np.abs(k).max(axis=1, initial=0) <= _LARGEST
        power = (k * k).sum(1)
        steps = np.where(power > 0, (x * k).sum(1) / np.maximum(power, 1), 1.0)
    found &= np.max(np.abs(x - k * steps[:, None]) - 1e-2 * steps[:, None], axis=1, initial=-np.inf) <= 0
    return k, steps, found


def _settle(rows: Tensor, k: Array, steps: Array) -> Array | None:
    """The float32 step within two units in the last place that gives back every row exactly, or None."""
    done, best = np.zeros(len(steps), bool), steps.copy()
    for shift in (0, 1, -1, 2, -2):
        trial = steps
        for _ in range(abs(shift)):
            trial = np.nextafter(trial, np.float32(np.inf if shift > 0 else -np.inf))
        equal = (_times(k, trial, rows.dtype) == rows).all(1).numpy()
        best = np.where(equal & ~done, trial, best)
        done |= equal
    return best if done.all() else None


def _times(k: Array, steps: Array, dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(k.astype(np.float32) * steps.astype(np.float32)[:, None]).to(dtype)


def _write_multiples(w: Tensor, grouped: Tensor, steps: Array, transposed: bool, group: int, effort: str) -> bytes:
    k = np.rint(grouped.double().numpy() / steps[:, None].astype(np.float64))
    decoded = _times(k, steps, w.dtype)
    x = torch.from_numpy(k).reshape(w.T.shape if transposed else w.shape).numpy()
    x = np.ascontiguousarray(x.T if transposed else x)
    flat = w.T.reshape(decoded.shape) if transposed else w.reshape(decoded.shape)
    out = _head(MULTIPLES, flat, decoded).uint(group * 2 + transposed)
    out.section(encode_array(steps, effort))
    leaf = CodedLeaf(x.shape, (CodedRemainder(x.astype(np.int32), _audible(x), 0, x),))
    return out.raw(write_tree(Leaf(0, True), [leaf], effort)).getvalue()


def _audible(x: Array) -> Scales:
    """Scales under which no entry is left out."""
    scales = fit_scales(x, alone=True)
    silent = (scales.classes(x.shape) <= ZERO_CLASS) & (x.reshape(-1) != 0)
    return Scales(max(scales.block, ZERO_CLASS + 1)) if silent.any() else scales


def _read_multiples(stream: Reader, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    group, transposed = divmod(stream.uint(), 2)
    m, n = shape[::-1] if transposed else shape
    if group and n % group:
        raise FormatError("a lattice's groups do not fit its layer: the file is damaged")
    steps = decode_array(stream.section(), np.float32, m * n // group if group else m)
    _, leaves = read_tree(stream, shape)
    parts = leaves[0].parts if len(leaves) == 1 else ()
    if len(parts) != 1 or not isinstance(parts[0], CodedRemainder) or parts[0].basis:
        raise FormatError("a lattice holds no integers: the file is damaged")
    q = parts[0].q.T if transposed else parts[0].q
    values = _times(q.reshape(len(steps), -1), steps, dtype).reshape(m, n)
    return values.T.contiguous() if transposed else values
