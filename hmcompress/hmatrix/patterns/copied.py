"""Codec `copied`: lines of which many are others, with the same or the other sign, their entries in another order.

So are pairs of opposite neurons, filters and their mirror images, convolutions that are equivariant to a group, layers
of complex numbers and quaternions written out, matrices that are symmetric to a diagonal or to their middle. Lines that
are no copies are coded by any other codec, to the tolerance.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hmcompress.coding.buffer import Reader, Writer
from hmcompress.coding.side import decode_side, encode_side
from hmcompress.errors import FormatError

Array = np.ndarray
ROWS, COLUMNS, DIAGONALS, ANTIDIAGONALS = range(4)  # what a line is
MOST_MOVES = 32


@dataclass(frozen=True)
class Moves:
    """Entry e of a copy is entry places[t, e] of its source, with the other sign where turned[t, e]."""

    places: Array
    turned: Array

    def __len__(self) -> int:
        return len(self.places)


@dataclass(frozen=True)
class Copies:
    """Which lines are copies. sources (lines,): of which line, or its own number where it is none.

    how (lines,): twice the number of the move, counted from 1, or 0 for none; plus 1 where all signs are turned.
    """

    arrangement: int
    sources: Array
    how: Array
    moves: Moves

    @property
    def stored(self) -> Array:
        """Which lines are no copies: (lines,), of bool."""
        return self.sources == np.arange(len(self.sources))

    def values(self, w: Tensor) -> Tensor:
        """The matrix of the lines of w (m, n) that are no copies."""
        kept = to_lines(w, self.arrangement)[torch.from_numpy(self.stored)]
        return (kept.T if self.arrangement == COLUMNS else kept).contiguous()

    def encode(self, payload: bytes) -> bytes:
        """The body, where the matrix of what is stored has this payload."""
        side = self.side()
        return side[0] + Writer().section(payload).getvalue() + side[1]

    def side(self) -> tuple[bytes, bytes]:
        """What stands before the payload, and behind it."""
        head = Writer().uint(self.arrangement).uint(len(self.moves)).getvalue()
        distances, how = np.arange(len(self.sources)) - self.sources, self.how[~self.stored]
        rest = Writer().section(encode_side(distances, "max")).section(encode_side(how, "max"))
        if len(self.moves):
            rest.section(encode_moves(self.moves.places)).raw(encode_side(self.moves.turned, "max"))
        return head, rest.getvalue()


def encode_moves(places: Array) -> bytes:
    """Places (moves, entries), each less the one after that of the entry before."""
    return encode_side(np.diff(places, axis=1, prepend=-1) - 1, "max")


def to_lines(w: Tensor, arrangement: int) -> Tensor:
    """The lines (lines, entries) of w (m, n)."""
    if arrangement < DIAGONALS:
        return w.T if arrangement == COLUMNS else w
    lines, flat = torch.empty_like(w), w.reshape(-1)
    for line, places in enumerate(_diagonals(len(w), arrangement)):
        lines[line] = flat[places]
    return lines


def from_lines(lines: Tensor, arrangement: int) -> Tensor:
    """Inverse of to_lines."""
    if arrangement < DIAGONALS:
        return lines.T.contiguous() if arrangement == COLUMNS else lines
    flat = torch.empty_like(lines).reshape(-1)
    for line, places in zip(lines, _diagonals(len(lines), arrangement), strict=True):
        flat[places] = line
    return flat.reshape(lines.shape)


def _diagonals(n: int, arrangement: int) -> Iterator[Tensor]:
    """The entries of each diagonal of a matrix (n, n), which goes on at the other side; that which lies beyond the
    middle begins at the mirror image of the one before it. Or those of the matrix whose columns stand in reverse."""
    along = torch.arange(n)
    for line in range(n):
        beyond = 2 * line > n
        rows = (along + n - line) % n if beyond else along
        columns = along if beyond else (along + line) % n
        yield rows * n + (n - 1 - columns if arrangement == ANTIDIAGONALS else columns)


def read_copies(data: bytes, shape: tuple[int, int]) -> tuple[tuple[int, int], bytes, Copies]:
    """The shape and the payload of what is stored, and which lines are copies of it. Raises FormatError."""
    stream = Reader(data)
    arrangement = stream.uint(ANTIDIAGONALS)
    lines, entries = shape[::-1] if arrangement == COLUMNS else shape
    if arrangement >= DIAGONALS and lines != entries:
        raise FormatError("a matrix that is not square has no such diagonals: the file is damaged")
    count = stream.uint(min(MOST_MOVES, lines // 2))
    payload = stream.section()
    distances = decode_side(stream.section(), lines)
    sources = np.arange(lines) - distances
    if lines == 0 or distances.min() < 0 or sources.min() < 0 or distances[sources].any():
        raise FormatError("a line is the copy of none that is stored: the file is damaged")
    stored = int(np.count_nonzero(distances == 0))
    how = np.zeros(lines, np.int64)
    how[distances > 0] = decode_side(stream.section(), lines - stored)
    if how.min() < 0 or how.max() > 2 * count + 1:
        raise FormatError("a line is copied in an unknown way: the file is damaged")
    moves = _read_moves(stream, count, entries)
    inner = (entries, stored) if arrangement == COLUMNS else (stored, entries)
    return inner, payload, Copies(arrangement, sources, how, moves)


def _read_moves(stream: Reader, count: int, entries: int) -> Moves:
    if not count:
        return no_moves(entries)
    places = np.cumsum(decode_side(stream.section(), count * entries).reshape(count, entries) + 1, axis=1) - 1
    turned = decode_side(stream.rest(), count * entries).reshape(count, entries)
    if places.size and (places.min() < 0 or places.max() >= entries or turned.min() < 0 or turned.max() > 1):
        raise FormatError("a copy names an entry that its line does not have: the file is damaged")
    return Moves(places, turned.astype(np.bool_))


def no_moves(entries: int) -> Moves:
    return Moves(np.zeros((0, entries), np.int64), np.zeros((0, entries), np.bool_))


def from_copies(values: Tensor, copies: Copies) -> Tensor:
    """The matrix of which these lines are stored; inverse of Copies.values."""
    kept = values.T if copies.arrangement == COLUMNS else values
    numbers = np.cumsum(copies.stored) - 1
    lines = kept[torch.from_numpy(numbers[copies.sources])]
    for move, (places, turned) in enumerate(zip(copies.moves.places, copies.moves.turned, strict=True)):
        moved = torch.from_numpy(copies.how // 2 == move + 1)
        part = lines[moved][:, torch.from_numpy(places)]
        lines[moved] = torch.where(torch.from_numpy(turned), -part, part)
    turned = torch.from_numpy(copies.how % 2 == 1)
    lines[turned] = -lines[turned]
    return from_lines(lines, copies.arrangement)
