"""One way to code all weights of a network: what it takes, and how two of different errors are compared."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from hmcompress.network.layerwise.coded import living
from hmcompress.network.layerwise.propagate import Knobs, Parts

LIMIT = 0.998  # of the tolerance: held-out points are a sample too
_NEURON = 0.003  # share of the bytes that a living neuron is worth where fewer are preferred
_SLOPE = 0.45  # bytes fall about as the error to this power: how trials of different errors are compared

Pass = Callable[[Knobs], Parts]
Measure = Callable[[Parts], float]


@dataclass(frozen=True)
class Trial:
    """Coded parts, their bytes, the error that is bounded, and the knobs of the pass that gave them, if one did."""

    knobs: Knobs
    parts: Parts
    nbytes: int
    error: float
    neurons: int = 0  # where fewer are preferred

    @property
    def cost(self) -> float:
        """Bytes, and a share of them for each neuron that counts."""
        return self.nbytes * (1 + _NEURON * self.neurons)

    def score(self, tol: float) -> float:
        """Bytes that the same knobs would need at the tolerance, roughly."""
        if not math.isfinite(self.error):
            return math.inf
        return self.cost * max(self.error / tol, 0.3) ** _SLOPE


def trial_of(knobs: Knobs, parts: Parts, measure: Measure, slim: bool) -> Trial:
    """What a pass gives. slim: whether its living neurons count."""
    nbytes = sum(len(part.payload(thorough=False)) for part in parts.values())
    return Trial(knobs, parts, nbytes, measure(parts), living(parts.values()) if slim else 0)
