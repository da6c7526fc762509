"""Which lines are copies: found by sums that no order and no sign changes, then by the order of their magnitudes.

How entries move from a line to its copy is not looked up but read off: magnitudes of noise differ, so that their ranks
tell what stands where; where some are equal, other pairs that moved alike tell them apart.
"""

import math
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
_RUNS, _RUN = 8, 8  # of lines that are looked at first; how many each has at least
_PAIRS = 4.0  # times the root of the number of lines: so many of them hold eight pairs if each has its copy anywhere
_ANY_ORDER = 2  # sums that no order changes
_ALIKE, _EQUAL = 1e-5, 1e-6  # relative difference of two sums, in float32 and in float64
_ROUNDING = 1e-6  # of the largest entry of a line: by how much its copies may differ
_SOME = 32  # entries compared first
_AT_ONCE = 1 << 20  # entries that are compared
_COMPANIONS, _LOOKED_AT = 6, 24  # pairs that tell equal magnitudes apart, and among which these are looked for
_FAILURES, _ROUNDS = 3, 4  # moves that serve nothing; times that lines which are left are taken for sources
_FACTOR = 0.7548776662466927  # no magnitude is likely to be another one times this
_LEAST_GAIN, _NEARLY = 0.02, 1.03  # of the bits; a factor


def find_copies(w: Tensor, kernel: int, most: float, bits: float, first: int = ROWS) -> Copies | None:
    """The copies among the lines of w (m, n) that save most, in an arrangement from `first` on.

    kernel: entries of a group of columns. most: by how much a copy may differ, at most. bits: what an entry costs.
    """
    found = [_copies(w, a, kernel, most, bits) for a in _likely(w, first)]
    least = min((cost for cost, _ in found), default=np.inf)
    if least > (1 - _LEAST_GAIN) * bits * w.numel():
        return None
    # The first that is about as good: what is left may have copies of later kinds, not of earlier ones.
    return next(copies for cost, copies in found if cost <= _NEARLY * least)


def _likely(w: Tensor, first: int) -> Iterator[int]:
    """The arrangements in which some lines, in runs from either end, show copies."""
    if min(w.shape) < _LEAST:
        return
    rows, columns = (_some(w, a) for a in (ROWS, COLUMNS))
    sizes = [np.einsum(sums, x, x) for sums, x in (("ij,ij->i", rows), ("ij,ij->j", columns))]
    yield from (a for a, x in ((ROWS, rows), (COLUMNS, columns.T)) if a >= first and _repeat(x, sizes[a]))
    if w.shape[0] == w.shape[1]:
        mirrored = ((DIAGONALS, sizes[COLUMNS]), (ANTIDIAGONALS, sizes[COLUMNS][::-1]))
        yield from (a for a, size in mirrored if a >= first and _are_alike(sizes[ROWS], size))


