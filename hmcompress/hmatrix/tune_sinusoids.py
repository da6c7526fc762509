"""The steps of sinusoids: as large as the measured error allows."""

import math

import numpy as np

from hmcompress.hmatrix.codecs import SINUSOIDS
from hmcompress.hmatrix.hmatrix import HMatrix
from hmcompress.hmatrix.patterns.sinusoids import Sinusoids, encode, find_sinusoids
from hmcompress.hmatrix.request import Request

_SHARES = (1.0, 0.7, 0.5, 0.35, 0.25, 0.12)  # of the steps that would serve if errors of all lines were alike
_TURN, _SIZE = 2.0, 1.5  # steps over the tolerance, in radians at the end of a line and over the root mean square
_SQUARES = (1e-12, 1e15)  # sizes of matrices in which squares neither overflow nor vanish
_VARIETY, _ENTRIES = 0.25, 64  # frequencies for each line, entries a byte: such a matrix has no shorter form


def tune_sinusoids(request: Request) -> tuple[HMatrix, bool] | None:
    """The matrix as sinusoids of its columns or rows, where it is one, and whether no other form is worth a search."""
    if request.effort == "fast" or not request.rounds or not _SQUARES[0] < request.size < _SQUARES[1]:
        return None
    found = find_sinusoids(request.w, request.tol)
    if found is None:
        return None
    turn, size = _steps(found[0], request)
    for share in _SHARES:
        matrix = request.measured(bytes([SINUSOIDS]) + encode(*found, share * turn, share * size))
        if matrix.error <= request.tol:
            is_short = _ENTRIES * matrix.nbytes <= request.w.numel()
            return matrix, is_short and found[0].variety() >= _VARIETY
    return None


def _steps(found: Sinusoids, request: Request) -> tuple[float, float]:
    """Of frequencies and of amplitudes."""
    amplitudes = np.hypot(found.cosines, found.sines)
    rms = math.sqrt(float(np.square(amplitudes).mean()) / 2)
    return _TURN * request.tol / found.length * rms / float(amplitudes.max()), _SIZE * request.tol * rms
