"""A cheap look: does a matrix have structure worth a search?"""

import numpy as np

from hmcompress.hmatrix import price
from hmcompress.hmatrix.partition import best_leaves
from hmcompress.hmatrix.repeats import find_repeats

Array = np.ndarray
_PROBE = 64
_SMALL = 1 << 16
_GAIN = 0.985


def has_structure(a: Array, plain: float) -> bool:
    """Whether low-rank blocks, smooth factors or repeats promise to save more than a hundredth over quantisation.

    a: (m, n), in steps. plain: the price of the whole as one quantised leaf. Looks at sample blocks along the diagonal and off it, and at a sketch of the whole.
    """
    if a.size <= _SMALL:
        return True
    blocks = _samples(a)
    if any(r is not None for r in find_repeats(blocks)):
        return True
    stack = np.stack(blocks)
    flat = float(price.cost(np.sqrt(np.mean(stack * stack, axis=(1, 2)))).sum()) * blocks[0].size
    if sum(cost for _, cost in best_leaves(stack, True)) < _GAIN * flat:
        return True
    return best_leaves(a[None], True)[0][1] < _GAIN * plain


def _samples(a: Array) -> list[Array]:
    m, n = (min(_PROBE, s) for s in a.shape)
    rows = np.linspace(0, a.shape[0] - m, 4).astype(int)
    columns = np.linspace(0, a.shape[1] - n, 4).astype(int)
    pairs = {(r, c) for i, r in enumerate(rows) for j, c in enumerate(columns) if (i - j) % 4 in (0, 1)}
    return [a[r : r + m, c : c + n] for r, c in sorted(pairs)]
