"""The trellis of dependent quantisation, and the cheapest path through it.

Trellis-coded quantisation (Marcellin & Fischer 1990; entropy-coded: Fischer & Wang 1992): the integers split into four
subsets by their remainder mod 4. A finite state machine decides at each step whether the integer is even or odd, and
bit 1 of the integer moves the machine on. The machine is the encoder of a convolutional code (Ungerboeck 1982).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

Array = np.ndarray
# Parity check polynomials (h0, h1) for log2(number of states).
_CODES = {3: (0o13, 0o04), 4: (0o23, 0o04), 5: (0o45, 0o10), 6: (0o103, 0o24), 7: (0o235, 0o126), 8: (0o515, 0o362)}
MEMORIES = tuple(_CODES)
SUBSETS = 4
_TOGETHER = 256  # paths searched side by side: their metrics stay in the cache
_FAR = np.float32(1e9)


@dataclass(frozen=True)
class Trellis:
    """A machine of 2 ** memory states. Bit 0 of its state is bit 0 of the next integer."""

    memory: int = 6

    @property
    def states(self) -> int:
        return 1 << self.memory

    @cached_property
    def successors(self) -> Array:
        """(2 * states,): the state after state s and bit b, at 2 * s + b."""
        h0, h1 = _CODES[self.memory]
        state, bit = np.divmod(np.arange(2 * self.states), 2)
        return ((state >> 1) ^ (state & 1) * (h0 >> 1) ^ bit * (h1 >> 1)).astype(np.int32)

    @cached_property
    def _origins(self) -> Array:
        """(2, states): the two branches into each state, a branch being bit * states + state."""
        branch = np.arange(2 * self.states)
        bit, state = np.divmod(branch, self.states)
        return np.argsort(self.successors[2 * state + bit], kind="stable").reshape(-1, 2).T.copy()

    def cheapest_subsets(self, costs: Array) -> Array:
        """The subsets along the cheapest paths from state 0 (Viterbi), (t, paths), uint8.

        costs (t, 4, paths), float32: what the best integer of each subset costs at each step of each path.
        """
        found = np.empty((costs.shape[0], costs.shape[2]), np.uint8)
        for start in range(0, costs.shape[2], _TOGETHER):
            part = slice(start, start + _TOGETHER)
            found[:, part] = self._search(costs[:, :, part])
        return found

    def _search(self, costs: Array) -> Array:
        steps, _, paths = costs.shape
        metric = np.full((self.states, paths), _FAR, np.float32)
        metric[0] = 0
        second = np.empty((steps, self.states, paths), bool)
        branches = np.empty((2, self.states // 2, 2, paths), np.float32)
        flat, one, other = branches.reshape(-1, paths), np.empty_like(metric), np.empty_like(metric)
        for t in range(steps):
            np.add(metric.reshape(1, -1, 2, paths), costs[t].reshape(2, 1, 2, paths), out=branches)
            np.take(flat, self._origins[0], axis=0, out=one, mode="clip")
            np.take(flat, self._origins[1], axis=0, out=other, mode="clip")
            np.less(other, one, out=second[t])
            np.minimum(one, other, out=metric)
        return self._trace(second, metric.argmin(0))

    def _trace(self, second: Array, state: Array) -> Array:
        """Walk back from the last states along the branches that won."""
        paths = np.arange(len(state))
        found = np.empty((len(second), len(state)), np.uint8)
        for t in range(len(second) - 1, -1, -1):
            branch = self._origins[second[t, state, paths].astype(np.intp), state]
            state = branch & (self.states - 1)
            found[t] = 2 * (branch >> self.memory) + (state & 1)
        return found
