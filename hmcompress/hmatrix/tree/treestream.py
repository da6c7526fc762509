"""A tree of coded leaves as bytes: structure, scales, then two pools of integers, factors and remainders."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hmcompress.coding.buffer import Reader, Writer
from hmcompress.coding.classes import MAX_CLASS, ZERO_CLASS
from hmcompress.coding.lossless import zstd_compress, zstd_decompress
from hmcompress.coding.pool import decode_pool, encode_pool
from hmcompress.coding.sample import Joined
from hmcompress.coding.side import decode_side, encode_side
from hmcompress.errors import FormatError
from hmcompress.hmatrix.basics.scales import Scales
from hmcompress.hmatrix.tree.basis import BASES, PLAIN, USUAL
from hmcompress.hmatrix.tree.blocks import Block, Copy, Leaf, Plan, Split, max_nodes
from hmcompress.hmatrix.tree.parts import CodedFactors, CodedLeaf, CodedPart, CodedRemainder
from hmcompress.hmatrix.tree.transform import TRANSFORMS, CodedColumns, band_count, expand_classes

Array = np.ndarray
SPLIT, ZERO, LOW_RANK, QUANTIZED, HYBRID, COPY, COPY_TRANSPOSED = range(7)
_PLAIN_STRUCTURE = 40  # bytes up to which zstd is not tried
_NODE_BYTES = 32  # the longest description of a node
_MAX_COARSE = 30
_HEADS = (MAX_CLASS - ZERO_CLASS) * 4 + 4  # what the scales of a remainder may be
_RARE = len(BASES) - USUAL


@dataclass(frozen=True)
class _Outline:
    """What the structure says of a leaf, before its integers are read."""

    shape: tuple[int, int]
    rank: int = 0
    coarse: int = 0
    remainder: bool = False
    block: int = ZERO_CLASS
    sides: tuple[bool, bool] = (False, False)  # whether rows, and columns, have scales
    basis: int = PLAIN


def write_tree(plan: Plan, leaves: list[CodedLeaf], effort: str, general: bool = True) -> bytes:
    """Write a plan and its coded leaves, which stand in preorder. general: whether general coders are worth a try."""
    structure = Writer()
    _write_structure(plan, iter(leaves), structure)
    packed = structure.getvalue()
    squeezed = zstd_compress(packed, 19) if len(packed) > _PLAIN_STRUCTURE else packed
    out = Writer().uint(len(packed)).section(min(packed, squeezed, key=len))
    factors = [p for leaf in leaves for p in leaf.parts if isinstance(p, CodedFactors)]
    remainders = [p for leaf in leaves for p in leaf.parts if isinstance(p, CodedRemainder)]
    if factors:
        _write_factors(factors, out, effort)
    if remainders:
        _write_remainders(remainders, out, effort, general)
    return out.getvalue()


def read_tree(data: Reader, shape: tuple[int, int]) -> tuple[Plan, list[CodedLeaf]]:
    """Inverse of write_tree for a (m, n) matrix. Raises FormatError."""
    size = data.uint(_NODE_BYTES * max_nodes(shape))
    packed = data.section()
    structure = Reader(packed if len(packed) == size else zstd_decompress(packed, size))
    outlines: list[_Outline] = []
    plan = _read_structure(Block(0, shape[0], 0, shape[1]), structure, outlines, [])
    if structure.left:
        raise FormatError("the tree has more nodes than it needs: the file is damaged")
    ranked = [o for o in outlines if o.rank]
    factors = iter(_read_factors(ranked, data) if ranked else [])
    rest = [o for o in outlines if o.remainder]
    remainders = iter(_read_remainders(rest, data) if rest else [])
    return plan, [_leaf(o, factors, remainders) for o in outlines]


def _leaf(outline: _Outline, factors, remainders) -> CodedLeaf:
    parts: list[CodedPart] = [next(factors)] if outline.rank else []
    if outline.remainder:
        parts.append(next(remainders))
    return CodedLeaf(tuple(parts))


def _write_structure(plan: Plan, leaves, out: Writer) -> None:
    if isinstance(plan, Split):
        out.uint(SPLIT)
        for child in plan.children:
            _write_structure(child, leaves, out)
    elif isinstance(plan, Copy):
        out.uint(COPY_TRANSPOSED if plan.transposed else COPY).uint(plan.source)
    else:
        _write_leaf(next(leaves), out)


def _write_leaf(leaf: CodedLeaf, out: Writer) -> None:
    factors = [p for p in leaf.parts if isinstance(p, CodedFactors)]
    remainders = [p for p in leaf.parts if isinstance(p, CodedRemainder)]
    out.uint(ZERO + bool(factors) + 2 * bool(remainders))
    for part in factors:
        out.uint(part.left.shape[1])
        if remainders:
            out.sint(part.coarse)
    for rest in remainders:
        out.uint(_numbered(rest.scales.head, rest.basis))


def _numbered(head: int, basis: int) -> int:
    """One number for what the scales of a remainder are and for its basis; those of rare bases stand behind all."""
    return head * USUAL + basis if basis < USUAL else _HEADS * USUAL + head * _RARE + basis - USUAL


def _named(number: int) -> tuple[int, int]:
    """Inverse of _numbered."""
    if number < _HEADS * USUAL:
        return divmod(number, USUAL)
    head, basis = divmod(number - _HEADS * USUAL, _RARE)
    return head, USUAL + basis


def _read_structure(block: Block, data: Reader, outlines: list[_Outline], nodes: list[tuple[int, int]]) -> Plan:
    code = data.uint(COPY_TRANSPOSED)
    nodes.append(block.shape)
    if code == SPLIT:
        children = block.children()
        if not children:
            raise FormatError("a block is split further than it can be: the file is damaged")
        return Split(tuple(_read_structure(child, data, outlines, nodes) for child in children))
    if code >= COPY:
        source = data.uint(len(nodes) - 2) if len(nodes) > 1 else data.uint(0)
        wanted = block.shape[::-1] if code == COPY_TRANSPOSED else block.shape
        if len(nodes) < 2 or nodes[source] != wanted:
            raise FormatError("a block copies one of another shape: the file is damaged")
        return Copy(source, code == COPY_TRANSPOSED)
    outlines.append(_read_outline(code, block.shape, data))
    last = outlines[-1]
    return Leaf(last.rank, last.remainder, last.coarse, last.basis)


def _read_outline(code: int, shape: tuple[int, int], data: Reader) -> _Outline:
    ranked, has_remainder = code in (LOW_RANK, HYBRID), code in (QUANTIZED, HYBRID)
    rank = data.uint(min(shape)) if ranked else 0
    if ranked and not rank:
        raise FormatError("a low-rank leaf has rank 0: the file is damaged")
    coarse = data.sint() if ranked and has_remainder else 0
    if abs(coarse) > _MAX_COARSE:
        raise FormatError("the precision of a factor is out of range: the file is damaged")
    if not has_remainder:
        return _Outline(shape, rank, coarse)
    number, basis = _named(data.uint(_HEADS * len(BASES) - 1))
    sides = (bool(number & 1), bool(number & 2))
    return _Outline(shape, rank, coarse, True, number // 4 + ZERO_CLASS, sides, basis)


def _write_factors(factors: list[CodedFactors], out: Writer, effort: str) -> None:
    sides = [side for f in factors for side in (f.left, f.right)]
    kinds = np.concatenate([side.kinds for side in sides])
    out.section(encode_side(kinds, effort))
    out.section(encode_side(np.concatenate([_class_differences(side) for side in sides]), effort))
    q = np.concatenate([side.q.T.reshape(-1) for side in sides])
    e = np.concatenate([expand_classes(side.kinds, side.classes, len(side.q)) for side in sides])
    out.section(encode_pool(q, e, effort if effort != "fast" else "default"))


def _read_factors(outlines: list[_Outline], data: Reader) -> list[CodedFactors]:
    sides = [(n, o.rank) for o in outlines for n in o.shape]
    kinds = decode_side(data.section(), sum(rank for _, rank in sides))
    if kinds.min() < 0 or kinds.max() >= len(TRANSFORMS):
        raise FormatError("a transform is unknown: the file is damaged or newer than this release")
    side_kinds = np.split(kinds, np.cumsum([rank for _, rank in sides])[:-1])
    counts = [[band_count(k, n) for k in ks] for (n, _), ks in zip(sides, side_kinds, strict=True)]
    differences = decode_side(data.section(), sum(map(sum, counts)))
    classes, start = [], 0
    for ks, count in zip(side_kinds, counts, strict=True):
        classes.append(_classes(ks, np.split(differences[start : start + sum(count)], np.cumsum(count)[:-1])))
        start += sum(count)
    e = np.concatenate([expand_classes(k, c, n) for (n, _), k, c in zip(sides, side_kinds, classes, strict=True)])
    q = decode_pool(data.section(), e, len(e))
    columns, start = [], 0
    for (n, rank), ks, cs in zip(sides, side_kinds, classes, strict=True):
        columns.append(CodedColumns(q[start : start + n * rank].reshape(rank, n).T, ks, cs))
        start += n * rank
    pairs = zip(columns[::2], columns[1::2], outlines, strict=True)
    return [CodedFactors(left, right, o.coarse) for left, right, o in pairs]


def _class_differences(side: CodedColumns) -> Array:
    """Classes of the bands, each less the one above it in the same column or, where there is one, beside it."""
    parts: list[Array] = []
    for i, e in enumerate(side.classes):
        same = i > 0 and side.kinds[i] == side.kinds[i - 1]
        reference = side.classes[i - 1] if same else np.concatenate([[0], e[:-1]])
        parts.append(e.astype(np.int64) - reference)
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _classes(kinds: Array, differences: list[Array]) -> tuple[Array, ...]:
    """Inverse of _class_differences."""
    classes: list[Array] = []
    for i, d in enumerate(differences):
        same = i > 0 and kinds[i] == kinds[i - 1]
        e = classes[-1] + d if same else np.cumsum(d)
        if e.size and not (e.min() >= ZERO_CLASS and e.max() <= MAX_CLASS):
            raise FormatError("a scale is out of range: the file is damaged")
        classes.append(e.astype(np.int16))
    return tuple(classes)


def _write_remainders(parts: list[CodedRemainder], out: Writer, effort: str, general: bool) -> None:
    sides = [s for p in parts for s in (p.scales.rows, p.scales.columns) if s is not None]
    if sides:
        out.section(encode_side(np.concatenate(sides), effort))
    q = [p.q.reshape(-1) for p in parts]
    e = _join_classes([p.scales.classes(p.q.shape) for p in parts], q)  # of large layers these arrays are most memory
    values = Joined([p.q if p.values is None else p.values for p in parts])
    width = parts[0].q.shape[1] if general and len(parts) == 1 else None
    out.raw(encode_pool(_join(q), e, effort, values, width, max(p.thrift for p in parts)))


def _read_remainders(outlines: list[_Outline], data: Reader) -> list[CodedRemainder]:
    lengths = [n for o in outlines for n, has in zip(o.shape, o.sides, strict=True) if has]
    sides: Iterator[Array] = iter(())
    if lengths:
        values = decode_side(data.section(), sum(lengths))
        if np.abs(values).max() > 1 << 12:
            raise FormatError("a scale is out of range: the file is damaged")
        sides = iter(np.split(values, np.cumsum(lengths)[:-1]))
    scales = [Scales(o.block, *(next(sides) if has else None for has in o.sides)) for o in outlines]
    sizes = [o.shape[0] * o.shape[1] for o in outlines]
    e = [s.classes(o.shape) for s, o in zip(scales, outlines, strict=True)]
    width = outlines[0].shape[1] if len(outlines) == 1 else None
    as_they_are = len(outlines) == 1 and outlines[0].basis == PLAIN
    q = decode_pool(data.view(), _join_classes(e, [range(size) for size in sizes]), sum(sizes), width, as_they_are)
    parts = np.split(q, np.cumsum(sizes)[:-1]) if len(sizes) > 1 else [q]
    return [CodedRemainder(p.reshape(o.shape), s, o.basis) for p, o, s in zip(parts, outlines, scales, strict=True)]


def _join(arrays: list[Array]) -> Array:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _join_classes(classes: list[Array], values: list) -> Array:
    if len(classes) == 1:
        return classes[0]
    return np.concatenate([np.broadcast_to(e, len(q)) for e, q in zip(classes, values, strict=True)])
