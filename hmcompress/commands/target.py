"""The tolerance that reaches a size."""

import math
from collections.abc import Callable

from hmcompress.errors import BoundError

COARSEST, FINEST = 0.5, 1e-7
CLOSE = 1.01  # a size this close below the wanted one ends the search
_MOST_TRIALS = 14
_STEP = 1.3  # how far beyond the estimate a step outwards goes
_MOST_BITS = 64.0  # a weight, more than any has


def tolerance_for_ratio(size: Callable[[float], int], source_bytes: int, ratio: float, weights: int) -> float:
    """The smallest tolerance found at which `size(tol)` is at most source_bytes / ratio.

    Bytes grow by about a bit a weight when the tolerance is halved, which gives the first guesses; then it is
    interpolated in log(tol). `weights` is how many numbers the tolerance bears on. Raises BoundError where the
    coarsest tolerance gives a larger file.
    """
    wanted = int(source_bytes / ratio)
    sizes: dict[float, int] = {}
    tol = _clipped(2 ** (0.25 - _bits(wanted, weights)))
    while tol not in sizes and len(sizes) < _MOST_TRIALS:
        sizes[tol] = size(tol)
        if wanted / CLOSE <= sizes[tol] <= wanted:
            return tol
        tol = _next(sizes, wanted / math.sqrt(CLOSE), weights)
    good = [tol for tol, nbytes in sizes.items() if nbytes <= wanted]
    if not good:
        reached = source_bytes / min(sizes.values())
        raise BoundError(
            f"target ratio {ratio:g} cannot be reached: tol {max(sizes):g} gives {reached:.4g}; "
            "ask for less, or --drop what need not be kept"
        )
    return min(good)


def _next(sizes: dict[float, int], aim: float, weights: int) -> float:
    """The next tolerance to try: between the nearest on both sides of the aim, or further out on the only side."""
    fine = [tol for tol, nbytes in sizes.items() if nbytes > aim]  # too large a file
    coarse = [tol for tol, nbytes in sizes.items() if nbytes <= aim]
    if not fine:
        return _clipped(min(coarse) * 2 ** (-_STEP * _bits(aim - sizes[min(coarse)], weights)))
    if not coarse:
        return _clipped(max(fine) * 2 ** (_STEP * _bits(sizes[max(fine)] - aim, weights)))
    low, high = max(fine), min(coarse)
    share = (sizes[low] - aim) / (sizes[low] - sizes[high]) if sizes[low] > sizes[high] else 0.5
    if len(sizes) % 3 == 0:  # regula falsi alone may creep along one side
        share = 0.5
    return _clipped(low * (high / low) ** min(max(share, 0.02), 0.98))


def _bits(nbytes: float, weights: int) -> float:
    """Of each weight, were they all that these bytes hold; a few weights of a large file are no power beyond floats."""
    return min(max(8 * nbytes / max(weights, 1), 0.05), _MOST_BITS)


def _clipped(tol: float) -> float:
    """A possible tolerance that prints short."""
    return float(f"{min(max(tol, FINEST), COARSEST):.4g}")
