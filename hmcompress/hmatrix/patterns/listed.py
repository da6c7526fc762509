"""Codec `listed`: every row, or every column, takes a few values of its own; a matrix of these and which one where.

So are weights that were clustered row by row, and tables of functions that are constant in steps. The values, a row for
each row, are coded by any other codec, to the tolerance.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hmcompress.coding.buffer import Reader, Writer
from hmcompress.errors import FormatError
from hmcompress.hmatrix.tree.integers import read_integers, write_integers

Array = np.ndarray
_MOST, _SHARE = 256, 8  # values of a row; entries for each
_LOOK, _REPEATED, _FIRST = 512, 0.5, 8  # entries of a line, the share that differs at most, and lines, looked at first


@dataclass(frozen=True)
class Lists:
    """values (lines, most) in ascending order, the last one again where there are fewer; index (lines, entries)."""

    values: Tensor
    index: Array
    transposed: bool

    def head(self) -> Writer:
        return Writer().uint(2 * self.values.shape[1] + self.transposed)

    def places(self, effort: str) -> bytes:
        """Which value stands where."""
        return write_integers(self.index - self.values.shape[1] // 2, effort)

    def least(self, step: float) -> float:
        """Bytes of the values at this step, guessed low: their entropy if they come in no order."""
        first = torch.ones_like(self.values, dtype=torch.bool)
        first[:, 1:] = self.values[:, 1:] != self.values[:, :-1]
        values = self.values[first].double().numpy()
        _, counts = np.unique(np.rint(values / step) if step > 0 else values, return_counts=True)
        return float(np.sum(counts * np.log2(len(values) / counts))) / 8


def find_lists(w: Tensor) -> Lists | None:
    """The values of the rows of w (m, n), or of its columns, where they are few."""
    for transposed, line in enumerate((w[0, :_LOOK], w[:_LOOK, 0])):
        if _distinct(line[None]) <= _REPEATED * len(line):
            found = _lists(w.T if transposed else w, bool(transposed))
            if found is not None:
                return found
    return None


def _lists(lines: Tensor, transposed: bool) -> Lists | None:
    most = min(_MOST, lines.shape[1] // _SHARE)
    if _distinct(lines[:_FIRST]) > most:
        return None
    ordered, places = lines.sort(dim=1)
    ranks = torch.zeros(lines.shape, dtype=torch.int64)
    torch.cumsum(ordered[:, 1:] != ordered[:, :-1], 1, out=ranks[:, 1:])
    count = int(ranks.max()) + 1
    if count > most or not torch.isfinite(ordered).all():
        return None
    values = ordered[:, -1:].repeat(1, count).scatter_(1, ranks, ordered)
    return Lists(values, torch.empty_like(ranks).scatter_(1, places, ranks).numpy(), transposed)


def _distinct(lines: Tensor) -> int:
    """How many values the line takes that takes most of them."""
    ordered = np.sort((lines if lines.dtype == torch.float64 else lines.float()).numpy(), axis=1)
    return 1 + int(np.count_nonzero(np.diff(ordered, axis=1), axis=1).max(initial=0))


def read_lists(data: bytes, shape: tuple[int, int]) -> tuple[tuple[int, int], bytes, Array, bool]:
    """The shape and the payload of the values, the index (lines, entries) and whether lines are columns. Raises
    FormatError."""
    stream = Reader(data)
    most, transposed = divmod(stream.uint(2 * _MOST + 1), 2)
    lines = shape[::-1] if transposed else shape
    payload = stream.section()
    index = read_integers(Reader(stream.rest()), (lines[0], lines[1])) + most // 2
    if index.size and (index.min() < 0 or index.max() >= most):
        raise FormatError("a row names a value that is not in its list: the file is damaged")
    return (lines[0], most), payload, index, bool(transposed)


def from_lists(values: Tensor, index: Array, transposed: bool) -> Tensor:
    """The matrix whose lines have these values (lines, most) at these places."""
    w = values.gather(1, torch.from_numpy(index.astype(np.int64)))
    return w.T.contiguous() if transposed else w
