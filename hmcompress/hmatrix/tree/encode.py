"""A plan and a matrix to coded leaves: each block less its low-rank part, rounded at a step, under scales."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from torch import Tensor

from hmcompress.coding.classes import MAX_CLASS, ZERO_CLASS, class_of
from hmcompress.coding.sample import FromTable, InSteps
from hmcompress.coding.thrift import shrunk
from hmcompress.hmatrix.basics.scales import Scales, fit_scales, fit_scales_of, rank_one_scales
from hmcompress.hmatrix.basics.words import WORDS, floats_of, words_of
from hmcompress.hmatrix.tree.basis import BASES
from hmcompress.hmatrix.tree.blocks import PLAIN_LEAF, Block, Copy, Leaf, Plan, Split
from hmcompress.hmatrix.tree.parts import CodedFactors, CodedLeaf, CodedPart, CodedRemainder, unit_columns
from hmcompress.hmatrix.tree.reweighted import reweighted_triplets
from hmcompress.hmatrix.tree.spectra import Spectrum, spectra
from hmcompress.hmatrix.tree.transform import encode_columns

Array = np.ndarray
_RIDGE = 1e-12
_KEPT = 1 << 20  # entries of a matrix whose rounded leaves are kept
_NARROW = 2.0**15 - 1  # as below, in 16 bits
_WIDE = 2**31 - 1  # integers beyond take 64 bits


@dataclass(frozen=True)
class Options:
    """How leaves are quantised.

    every: no entry may be rounded by more than half a step (norm max). alone: there is one leaf only.
    """

    every: bool = False
    alone: bool = False
    scales: bool = True


@dataclass(frozen=True)
class PreparedLeaf:
    """A block (m, n) of the matrix, in its own units, with the singular triplets its leaf will be coded from.

    weights (n,): how the columns count where the left factor is fitted; None where all count the same. short: the same
    block as 16-bit weights, where it comes from such.
    """

    block: Array
    leaf: Leaf
    spectrum: Spectrum | None
    weights: Array | None = None
    short: Tensor | None = None

    def in_steps(self, step: float) -> InSteps | FromTable:
        """The entries over the step, of which few are read."""
        if self.short is None:
            return InSteps(self.block, step)
        with np.errstate(over="ignore", invalid="ignore"):  # words that no finite block holds
            table = floats_of(np.arange(WORDS, dtype=np.uint16), self.short.dtype) / np.float32(step)
        return FromTable(table, words_of(self.short.reshape(-1)))  # the block, twice as large, can be let go


def prepare(values: Array, plan: Plan, step: float) -> list[PreparedLeaf]:
    """The leaves of `plan` in preorder, copies left out; values: (m, n). Triplets that cannot matter are dropped."""
    leaves: list[PreparedLeaf] = []
    _visit(values, Block(0, values.shape[0], 0, values.shape[1]), plan, step, leaves)
    return leaves


def _visit(values: Array, block: Block, plan: Plan, step: float, leaves: list[PreparedLeaf]) -> None:
    if isinstance(plan, Split):
        for child, part in zip(block.children(), plan.children, strict=True):
            _visit(values, child, part, step, leaves)
    elif isinstance(plan, Leaf):
        own = block.of(values)
        leaves.append(_prepare_leaf(own, plan, step))
    elif not isinstance(plan, Copy):
        raise TypeError(f"{type(plan).__name__} is no plan")


def _prepare_leaf(block: Array, leaf: Leaf, step: float) -> PreparedLeaf:
    if not leaf.rank:
        return PreparedLeaf(block, leaf, None)
    if leaf.reweighted:
        found = reweighted_triplets(block.astype(np.float64) / step, leaf.rank)
        return PreparedLeaf(block, leaf, found.spectrum.times(step), found.weights)
    triplets = spectra(block[None].astype(np.float64) / step, rank=leaf.rank)
    return PreparedLeaf(block, leaf, triplets.take(leaf.rank).times(step))


@dataclass(frozen=True)
class Draft:
    """A leaf (m, n) whose remainder, if it has one, is rounded but has no scales yet.

    q: integers; x: the values before rounding, or once more the integers; both (m, n) in the leaf's basis. values: x in
    less memory, for whoever reads few of them. thrift: by which they were rounded, as far as the coder is to know.
    """

    factors: CodedFactors | None
    basis: int
    q: Array | None = None
    x: Array | None = None
    values: Array | InSteps | FromTable | None = None
    thrift: float = 0.0


@dataclass(frozen=True)
class Thrift:
    """How entries are rounded to the smaller of two integers: see hmcompress.coding.thrift.

    modelled: whether scales are those of the entries, and the coder knows of the borders between integers; else they
    are those of the entries less what borders are moved, which suits lines of few large ones.
    """

    amount: float = 0.0
    modelled: bool = True


NO_THRIFT = Thrift()


class Drafts:
    """The leaves of a plan, rounded at one step after another; of a small matrix, the last ones are kept."""

    def __init__(self, prepared: list[PreparedLeaf], smooth: bool, thrift: Thrift = NO_THRIFT) -> None:
        self._prepared, self._smooth, self.thrift = prepared, smooth, thrift
        self._kept: tuple[float, list[Draft]] | None = None

    def __len__(self) -> int:
        return len(self._prepared)

    def at(self, step: float) -> list[Draft]:
        if self._kept is not None and self._kept[0] == step:
            return self._kept[1]
        self._kept = None
        found = [_draft(p, step, self._smooth, self.thrift) for p in self._prepared]
        if sum(p.block.size for p in self._prepared) <= _KEPT:
            self._kept = step, found
        return found


def encode_leaves(drafts: list[Draft], options: Options, final: bool = True) -> list[CodedLeaf]:
    """Code the leaves. Unless `final`, a remainder gets one scale only: good enough to measure its error."""
    scales = iter(_scales([d.x for d in drafts if d.x is not None], options, final))
    return [CodedLeaf((*_some(d.factors), *_some(_remainder(d, scales, options)))) for d in drafts]


def _some(part: CodedPart | None) -> tuple[CodedPart, ...]:
    return () if part is None else (part,)


def _draft(prepared: PreparedLeaf, step: float, smooth: bool, thrift: Thrift) -> Draft:
    leaf = prepared.leaf
    block = prepared.block if leaf == PLAIN_LEAF else prepared.block.astype(np.float64)
    rest, factors = block / block.dtype.type(step), None
    if prepared.spectrum is not None:
        factors = _encode_factors(rest, prepared, prepared.spectrum.times(1 / step), smooth)
        rest = rest if factors is None else rest - factors.decode().dense()
    if not leaf.remainder:
        return Draft(factors, leaf.basis)
    basis = BASES[leaf.basis]
    x = basis.spread(np.rint(rest) if basis.difference else rest)
    amount = 0.0 if basis.difference else thrift.amount
    near = _shrunk(x, amount) if amount else x
    q = near if basis.difference else np.rint(near)
    with np.errstate(invalid="ignore"):  # integers beyond 64 bits become others, and their error tells
        integers = q.astype(_narrowest(max(q.max(), -q.min())))
    known = thrift.modelled or not amount
    x = (x if known else near).astype(np.float32, copy=False)  # scales need no more
    values = prepared.in_steps(step) if leaf == PLAIN_LEAF and known else x
    return Draft(factors, leaf.basis, integers, x, values, amount if known else 0.0)


def _shrunk(x: Array, thrift: float) -> Array:
    rows, columns = rank_one_scales(np.square(x))
    return shrunk(x, rows[:, None] * columns, thrift)


def _narrowest(largest: float) -> type[np.signedinteger]:
    """The type of integers up to this magnitude."""
    return np.int16 if largest < _NARROW else np.int32 if largest < _WIDE else np.int64


def _encode_factors(a: Array, prepared: PreparedLeaf, s: Spectrum, smooth: bool) -> CodedFactors | None:
    """Right factor first; the left one is then the least-squares fit to the block, so it makes up for the rounding."""
    values, right = s.values[0], s.right[0]
    coarse, smooth = prepared.leaf.coarse, smooth and not prepared.leaf.reweighted
    scale = 2.0**-coarse
    coded_right = encode_columns(right * (values * scale), smooth)
    v = unit_columns(coded_right)
    used = np.flatnonzero(np.any(coded_right.q != 0, axis=0))
    if not len(used):
        return None
    coded_right, v = coded_right.take(used), v[:, used]
    weighted = v if prepared.weights is None else v * np.square(prepared.weights)[:, None]
    gram = v.T @ weighted
    ridge = _RIDGE * np.trace(gram) / len(used) * np.eye(len(used))
    left = np.linalg.solve(gram + ridge, weighted.T @ a.T).T
    return CodedFactors(encode_columns(left * scale, smooth), coded_right, coarse)


def _scales(values: list[Array], options: Options, final: bool) -> list[Scales]:
    if not final:
        return [Scales(MAX_CLASS)] * len(values)
    if not options.scales:
        return [Scales(int(class_of(np.sqrt(np.mean(np.square(x)))))) for x in values]
    return [fit_scales(values[0], True)] if options.alone and values else fit_scales_of(values)


def _remainder(draft: Draft, scales: Iterator[Scales], options: Options) -> CodedRemainder | None:
    q, x, basis = draft.q, draft.x, draft.basis
    if q is None or x is None:
        return None
    coded = partial(CodedRemainder, basis=basis, values=draft.values, thrift=draft.thrift)
    found = next(scales)
    if found.block < MAX_CLASS and not q.any():  # under a scale each of these zeros would cost its share of a bit
        return coded(q, Scales(ZERO_CLASS))
    silent = found.classes(q.shape) <= ZERO_CLASS
    if not silent.any():
        return coded(q, found)
    silent = np.broadcast_to(silent, q.size).reshape(q.shape)
    if (options.every or BASES[basis].difference) and (q[silent] != 0).any():
        return coded(q, Scales(max(found.block, ZERO_CLASS + 1)))
    return coded(np.where(silent, 0, q), found)
