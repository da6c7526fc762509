"""The end game of a quantised small network: its integers move, a few at once, as long as error or bits get less.

A step of one integer alone costs error, because the layers were quantised one after another, each making up for those
before it. So some others follow it: those that gain the most in the metric of the joint Gauss-Newton matrix.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from hmcompress.hmatrix.grids.compact import usual_model
from hmcompress.hmatrix.grids.grid import Grid, powers
from hmcompress.hmatrix.grids.weighted import integer_bits
from hmcompress.network.joint.small import Data, SmallNetwork

_FOLLOWERS = 3
_SPAN = _FOLLOWERS + 1  # steps that an integer goes at most in one move
_TRIED = 16  # moves whose error is measured in one round
_ROUNDS = 8
_LEAST = 1e-3  # bits that are a gain


class IntegerMoves:
    """Integers of a small network's live weights. `price`: the squared error that a bit is worth."""

    def __init__(self, network: SmallNetwork, grids: Sequence[Grid], data: Data, price: float) -> None:
        self.network, self.grids, self.data, self.price = network.clone(), tuple(grids), data, price
        self.rounds = 0  # Jacobians of all weights so far
        self._live = [layer.live.numpy() for layer in network.layers]

    def descend(self) -> None:
        """Lower squared error plus price times bits, move by move."""
        kept, value = self._integers(), np.inf
        for _ in range(_ROUNDS):
            start, steps, costs = self._integers(), self._steps(), self.price * self._bits()
            gram, gradient, error = self.network.normal(self.data)
            self.rounds += 1
            least = error + _at(costs, 0 * start)
            if least > value - _LEAST * self.price:  # the last moves changed what the others cost
                break
            kept, value, q = start, least, start
            for move in _moves(gram.numpy() * steps[:, None] * steps, gradient.numpy() * steps, costs):
                tried = self._error(q + move, steps) + _at(costs, q + move - start)
                if tried < least - _LEAST * self.price:
                    q, least = q + move, tried
            self._keep(q)
        self._keep(kept)

    def _error(self, q: np.ndarray, steps: np.ndarray) -> float:
        """Squared, with these integers in the network."""
        self.network.set_theta(torch.from_numpy(q * steps))
        return self.network.error(self.data)

    def _keep(self, q: np.ndarray) -> None:
        parts = np.split(q, np.cumsum([live.sum() for live in self._live])[:-1])
        grids = []
        for grid, live, part in zip(self.grids, self._live, parts, strict=True):
            whole = grid.q.copy()
            whole[live] = part
            grids.append(replace(grid, q=whole))
        self.grids = tuple(grids)
        self._error(q, self._steps())

    def _integers(self) -> np.ndarray:
        return np.concatenate([g.q[live] for g, live in zip(self.grids, self._live, strict=True)])

    def _steps(self) -> np.ndarray:
        steps = [powers(grid.row_exponents[:, None] + grid.column_exponents) for grid in self.grids]
        return np.concatenate([s[live] for s, live in zip(steps, self._live, strict=True)])

    def _bits(self) -> np.ndarray:
        """(P, 2 SPAN + 1) bits of each integer and of its neighbours, the others as they are."""
        bits = [integer_bits(grid, usual_model(grid), _SPAN) for grid in self.grids]
        return np.concatenate([b[live] for b, live in zip(bits, self._live, strict=True)])


def _at(costs: np.ndarray, gone: np.ndarray) -> float:
    """Of all integers, each so many steps from where it was."""
    return float(costs[np.arange(len(costs)), np.clip(gone, -_SPAN, _SPAN) + _SPAN].sum())


def _moves(metric: np.ndarray, gradient: np.ndarray, costs: np.ndarray) -> list[np.ndarray]:
    """The moves that promise the most, best first: each integer up or down, and those that follow it.

    Changes of the squared error are those of a parabola; `costs` (P, 2 SPAN + 1) of integers that move so far.
    """
    count = len(gradient)
    lines, chosen, step = np.arange(2 * count), np.tile(np.arange(count), 2), np.repeat([1, -1], count)
    own, places = (lines, chosen, step), np.arange(count)
    moved, slopes, change = np.zeros((2 * count, count), np.int64), np.tile(gradient, (2 * count, 1)), np.zeros(1)
    best, kept = np.full(2 * count, np.inf), moved
    for k in range(_FOLLOWERS + 1):
        now = costs[places, moved + _SPAN]
        up, down = (
            np.diag(metric) - 2 * s * slopes + costs[places, np.clip(moved + s, -_SPAN, _SPAN) + _SPAN] - now
            for s in (1, -1)
        )
        if k:
            up[own[0][own[2] < 0], own[1][own[2] < 0]] = np.inf  # the first step is not taken back
            down[own[0][own[2] > 0], own[1][own[2] > 0]] = np.inf
            step = np.where(up.min(1) < down.min(1), 1, -1)
            chosen = np.where(step > 0, up.argmin(1), down.argmin(1))
        change = change + np.where(step > 0, up[lines, chosen], down[lines, chosen])
        moved = moved.copy()
        moved[lines, chosen] += step
        slopes = slopes - step[:, None] * metric[chosen]
        better = change < best
        best, kept = np.where(better, change, best), np.where(better[:, None], moved, kept)
    return [kept[i] for i in np.argsort(best, kind="stable")[:_TRIED] if best[i] < 0]
