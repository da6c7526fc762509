"""The step of weights of 16 bits whose tolerance is near their own resolution."""

import math

import numpy as np
import torch

from hmcompress.hmatrix.basics.words import Histogram
from hmcompress.hmatrix.codecs import SHORT_FLOATS
from hmcompress.hmatrix.hmatrix import HMatrix
from hmcompress.hmatrix.patterns.short_floats import Rungs, encode, short_dtype
from hmcompress.hmatrix.request import Request, first_step

_LEAST = 1 << 10  # entries
_KEPT = 0.02  # share of entries that are kept as they are below which there is little to gain
_GAIN = 0.995  # of the bytes of another form, which decodes faster
_HALVINGS, _OCTAVES = 16, 12.0  # of the bracket of the step; by how much it may exceed the step of plain quantisation
_AIM, _TRIALS = 0.998, 5  # of the tolerance


def tune_short_floats(request: Request, best: HMatrix | None) -> HMatrix | None:
    """`best`, or the matrix with its large entries as they are where that is smaller."""
    tried = request.effort != "fast" and request.norm == "fro" and request.rounds
    if not tried or request.w.numel() < _LEAST or request.size == 0:
        return best
    dtype = short_dtype(request.w)
    return best if dtype is None else _tuned(request, dtype, best)


def _tuned(request: Request, dtype: torch.dtype, best: HMatrix | None) -> HMatrix | None:
    histogram = Histogram.of(request.w, dtype)
    step = _largest_step(request, histogram)
    if step and best is not None:
        best.forget()  # these layers may be the largest of all
        request.forget()
    for _ in range(_TRIALS if step else 0):
        rungs = Rungs.at(float(np.float32(step)), dtype)
        if rungs is None:
            return best
        found = _smaller(request, rungs, best)
        if found is None or found.error <= request.tol:
            return found or best
        step *= _AIM * request.tol / found.error  # small rows that are left out lose more
    return best


def _smaller(request: Request, rungs: Rungs, best: HMatrix | None) -> HMatrix | None:
    """The matrix of these rungs if it is smaller than `best`."""
    payload = bytes([SHORT_FLOATS]) + encode(request.w, rungs)
    limit = math.inf if best is None else best.nbytes * (1 if request.effort == "max" else _GAIN)
    return request.measured(payload) if len(payload) < limit else None


def _largest_step(request: Request, histogram: Histogram) -> float:
    """The largest step whose error keeps the tolerance; 0 where few entries would be kept as they are."""
    low, octaves = first_step(request), _OCTAVES
    rungs = Rungs.at(low, histogram.dtype)
    if rungs is None or histogram.share_from(rungs.top) < _KEPT:
        return 0.0
    for _ in range(_HALVINGS):
        octaves /= 2
        higher = low * 2**octaves
        low = higher if _error(histogram, higher) <= request.tol * request.size else low
    return low


def _error(histogram: Histogram, step: float) -> float:
    """The Frobenius norm of what rounding to the rungs of a step changes; inf where there are none."""
    rungs = Rungs.at(float(np.float32(step)), histogram.dtype)
    if rungs is None:
        return math.inf
    return histogram.norm(rungs.values(rungs.numbers_of(histogram.words)).float().numpy() - histogram.values)
