"""The tolerance that reaches a size."""

import math
from collections.abc import Callable

from hmcompress.errors import BoundError

COARSEST, FINEST = 0.5, 1e-7
CLOSE = 1.01  # a ratio this close above the wanted one ends the search
_TRIES = 12


def tolerance_for_ratio(size: Callable[[float], int], source_bytes: int, ratio: float) -> float:
    """The smallest tolerance found at which `size(tol)` is at most source_bytes / ratio.

    Bytes grow nearly linearly with log(1/tol), so a few trials do. Raises BoundError where the coarsest is too large.
    """
    wanted = source_bytes / ratio
    good, good_size = COARSEST, size(COARSEST)
    if good_size > wanted:
        raise BoundError(
            f"target ratio {ratio:g} cannot be reached: tol {COARSEST} gives {source_bytes / good_size:.4g}; "
            "ask for less, or --drop what need not be kept"
        )
    bad, bad_size = FINEST, size(FINEST)
    if bad_size <= wanted:
        return FINEST
    for _ in range(_TRIES):
        if good_size * CLOSE >= wanted:
            break
        tol = _between(good, good_size, bad, bad_size, wanted / math.sqrt(CLOSE))
        if tol in (good, bad):
            break
        now = size(tol)
        if now <= wanted:
            good, good_size = tol, now
        else:
            bad, bad_size = tol, now
    return good


def _between(good: float, good_size: int, bad: float, bad_size: int, wanted: float) -> float:
    """Interpolate in log(tol), well inside the bracket, and round to a tolerance that prints short."""
    share = min(max((wanted - good_size) / (bad_size - good_size), 0.05), 0.95)
    return float(f"{good * (bad / good) ** share:.4g}")
