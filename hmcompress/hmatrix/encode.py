"""A plan and a matrix to coded leaves."""

from dataclasses import dataclass

import numpy as np

from hmcompress.coding.classes import MAX_CLASS, ZERO_CLASS, class_of
from hmcompress.hmatrix.basis import BASES
from hmcompress.hmatrix.blocks import Block, Copy, Leaf, Plan, Split
from hmcompress.hmatrix.parts import CodedFactors, CodedLeaf, CodedRemainder, unit_columns
from hmcompress.hmatrix.rank_one import Scales, fit_scales
from hmcompress.hmatrix.reweighted import reweighted_triplets
from hmcompress.hmatrix.spectra import Spectrum, spectra
from hmcompress.hmatrix.transform import encode_columns

Array = np.ndarray
_RIDGE = 1e-12


@dataclass(frozen=True)
class Options:
    """How leaves are quantised.

    every: no entry may be rounded by more than half a step (norm max). alone: there is one leaf only.
    """

    every: bool = False
    alone: bool = False
    smooth: bool = True
    scales: bool = True


@dataclass(frozen=True)
class PreparedLeaf:
    """A block (m, n) of the matrix, in its own units, with the singular triplets its leaf will be coded from.

    weights (n,): how the columns count where the left factor is fitted; None where all count the same.
    """

    block: Array
    leaf: Leaf
    spectrum: Spectrum | None
    weights: Array | None = None


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
    return PreparedLeaf(block, leaf, spectra(block[None].astype(np.float64) / step).take(leaf.rank).times(step))


def encode_leaf(prepared: PreparedLeaf, step: float, options: Options, final: bool = True) -> CodedLeaf:
    """Code one leaf. Unless `final`, a remainder gets one scale only: good enough to measure its error."""
    parts: list[CodedFactors | CodedRemainder] = []
    block = prepared.block if prepared.leaf == Leaf(0, True) else prepared.block.astype(np.float64)
    rest = block / block.dtype.type(step)
    if prepared.spectrum is not None:
        factors = _encode_factors(rest, prepared, prepared.spectrum.times(1 / step), options)
        if factors is not None:
            parts.append(factors)
            rest = rest - factors.decode().dense()
    if prepared.leaf.remainder:
        parts.append(_encode_remainder(rest, prepared.leaf.basis, options, final))
    return CodedLeaf(rest.shape, tuple(parts))


def _encode_factors(a: Array, prepared: PreparedLeaf, s: Spectrum, options: Options) -> CodedFactors | None:
    """Right factor first; the left one is then the least-squares fit to the block, so it makes up for the rounding."""
    values, right = s.values[0], s.right[0]
    coarse, smooth = prepared.leaf.coarse, options.smooth and not prepared.leaf.reweighted
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


def _scales(x: Array, options: Options, final: bool) -> Scales:
    if not final:
        return Scales(MAX_CLASS)
    return fit_scales(x, options.alone) if options.scales else Scales(int(class_of(np.sqrt(np.mean(np.square(x))))))


def _encode_remainder(rest: Array, basis: int, options: Options, final: bool) -> CodedRemainder:
    q = BASES[basis].integers(rest)
    x = q if BASES[basis].difference else BASES[basis].spread(rest)
    q = q.astype(np.int32 if max(q.max(), -q.min()) < 2**31 - 1 else np.int64)
    if final and not q.any():  # under a scale each of these zeros would cost its share of a bit
        return CodedRemainder(q, Scales(ZERO_CLASS), basis, x)
    scales = _scales(x, options, final)
    silent = scales.classes(x.shape) <= ZERO_CLASS
    if not silent.any():
        return CodedRemainder(q, scales, basis, x)
    silent = np.broadcast_to(silent, q.size).reshape(q.shape)
    if (options.every or BASES[basis].difference) and (q[silent] != 0).any():
        return CodedRemainder(q, Scales(max(scales.block, ZERO_CLASS + 1)), basis, x)
    return CodedRemainder(np.where(silent, 0, q), scales, basis, x)