def _some(w: Tensor, dim: int) -> Array:
    """Some rows or columns, in runs of which every second one is as far from the end as another is from the start."""
    count = w.shape[dim]
    run = max(_RUN, math.ceil(_PAIRS * math.sqrt(count) / _RUNS))
    if count <= _RUNS * run:
        return _array(w)
    starts = [k * count // _RUNS for k in range(0, _RUNS, 2)]
    starts += [count - start - run for start in reversed(starts)]
    return _array(torch.cat([w.narrow(dim, start, run) for start in starts], dim))


def _are_alike(rows: Array, columns: Array) -> bool:
    """Whether rows are of the sizes of columns, which those of a matrix that is symmetric, but for signs, are."""
    return bool(rows.any()) and bool((np.abs(rows - columns) <= _ALIKE * rows).all())


def _repeat(x: Array, sizes: Array) -> bool:
    """Whether two of the lines x (lines, entries), whose squares have these sums, have all sums in common."""
    order = np.argsort(sizes)
    ordered = sizes[order]
    near = np.flatnonzero((ordered[1:] - ordered[:-1] <= _ALIKE * ordered[1:]) & (ordered[:-1] > 0))
    if not len(near):
        return False
    both = np.abs(x[np.concatenate([order[near], order[near + 1]])], dtype=np.float64)
    one, other = np.stack([both.sum(1), np.square(both).sum(1)]).reshape(2, 2, -1).swapaxes(0, 1)
    return bool((np.abs(one - other) <= _EQUAL * one).all(0).any())


def _array(lines: Tensor) -> Array:
    return (lines if lines.dtype in (torch.float32, torch.float64) else lines.float()).numpy()


def _sums(x: Array) -> Array:
    """Of the lines x (lines, entries) what neither order nor signs change, sums of magnitudes and of squares, and a sum
    of magnitudes that order changes: (3, lines)."""
    weights = 0.5 + np.modf(np.arange(1, x.shape[1] + 1) * 0.618034)[0]
    at_once = max(1, _AT_ONCE // x.shape[1])
    parts = (np.abs(x[i : i + at_once], dtype=np.float64) for i in range(0, len(x), at_once))
    return np.concatenate([[part.sum(1), np.square(part).sum(1), part @ weights] for part in parts], axis=1)


def _roots(sums: Array) -> Array:
    """For each line the first one that has the same sums (some, lines)."""
    label = np.zeros(sums.shape[1], np.int64)
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
    x = np.ascontiguousarray(_array(to_lines(w, arrangement)))
    search = _Search(x, np.minimum(most, _ROUNDING * np.abs(x).max(1).astype(np.float64)), bits)
    search.run(_guesses(x.shape[1], kernel if arrangement == ROWS else 1), arrangement < DIAGONALS)
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
    """The lines x (lines, entries), by how much a copy of each may differ, and what an entry costs."""

    x: Array
    limits: Array
    bits: float
    moves: list[Move] = field(default_factory=list)
    roots: Array = field(init=False)  # the first line that has the same sums
    sources: Array = field(init=False)
    how: Array = field(init=False)

    def __post_init__(self) -> None:
        self.sources, self.how = np.arange(len(self.x)), np.zeros(len(self.x), np.int64)

    def run(self, guesses: list[Move], may_move: bool) -> None:
        """Find the sources of all lines that have one; the first of the guesses is that nothing moves."""
        sums, self.moves = _sums(self.x), guesses
        self.roots = _roots(sums)
        self._explain(self._left(), 0)
        if not may_move:
            return
        own = np.flatnonzero(self.sources == np.arange(len(self.x)))
        self.roots[own] = own[_roots(sums[:_ANY_ORDER, own])]
        for _ in range(_ROUNDS):
            left = self._left()
            for number in range(len(self.moves)):
                left = self._explain(left, number)
            self._read_moves_off(left)
            left = self._left()
            label = np.unique(self.roots[left], return_inverse=True)[1]
            self.roots[left] = left[_first_of(label)[label]]
        self.how ^= np.where(self.sources[self.sources] != self.sources, self.how[self.sources], 0)
        self.sources = self.sources[self.sources]  # copies of what has turned out to be one, which nothing moves

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
            move = self._read_off(left)
            self.moves.append(move)
            after = self._explain(left, len(self.moves) - 1)
            if self._pays(move, len(left) - len(after)):
                left = after
            else:
                undone = np.setdiff1d(left, after)
                self.sources[undone], self.how[undone] = undone, 0
                left, failures = left[1:], failures + 1
                del self.moves[-1]

    def _explain(self, left: Array, number: int) -> Array:
        """Lines, of these, that a move does not make of the first of their group; others are marked as its copies."""
        some = np.unique(np.arange(_SOME) * self.x.shape[1] // _SOME)
        after = [left[:0]]
        at_once = max(1, _AT_ONCE // self.x.shape[1])
        for lines in (left[i : i + at_once] for i in range(0, len(left), at_once)):
            likely = lines[np.any(self._same(lines, number, some), axis=0)]
            same, turned = self._same(likely, number, slice(None))
            made = same | turned
            self.sources[likely[made]], self.how[likely[made]] = self.roots[likely[made]], 2 * number + ~same[made]
            after.append(np.setdiff1d(lines, likely[made]))
        return np.concatenate(after)

    def _same(self, lines: Array, number: int, entries: Array | slice) -> tuple[Array, Array]:
        """Whether each of the lines is its root moved, at these entries, and whether it is with the other sign."""
        places, turned = (part[entries] for part in self.moves[number])
        a, b = self.x[lines][:, entries], self.x[self.roots[lines]][:, places]
        b = np.where(turned, -b, b) if turned.any() else b
        limit = self.limits[lines][:, None]
        return (np.abs(a - b) <= limit).all(1), (np.abs(a + b) <= limit).all(1)

    def _read_off(self, left: Array) -> Move:
        """The move from its root to the first of these lines, with the help of others that moved alike."""
        keys, alike = (np.zeros(()), np.zeros(()), np.zeros(())), list[int]()
        for line in left[:_LOOKED_AT]:
            sizes = (np.abs(self.x[k]).astype(np.float64) for k in (self.roots[line], line))
            unit = _FACTOR ** len(alike) / max(float(np.abs(self.x[line]).max()), 1e-300)
            new = tuple(key + unit * size for key, size in zip(keys, (*sizes, self.limits[line]), strict=True))
            if not alike or (np.abs(np.sort(new[0]) - np.sort(new[1])) <= new[2]).all():
                keys, alike = new, [*alike, line]
            if len(alike) > _COMPANIONS:
                break
        places = np.empty(self.x.shape[1], np.int64)
        places[np.argsort(keys[1], kind="stable")] = np.argsort(keys[0], kind="stable")
        return places, self._turned(places, alike)

    def _turned(self, places: Array, alike: list[int]) -> Array:
        """Which entries change their signs in lines that moved alike, if these are not most."""
        signs = np.zeros(len(places))
        for line in alike:
            product = np.sign(self.x[line]) * np.sign(self.x[self.roots[line]][places])
            signs = np.where(signs == 0, product, signs)
        return signs < 0 if 2 * np.count_nonzero(signs < 0) <= len(signs) else signs > 0


def _size(move: Move) -> int:
    """Bytes that a move takes."""
    return len(encode_moves(move[0][None])) + len(encode_side(move[1], "max"))
