"""Moments of layers that see many rows: summed block by block, so that no copy in double precision of all is made.

Copies of tens of thousands of rows cost more than the sums over them, and the product of a block with itself is taken
for half of its entries only.
"""

from collections.abc import Iterator

import numpy as np
from torch import Tensor

from hmcompress.network.layerwise.moments import noise_share

_BLOCK = 2048  # rows, whose numbers stay in the caches of a processor
_MANY_NUMBERS = 1e6  # in inputs and outputs of a layer that sees several rows of each sample
_MUCH_WORK = 5e9  # multiplications, where it sees one


def sees_many_rows(x: Tensor, z: Tensor) -> bool:
    """Whether inputs x (samples, ..., n) and outputs z (samples, ..., m) of a layer are better summed in blocks."""
    n, m = x.shape[-1], z.shape[-1]
    rows = x.numel() // n
    return rows * (n + m) > _MANY_NUMBERS if rows > len(x) else rows * n * (n + m) > _MUCH_WORK


def moments_in_blocks(x: Tensor, z: Tensor, bias: bool) -> tuple[np.ndarray, np.ndarray]:
    """Means of y y^T (d, d) and z y^T (m, d), float64, over rows y: those of x (..., n) and, where the layer has a
    bias, a one after each."""
    rows, targets = (t.detach().reshape(-1, t.shape[-1]) for t in (x, z))
    d, m = x.shape[-1] + bias, z.shape[-1]
    own, cross = np.zeros((d, d)), np.zeros((m, d))
    for begin, block in _with_ones(rows, bias, np.float64, _BLOCK):
        own += block.T @ block
        cross += targets[begin : begin + _BLOCK].double().numpy().T @ block
    return own / max(len(rows), 1), cross / max(len(rows), 1)


def noise_of_samples(x: Tensor, bias: bool, moment: np.ndarray) -> float:
    """As `sampling_noise`, of inputs x (samples, ..., n) and their moment (d, d); products in single precision."""
    rows = x.detach().reshape(-1, x.shape[-1])
    each, fourth = len(rows) // len(x), 0.0
    for _, own in _with_ones(rows, bias, np.float32, each):
        fourth += float(np.square(own @ own.T if len(own) < own.shape[1] else own.T @ own).sum(dtype=np.float64))
    return noise_share(fourth / len(x) / each**2, moment, len(x))


def _with_ones(rows: Tensor, bias: bool, dtype: type, size: int) -> Iterator[tuple[int, np.ndarray]]:
    """Where each block of rows (k, n) begins, and the block with a column of ones; the next one takes its memory."""
    held: np.ndarray = np.ones((min(size, len(rows)), rows.shape[1] + bias), dtype)
    for begin in range(0, len(rows), size):
        part = rows[begin : begin + size]
        held[: len(part), : rows.shape[1]] = part.numpy()
        yield begin, held[: len(part)]
