"""Codec `product`: a matrix as the product of two grids, the form of low rank in the outputs metric.

The rank, the length of the left grid's stream, and both grids as in `weighted`. Each row and column of either factor
has its own step, so that a direction is as precise as it is important.
"""

import numpy as np
import torch

from hmcompress.coding.buffer import Reader, Writer
from hmcompress.hmatrix.grids import weighted
from hmcompress.hmatrix.grids.grid import Grid
from hmcompress.hmatrix.tree.blocks import Block
from hmcompress.hmatrix.tree.order import NATURAL
from hmcompress.hmatrix.tree.parts import LowRank
from hmcompress.hmatrix.tree.tree import PlacedLeaf, TreeBody


def encode(left: Grid, right: Grid, thorough: bool = True) -> bytes:
    """The bytes of left (m, r) times right (r, n). `thorough` tries the models of the scales one by one."""
    out = Writer().uint(left.q.shape[1]).section(weighted.encode(left, thorough))
    return out.raw(weighted.encode(right, thorough)).getvalue()


def decode(data: bytes, shape: tuple[int, int], dtype: torch.dtype) -> TreeBody:
    """Inverse of encode: one leaf of low rank. Raises FormatError."""
    m, n = shape
    stream = Reader(data)
    rank = stream.uint(min(m, n))
    left, right = _factor(stream.section(), (m, rank)), _factor(stream.rest(), (rank, n))
    leaf = PlacedLeaf(Block(0, m, 0, n), (LowRank(left, right.T),) if rank else ())
    return TreeBody(shape, 1.0, (leaf,), NATURAL, NATURAL, dtype == torch.float64)


def _factor(data: bytes, shape: tuple[int, int]) -> np.ndarray:
    return weighted.decode(data, shape, torch.float64).to_dense().numpy()
