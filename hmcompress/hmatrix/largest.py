"""Bounds on the largest error, kept by forms that the sum of squares chose.

A form that is to keep every entry rounds every entry. Of a matrix with structure that costs many times what the
structure takes: a tolerance on the sum of squares whose largest error is small enough may then be kept by fewer bytes.
"""

import math
from collections.abc import Callable
from dataclasses import replace

from hmcompress.hmatrix.basics.measure import reference
from hmcompress.hmatrix.hmatrix import HMatrix
from hmcompress.hmatrix.request import Request, first_step
from hmcompress.hmatrix.screen import find_structure
from hmcompress.hmatrix.tune_symmetric import tune_symmetric

_PEAK = 3.5  # times the root mean square of errors that are no rounding: their largest, at first
_TRIALS, _AIM, _ENOUGH = 3, 0.97, 0.93
_GROWTH, _TINY = 0.5, 1e-9  # power of the error by which bytes of structure fall; an error that is none
_LEAP = 10.0  # from one tolerance to the next, at most
_MOST_TOL = 0.9
_FEW_BYTES = 512  # of a form beside which others save some bytes in a hundred, and take three times as long
Smallest = Callable[[Request], HMatrix]


def smallest_of_any(request: Request, smallest: Smallest) -> HMatrix:
    """The smallest form found: of the symmetric part where that is nearly all, by squares where these serve better.

    smallest: the search for the smallest form of a matrix as it stands, in the request's norm.
    """
    found = _by_its_norm(request, smallest)
    return _by_squares(request, found, smallest) if _may_serve(request, found) else found


def _by_its_norm(request: Request, smallest: Smallest) -> HMatrix:
    return tune_symmetric(request, smallest) or smallest(request)


def _may_serve(request: Request, found: HMatrix) -> bool:
    """Whether the largest error is bounded, of a matrix with structure that takes more than a few bytes."""
    if request.norm != "max" or request.effort == "fast" or found.error == 0:
        return False
    if found.nbytes <= _FEW_BYTES and request.effort != "max":
        return False
    structure = find_structure(request.w, first_step(request), request.effort == "max")
    return structure.is_global(request.effort) or structure.has_like_lines()


def _by_squares(request: Request, best: HMatrix, smallest: Smallest) -> HMatrix:
    """`best`, or a smaller form at a tolerance on the sum of squares by which the largest error is kept."""
    size, entries = reference(request.w, "fro"), request.w.numel()
    tol = request.tol * request.size * math.sqrt(entries) / (_PEAK * size)
    low, high = 0.0, math.inf  # low keeps the bound, high breaks it
    for _ in range(_TRIALS):
        tol = min(tol, _MOST_TOL)
        inner = _by_its_norm(replace(request, norm="fro", size=size, tol=tol), smallest)
        found = request.measured(inner.payload)
        share = found.error / request.tol
        if share <= 1:
            low, best = tol, min(best, found, key=lambda matrix: matrix.nbytes)
        else:
            high = tol
        if _ENOUGH < share <= 1 or _likely(found, share) >= best.nbytes:
            break
        tol *= min(_AIM / share, _LEAP) if share > 0 else _LEAP
        tol = tol if low < tol < high else math.sqrt(low * high)
    return best


def _likely(found: HMatrix, share: float) -> float:
    """Bytes of a form whose largest error is all that it may be, guessed low from one of which it is another share.

    Of noise a bit an entry is saved for twice the error; structure takes more or less by about the root.
    """
    noise = found.shape[0] * found.shape[1] / 8 * math.log2(1 / max(share, _TINY)) if share < 1 else 0.0
    return max(found.nbytes - noise, found.nbytes * max(share, _TINY) ** _GROWTH)
