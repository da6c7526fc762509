"""Which lines are copies: found by sums that no order and no sign changes, then by the order of their magnitudes.

How entries move from a line to its copy is not looked up but read off: magnitudes of noise differ, so that their ranks
tell what stands where; where some are equal, other pairs that moved alike tell them apart.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from hmcompress.coding.side import encode_side
from hmcompress.hmatrix.patterns.copied import (
    ANTIDIAGONALS,
    COLUMNS,
    DIAGONALS,
    MOST_MOVES,
    ROWS,
    Copies,
    Moves,
    encode_moves,
    no_moves,
    to_lines,
)

Array = np.ndarray
Move = tuple[Array, Array]  # places (entries,) and whether signs are turned
_LEAST = 4  # lines, and entries of each
_RUNS, _RUN = 16, 16  # of lines that are looked at first, and how many lines each has
_ALIKE, _EQUAL = 1e-5, 1e-6  # relative difference of two sums, in float32 and in float64
_ROUNDING = 1e-6  # of the largest entry of a line: by how much its copies may differ
_PLACES, _SOME = 64, 32  # entries compared first
_NOT_ZERO = 0.25  # of these
_AT_ONCE = 1 << 20  # entries that are compared
_COMPANIONS, _LOOKED_AT = 6, 24  # pairs that tell equal magnitudes apart, and among which these are looked for
_FAILURES, _ROUNDS = 8, 4  # moves that serve nothing; times that lines which are left are taken for sources
_FACTOR = 0.7548776662466927  # no magnitude is likely to be another one times this
_LEAST_GAIN = 0.02  # of the bits


def find_copies(w: Tensor, kernel: int, most: float, bits: float, first: int = ROWS) -> Copies | None:
    """The copies among the lines of w (m, n) that save most, in an arrangement from `first` on.

    kernel: entries of a group of columns. most: by how much a copy may differ, at most. bits: what an entry costs.
    """
    found = [_copies(w, a, kernel, most, bits) for a in _likely(w, first, most)]
    cost, best = min(found, key=lambda f: f[0], default=(np.inf, None))
    return best if cost < (1 - _LEAST_GAIN) * bits * w.numel() else None


def _likely(w: Tensor, first: int, most: float) -> Iterator[int]:
    """The arrangements in which few entries show copies."""
    if min(w.shape) < _LEAST:
        return
    yield from (a for a in (ROWS, COLUMNS) if a >= first and _repeat(w, a))
    if w.shape[0] == w.shape[1]:
        yield from (a for a in (DIAGONALS, ANTIDIAGONALS) if a >= first and _is_symmetric(w, a, most))


def _repeat(w: Tensor, arrangement: int) -> bool:
    """Whether of some rows or columns, in runs from either end, two have the same sums."""
    dim = 1 - arrangement
    some = torch.cat([w.narrow(arrangement, a, b - a) for a, b in _runs(w.shape[arrangement])], arrangement)
    size = torch.linalg.vector_norm(some.float(), dim=dim).numpy()
    order = np.argsort(size)
    gaps = np.diff(size[order])
    near = np.flatnonzero((gaps <= _ALIKE * size[order[1:]]) & (size[order[:-1]] > 0))
    if not len(near):
        return False
    lines = to_lines(some, arrangement)
    sums = [_sums(_array(lines[torch.from_numpy(order[near + k])])) for k in (0, 1)]
    return bool((np.abs(sums[1] - sums[0]) <= _EQUAL * sums[0]).all(0).any())


def _runs(count: int) -> list[tuple[int, int]]:
    """Where runs of lines begin and end, every second one as far from the end as another is from the start."""
    if count <= _RUNS * _RUN:
        return [(0, count)]
    starts = [k * count // _RUNS for k in range(0, _RUNS, 2)]
    return [(s, s + _RUN) for s in starts] + [(count - s - _RUN, count - s) for s in starts]


def _is_symmetric(w: Tensor, arrangement: int, most: float) -> bool:
    """Whether some entries are their mirror images, but for the sign."""
    n = len(w)
    i, j = (torch.from_numpy((np.modf((np.arange(_PLACES) + 1) * x)[0] * n).astype(np.int64)) for x in (0.618034, 0.414214))
    if arrangement == ANTIDIAGONALS:
        pairs = w[i, j], w[n - 1 - j, n - 1 - i]
    else:
        pairs = w[i, j], w[j, i]
    a, b = (x.abs().double() for x in pairs)
    own = i + j == n - 1 if arrangement == ANTIDIAGONALS else i == j
    told = int(((a != 0) & ~own).sum())
    return told >= _NOT_ZERO * _PLACES and bool(((a - b).abs() <= min(most, _ROUNDING * float(a.max()))).all())


def _array(lines: Tensor) -> Array:
    return (lines if lines.dtype in (torch.float32, torch.float64) else lines.float()).contiguous().numpy()


def _sums(x: Array) -> Array:
    """What neither order nor signs change: sums of magnitudes and of squares of x (lines, entries), (2, lines)."""
    at_once = max(1, _AT_ONCE // x.shape[1])
    parts = (np.abs(x[i : i + at_once], dtype=np.float64) for i in range(0, len(x), at_once))
    return np.concatenate([[part.sum(1), np.square(part).sum(1)] for part in parts], axis=1)


def _roots(x: Array) -> Array:
    """For each line the first one that has the same sums."""
    sums, label = _sums(x), np.zeros(len(x), np.int64)
    for values in sums:
        order = np.lexsort((values, label))
        new = (np.diff(label[order]) != 0) | (np.diff(values[order]) > _EQUAL * values[order[1:]])
        label[order] = np.concatenate([[0], np.cumsum(new)])
    return _first_of(label)[label]


def _first_of(label: Array) -> Array:
    """The first place of each label from 0 on."""
    return np.unique(label, return_index=True)[1]


def _copies(w: Tensor, arrangement: int, kernel: int, most: float, bits: float) -> tuple[float, Copies | None]:
    """Bits, about, and the copies; inf and None without any."""
    x = _array(to_lines(w, arrangement))
    search = _Search(x, np.minimum(most, _ROUNDING * np.abs(x).max(1).astype(np.float64)), bits, _roots(x))
    search.run(_guesses(x.shape[1], kernel if arrangement == ROWS else 1))
    copies = search.copies(arrangement)
    if copies.stored.all():
        return np.inf, None
    return bits * x.size * float(copies.stored.mean()) + 8 * sum(map(len, copies.side())), copies


def _guesses(entries: int, kernel: int) -> list[Move]:
    """Moves that need not be read off: none, and the reverse of a line and of its kernels."""
    along, as_it_is = np.arange(entries), np.zeros(entries, np.bool_)
    orders = [along, along[::-1]]
    if 1 < kernel < entries:
        orders.append(along.reshape(-1, kernel)[:, ::-1].reshape(-1))
    return [(places, as_it_is) for places in orders]


@dataclass
class _Search:
    """The lines x (lines, entries), by how much a copy of each may differ, and the first that has the same sums."""

    x: Array
    limits: Array
    bits: float
    roots: Array
    moves: list[Move] = field(default_factory=list)
    sources: Array = field(init=False)
    how: Array = field(init=False)

    def __post_init__(self) -> None:
        self.sources, self.how = np.arange(len(self.x)), np.zeros(len(self.x), np.int64)

    def run(self, guesses: list[Move]) -> None:
        """Find the sources of all lines that have one."""
        for _ in range(_ROUNDS):
            left = self._left()
            for number, move in enumerate(guesses if not self.moves else self.moves):
                left = self._explain(left, move, number)
            self.moves = self.moves or list(guesses)
            self._read_moves_off(left)
            left = self._left()
            if not len(left):
                break
            label = np.unique(self.roots[left], return_inverse=True)[1]
            self.roots[left] = left[_first_of(label)[label]]

    def copies(self, arrangement: int) -> Copies:
        """What was found, without moves that hardly any line makes."""
        copied = self.sources != np.arange(len(self.x))
        used = np.bincount(self.how[copied] // 2, minlength=len(self.moves))
        order = [0, *(t for t in np.argsort(-used[1:], kind="stable") + 1 if self._pays(self.moves[t], used[t]))]
        order = order[: 1 + min(MOST_MOVES, len(self.x) // 2)]
        numbers = np.full(len(self.moves), -1)
        numbers[order] = np.arange(len(order))
        copied &= numbers[self.how // 2] >= 0
        sources = np.where(copied, self.sources, np.arange(len(self.x)))
        how = np.where(copied, 2 * numbers[self.how // 2] + self.how % 2, 0)
        kept = [self.moves[t] for t in order[1:]]
        moves = Moves(*map(np.stack, zip(*kept, strict=True))) if kept else no_moves(self.x.shape[1])
        return Copies(arrangement, sources, how, moves)

    def _left(self) -> Array:
        """Lines that are neither copies nor the first of their group."""
        own = np.arange(len(self.x))
        return np.flatnonzero((self.roots != own) & (self.sources == own))

    def _pays(self, move: Move, lines: int) -> bool:
        return bool(lines) and lines * self.x.shape[1] * self.bits > 8 * _size(move)

    def _read_moves_off(self, left: Array) -> None:
        """Find moves that make copies of these lines."""
        failures = 0
        while len(left) and failures < _FAILURES and len(self.moves) <= MOST_MOVES:
            move, first, left = self._read_off(left), left[:1], left
            after = left if move is None else self._explain(left, move, len(self.moves))
            if move is not None and self._pays(move, len(left) - len(after)):
                self.moves.append(move)
                left = after
                continue
            undone = np.setdiff1d(left, after)
            self.sources[undone], self.how[undone] = undone, 0
            left, failures = left[left != first], failures + 1

    def _explain(self, left: Array, move: Move, number: int) -> Array:
        """Lines, of these, that this move does not make of the first of their group; others are marked as copies."""
        some = np.unique(np.arange(_SOME) * self.x.shape[1] // _SOME)
        after = [left[:0]]
        at_once = max(1, _AT_ONCE // self.x.shape[1])
        for lines in (left[i : i + at_once] for i in range(0, len(left), at_once)):
            likely = np.any(self._signs(lines, move, some), axis=0)
            same, turned = self._signs(lines[likely], move, np.arange(self.x.shape[1]))
            made = lines[likely][same | turned]
            self.sources[made], self.how[made] = self.roots[made], 2 * number + ~same[same | turned]
            after.append(np.setdiff1d(lines, made))
        return np.concatenate(after)

    def _signs(self, lines: Array, move: Move, entries: Array) -> tuple[Array, Array]:
        """Whether each of the lines is its root moved, at these entries, and whether it is with the other sign."""
        a, b = self.x[lines[:, None], entries], self.x[self.roots[lines][:, None], move[0][entries]]
        b = np.where(move[1][entries], -b, b)
        limit = self.limits[lines][:, None]
        return (np.abs(a - b) <= limit).all(1), (np.abs(a + b) <= limit).all(1)

    def _read_off(self, left: Array) -> Move | None:
        """The move from its root to the first of these lines, with the help of others that moved alike."""
        a, b, limit = 0.0, 0.0, 0.0
        alike: list[int] = []
        for line in left[: _LOOKED_AT + 1]:
            x, y = (np.abs(self.x[k]).astype(np.float64) for k in (self.roots[line], line))
            unit = _FACTOR ** len(alike) / max(float(y.max()), 1e-300)
            new = a + unit * x, b + unit * y, limit + unit * self.limits[line]
            if (np.abs(np.sort(new[0]) - np.sort(new[1])) <= new[2]).all():
                (a, b, limit), alike = new, [*alike, int(line)]
            if not alike or len(alike) > _COMPANIONS:
                break
        return self._move(np.asarray(a), np.asarray(b), alike) if alike else None

    def _move(self, a: Array, b: Array, alike: list[int]) -> Move:
        """By keys of the entries of the roots, and of the lines, that moved alike."""
        places = np.empty(len(a), np.int64)
        places[np.argsort(b, kind="stable")] = np.argsort(a, kind="stable")
        signs = np.zeros(len(a))
        for line in alike:
            product = np.sign(self.x[line]) * np.sign(self.x[self.roots[line]][places])
            signs = np.where(signs == 0, product, signs)
        turned = signs < 0
        return places, ~turned & (signs != 0) if 2 * turned.sum() > len(a) else turned


def _size(move: Move) -> int:
    """Bytes that a move takes."""
    return len(encode_moves(move[0][None])) + len(encode_side(move[1], "max"))
