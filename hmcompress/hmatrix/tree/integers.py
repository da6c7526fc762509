"""A matrix of whole numbers of few bits, as the remainder of a tree of one leaf."""

import numpy as np

from hmcompress.coding.buffer import Reader
from hmcompress.coding.classes import ZERO_CLASS
from hmcompress.errors import FormatError
from hmcompress.hmatrix.basics.scales import Scales, fit_scales
from hmcompress.hmatrix.tree.blocks import PLAIN_LEAF
from hmcompress.hmatrix.tree.parts import CodedLeaf, CodedRemainder
from hmcompress.hmatrix.tree.treestream import read_tree, write_tree

Array = np.ndarray


def write_integers(q: Array, effort: str) -> bytes:
    """Encode q (m, n)."""
    x = q.astype(np.float32)
    part = CodedRemainder(q, _audible(x), 0, x)
    return write_tree(PLAIN_LEAF, [CodedLeaf((part,))], effort)


def _audible(x: Array) -> Scales:
    """Scales under which no entry is left out."""
    scales = fit_scales(x, alone=True)
    silent = (scales.classes(x.shape) <= ZERO_CLASS) & (x.reshape(-1) != 0)
    return Scales(max(scales.block, ZERO_CLASS + 1)) if silent.any() else scales


def read_integers(stream: Reader, shape: tuple[int, int]) -> Array:
    """A matrix of whole numbers, the remainder of a tree of one leaf. Raises FormatError."""
    _, leaves = read_tree(stream, shape)
    parts = leaves[0].parts if len(leaves) == 1 else ()
    if len(parts) != 1 or not isinstance(parts[0], CodedRemainder) or parts[0].basis:
        raise FormatError("a lattice holds no integers: the file is damaged")
    return parts[0].q
