"""Blocks that repeat an earlier block, as it is or transposed."""

from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

Array = np.ndarray
_TOLERANCE = 0.02 / 12  # mean squared difference, in squared steps: a fiftieth of what rounding costs


@dataclass(frozen=True)
class Repeat:
    """`source` is what is repeated: an index into a list of blocks, or a node."""

    source: Any
    transposed: bool


def find_repeats(blocks: list[Array], step: float = 1.0) -> list[Repeat | None]:
    """For every block the first earlier one that it repeats to within a small part of a step, or None.

    Candidates come from two random bilinear forms that transposition exchanges; each is then compared in full.
    """
    if len(blocks) < 2:
        return [None] * len(blocks)
    prints = [_fingerprint(b) for b in blocks]
    if not np.isfinite(prints).all():  # numbers so large that a sum of them is none
        return [None] * len(blocks)
    allowed = _TOLERANCE * step * step
    width = 8 * np.sqrt(allowed)
    index: dict[tuple[int, bool], list[int]] = defaultdict(list)
    found: list[Repeat | None] = []
    for i, (block, (own, _)) in enumerate(zip(blocks, prints, strict=True)):
        found.append(_look_up(own, block, blocks, index, width, allowed))
        if found[-1] is None:
            for value, transposed in zip(prints[i], (False, True), strict=True):
                index[(int(value // width), transposed)].append(i)
    return found


def _look_up(own: float, block: Array, blocks: list[Array], index: dict, width: float, allowed: float) -> Repeat | None:
    bucket = int(own // width)
    for transposed in (False, True):
        for near in (bucket, bucket - 1, bucket + 1):
            for j in index.get((near, transposed), ())[-8:]:
                other = blocks[j].T if transposed else blocks[j]
                if other.shape == block.shape and _mean_square(other - block) <= allowed:
                    return Repeat(j, transposed)
    return None


def _mean_square(e: Array) -> float:
    return float(np.vdot(e, e)) / e.size


def _fingerprint(block: Array) -> tuple[float, float]:
    m, n = block.shape
    u, v, u2, v2 = (x.astype(block.dtype) for x in (_probe(m), _probe(n, 1), _probe(n), _probe(m, 1)))
    return float(u @ block @ v), float(v2 @ block @ u2)


@cache
def _probe(n: int, kind: int = 0) -> Array:
    """A fixed quasi-random unit vector."""
    x = np.modf((np.arange(n) + 1) * (0.6180339887498949, 0.41421356237309515)[kind])[0] - 0.5
    return x / np.linalg.norm(x)
