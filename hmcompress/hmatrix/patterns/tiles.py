"""Codec `tiled`: a matrix whose tiles are much the same up to a factor, its tiles as the rows of another one.

A Kronecker product, such as a kernel on a grid that is a product of kernels along its sides, becomes a matrix of rank
one (Van Loan & Pitsianis 1993), a sum of some becomes one of low rank. That matrix is coded by any other codec.
"""

import math

import numpy as np
import torch
from torch import Tensor

from hmcompress.coding.buffer import Reader, Writer
from hmcompress.errors import FormatError

Array = np.ndarray
Tile = tuple[int, int]  # rows and columns
_LEAST, _ROWS, _ENTRIES = 4, 24, 1 << 10  # tiles along a side; tiles, and entries of each, that are looked at
_RANK, _LEFT = 3, 0.05  # share of the energy that a few directions may leave
_FACTOR_BITS, _NOTHING = 24.0, 1e-8


def to_tiles(w: Tensor, tile: Tile) -> Tensor:
    """Tiles of w (m, n), row by row, as rows (tiles, entries)."""
    (m, n), (a, b) = w.shape, tile
    return w.reshape(m // a, a, n // b, b).permute(0, 2, 1, 3).reshape(-1, a * b)


def from_tiles(x: Tensor, shape: tuple[int, int], tile: Tile) -> Tensor:
    """Inverse of to_tiles."""
    (m, n), (a, b) = shape, tile
    return x.reshape(m // a, n // b, a, b).permute(0, 2, 1, 3).reshape(m, n)


def find_tile(w: Tensor) -> Tile | None:
    """The tile of w (m, n) of which a few combinations make nearly all, or None."""
    shares = {tile: _left(w, tile) for tile in _candidates((w.shape[0], w.shape[1]))}
    found = [tile for tile, share in shares.items() if share < _LEFT]
    return min(found, key=lambda tile: _bits(w.numel(), tile, shares[tile]), default=None)


def _bits(entries: int, tile: Tile, left: float) -> float:
    """About what the rearranged matrix costs, less what does not depend on the tile."""
    size = tile[0] * tile[1]
    return _FACTOR_BITS * (size + entries / size) + 0.5 * entries * math.log2(max(left, _NOTHING))


def _candidates(shape: tuple[int, int]) -> list[Tile]:
    """Tiles of the matrix's own proportions, and square ones."""
    m, n = shape
    common = math.gcd(m, n)
    counts = [k for k in range(_LEAST, common // 2 + 1) if common % k == 0]
    tiles = [(m // k, n // k) for k in counts] + [(k, k) for k in counts]
    return [t for t in dict.fromkeys(tiles) if math.prod(t) >= _LEAST**2 and m * n // math.prod(t) >= _ROWS]


def _left(w: Tensor, tile: Tile) -> float:
    """The share of the energy of some tiles that their leading singular directions leave."""
    (m, n), (a, b) = w.shape, tile
    count, size = m * n // (a * b), a * b
    tiles, entries = _some(count, _ROWS), _some(size, _ENTRIES)
    rows = (tiles // (n // b) * a)[:, None] + entries // b
    columns = (tiles % (n // b) * b)[:, None] + entries % b
    x = w[torch.from_numpy(rows), torch.from_numpy(columns)].double().numpy()
    energy = np.sort(np.linalg.eigvalsh(x @ x.T if len(x) <= x.shape[1] else x.T @ x))[::-1]
    return float(1 - energy[:_RANK].sum() / energy.sum()) if energy.sum() > 0 else 1.0


def _some(count: int, most: int) -> Array:
    """About `most` of the indices below `count`, in no rhythm, which tiles of tiles would follow."""
    if count <= most:
        return np.arange(count)
    return np.unique(np.random.default_rng(0).integers(0, count, most))


def encode(payload: bytes, tile: Tile) -> bytes:
    """The body of a matrix whose rearranged one has this payload."""
    return Writer().uint(tile[0]).uint(tile[1]).raw(payload).getvalue()


def read_tile(data: bytes, shape: tuple[int, int]) -> tuple[Tile, tuple[int, int], bytes]:
    """The tile, the rearranged matrix's shape and its payload. Raises FormatError."""
    stream = Reader(data)
    tile = stream.uint(shape[0]), stream.uint(shape[1])
    if not all(tile) or shape[0] % tile[0] or shape[1] % tile[1]:
        raise FormatError("tiles do not fit their layer: the file is damaged")
    size = tile[0] * tile[1]
    return tile, (shape[0] * shape[1] // size, size), stream.rest()
