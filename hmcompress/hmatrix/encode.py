"""A plan and a matrix to coded leaves."""

from dataclasses import dataclass

import numpy as np

from hmcompress.coding.pool import ZERO_CLASS
from hmcompress.hmatrix.blocks import Block, Copy, Leaf, Plan, Split
from hmcompress.hmatrix.parts import CodedFactors, CodedLeaf, CodedRemainder, unit_columns
from hmcompress.hmatrix.rank_one import Scales, fit_scales
from hmcompress.hmatrix.spectra import spectra
from hmcompress.hmatrix.transform import encode_columns

Array = np.ndarray
_RIDGE = 1e-12


@dataclass(frozen=True)
class Options:
    """How leaves are quantised. `every`: no entry may be rounded by more than half a step (norm max)."""

    every: bool = False
    smooth: bool = True


def encode_plan(a: Array, plan: Plan, options: Options) -> list[CodedLeaf]:
    """The coded leaves of a (m, n), in steps, in preorder; copies have none."""
    leaves: list[CodedLeaf] = []
    _visit(a, Block(0, a.shape[0], 0, a.shape[1]), plan, options, leaves)
    return leaves


def _visit(a: Array, block: Block, plan: Plan, options: Options, leaves: list[CodedLeaf]) -> None:
    if isinstance(plan, Split):
        for child, part in zip(block.children(), plan.children, strict=True):
            _visit(a, child, part, options, leaves)
    elif isinstance(plan, Leaf):
        leaves.append(encode_leaf(block.of(a), plan, options))
    elif not isinstance(plan, Copy):
        raise TypeError(f"{type(plan).__name__} is no plan")


def encode_leaf(a: Array, leaf: Leaf, options: Options) -> CodedLeaf:
    """Code one block a (m, n), in steps."""
    parts: list[CodedFactors | CodedRemainder] = []
    rest = a
    if leaf.rank:
        factors = _encode_factors(a, leaf, options)
        if factors is not None:
            parts.append(factors)
            rest = a - factors.decode().dense()
    if leaf.remainder:
        parts.append(_encode_remainder(rest, options))
    return CodedLeaf(a.shape, tuple(parts))


def _encode_factors(a: Array, leaf: Leaf, options: Options) -> CodedFactors | None:
    """Right factor first; the left one is then the least-squares fit to the block, so it makes up for the rounding."""
    s = spectra(a[None])
    values, right = s.values[0, : leaf.rank], s.right[0, :, : leaf.rank]
    scale = 2.0**-leaf.coarse
    coded_right = encode_columns(right * (values * scale), options.smooth)
    v = unit_columns(coded_right)
    used = np.flatnonzero(np.any(coded_right.q != 0, axis=0))
    if not len(used):
        return None
    coded_right, v = coded_right.take(used), v[:, used]
    gram = v.T @ v
    left = np.linalg.solve(gram + _RIDGE * np.eye(len(used)), v.T @ a.T).T
    return CodedFactors(encode_columns(left * scale, options.smooth), coded_right, leaf.coarse)


def _encode_remainder(x: Array, options: Options) -> CodedRemainder:
    q = np.rint(x)
    if np.abs(q).max(initial=0) < 2**31 - 1:
        q = q.astype(np.int32)
    else:
        q = q.astype(np.int64)
    scales = fit_scales(x)
    classes = scales.classes(x.shape)
    silent = classes <= ZERO_CLASS
    if silent.any():
        lost = (q.reshape(-1) != 0) & silent
        if lost.any() and options.every:
            scales = Scales(max(scales.block, ZERO_CLASS + 1))
        else:
            q = np.where(np.broadcast_to(silent, q.size).reshape(q.shape), 0, q)
    return CodedRemainder(q, scales)
