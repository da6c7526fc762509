"""The tolerance of lines that are stored where others are copies of them: what the whole may have, or less."""

import math
from collections.abc import Callable
from dataclasses import replace

from hmcompress.hmatrix.basics.measure import reference
from hmcompress.hmatrix.codecs import COPIED
from hmcompress.hmatrix.hmatrix import HMatrix
from hmcompress.hmatrix.patterns.copied import COLUMNS, ROWS, Copies
from hmcompress.hmatrix.request import Request

_TRIALS, _ENOUGH, _AIM = 4, 0.985, 0.9995  # of the tolerance
_MOST_TOL = 0.9
Smallest = Callable[[Request, None, int, int], HMatrix]


def tune_copies(request: Request, copies: Copies, kernel: int, smallest: Smallest) -> HMatrix | None:
    """The smallest form found of the matrix whose lines are copies of some, within the tolerance.

    smallest: the search for the smallest form of what is stored, by kernel and by the first arrangement of its copies.
    """
    w = copies.values(request.w)
    size = reference(w, request.norm)
    share = 1.0 if request.norm == "max" else math.sqrt(w.numel() / request.w.numel())
    tol, best = share * request.tol * request.size / size if size > 0 else 0.0, None
    inner, first = _kernel(request, copies, kernel, w.shape[1]), copies.arrangement + 1
    for _ in range(_TRIALS):
        if not 0 < tol < 1:
            break
        held = smallest(replace(request, w=w, tol=min(tol, _MOST_TOL), size=size), None, inner, first)
        found = request.measured(bytes([COPIED]) + copies.encode(held.payload))
        if found.error <= request.tol and (best is None or found.nbytes < best.nbytes):
            best = found
        unused = found.error < _ENOUGH * request.tol and held.error > _ENOUGH * held.tol
        if found.error <= request.tol and not unused:
            break
        tol *= _AIM * request.tol / found.error
    return best


def _kernel(request: Request, copies: Copies, kernel: int, columns: int) -> int:
    """The entries of a kernel that are stored, where each may have as many of them."""
    if copies.arrangement == ROWS:
        return kernel
    left, kernels = columns * kernel, request.w.shape[1]
    return left // kernels if copies.arrangement == COLUMNS and left % kernels == 0 else 1
