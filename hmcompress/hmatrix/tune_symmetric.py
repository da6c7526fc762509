"""Matrices that are symmetric or antisymmetric up to noise: the part that is so is compressed, within the tolerance.

What is left out stands at right angles to whatever errors are made of the symmetric part, so squares of both add up.
A part of the tolerance's square buys that half of the matrix is a copy of the other half.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from torch import Tensor

from hmcompress.hmatrix.basics.measure import reference
from hmcompress.hmatrix.hmatrix import HMatrix
from hmcompress.hmatrix.request import Request

_LEAST_SIDE, _LOOKED_AT = 32, 8  # rows and columns that are looked at first
_MOST, _LEAST = 0.7, 1e-6  # of the tolerance, and of the matrix: noise between these
_UNSURE = 1.5  # times the noise of a few lines
_TRIALS, _AIM = 3, 0.9995
Smallest = Callable[[Request], HMatrix]


def tune_symmetric(request: Request, smallest: Smallest) -> HMatrix | None:
    """The smallest form found of the symmetric (or antisymmetric) part, where that is nearly all; None elsewhere.

    smallest: the search for the smallest form of a matrix.
    """
    sign = _sign(request)
    if not sign:
        return None
    wide = request.w.double()
    w = ((wide + sign * wide.T) / 2).to(request.w.dtype)
    left = float((wide - w).norm()) / request.size
    if not _LEAST < left < _MOST * request.tol:
        return None
    size, tol = reference(w, request.norm), math.sqrt(request.tol**2 - left**2)
    for _ in range(_TRIALS):
        found = request.measured(smallest(replace(request, w=w, tol=tol, size=size)).payload)
        if found.error <= request.tol:
            return found
        tol *= _AIM * request.tol / found.error
    return None


def _sign(request: Request) -> int:
    """1 where some rows are nearly the columns, -1 where they are nearly their opposite, else 0."""
    w, n = request.w, min(request.w.shape)
    if request.norm != "fro" or request.effort == "fast" or w.shape[0] != w.shape[1] or n < _LEAST_SIDE:
        return 0
    some = np.unique(np.linspace(0, n - 1, _LOOKED_AT).astype(np.int64)).tolist()
    rows, columns = w[some].double(), w[:, some].double().T
    most = 2 * _UNSURE * _MOST * request.tol * _size(rows, columns)
    return next((sign for sign in (1, -1) if 0 < float((rows - sign * columns).norm()) < most), 0)


def _size(rows: Tensor, columns: Tensor) -> float:
    return math.sqrt((float(rows.square().sum()) + float(columns.square().sum())) / 2)
