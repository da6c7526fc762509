"""Tensors that were saved in pieces, one for each process that held a part of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import torch

from hmcompress.checkpoint.lazy import LazyTensor
from hmcompress.errors import SourceError


@dataclass(frozen=True)
class Piece:
    """A block of a tensor, `offsets` from its origin; `find` looks its values up and may raise SourceError."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    find: Callable[[], LazyTensor]


class PiecesBlob:
    """The bytes of a row-major tensor that is put together of its pieces each time it is read."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, pieces: Sequence[Piece]) -> None:
        self._shape, self._dtype, self._pieces = shape, dtype, pieces
        self.nbytes = prod(shape) * dtype.itemsize
        filled = sum(prod(piece.sizes) for piece in pieces)
        apart = len({piece.offsets for piece in pieces if prod(piece.sizes)})
        if filled != prod(shape) or apart != sum(prod(piece.sizes) > 0 for piece in pieces):
            raise SourceError("damaged, or a part of a larger checkpoint: its pieces do not make up a tensor")
        if not all(self._is_inside(piece) for piece in pieces):
            raise SourceError("damaged: a piece reaches beyond its tensor")

    def _is_inside(self, piece: Piece) -> bool:
        if not len(piece.offsets) == len(piece.sizes) == len(self._shape):
            return False
        return all(at + size <= n for at, size, n in zip(piece.offsets, piece.sizes, self._shape, strict=True))

    def read(self, start: int, count: int) -> torch.Tensor:
        found = [self._found(piece) for piece in self._pieces]  # all are known to be there before memory is taken
        made = torch.zeros(self._shape, dtype=self._dtype)
        for piece, part in zip(self._pieces, found, strict=True):
            made[tuple(slice(at, at + n) for at, n in zip(piece.offsets, piece.sizes, strict=True))] = part.load()
        return made.reshape(-1).view(torch.uint8)[start : start + count]

    def _found(self, piece: Piece) -> LazyTensor:
        found = piece.find()
        if (found.shape, found.dtype) != (piece.sizes, self._dtype):
            raise SourceError("damaged: a piece of a tensor has another shape or type than its table says")
        return found

    def glance(self, start: int, count: int) -> torch.Tensor | None:
        return None
