"""How the kernels of a convolution lie in the matrix that is coded.

A weight (out, in, k...) is the matrix (out, in*k). Where its kernels resemble each other, are smooth or differ in size,
the matrix of single kernels (out*in, k) has few directions, short transforms or scales of its own; where input channels
have died, rows of (in, out*k) vanish. Both are tilings of the matrix, which the codec `tiled` stores.
"""

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from hmcompress.hmatrix.basics.measure import reference
from hmcompress.hmatrix.patterns.tiles import Tile
from hmcompress.hmatrix.request import Request

Array = np.ndarray
_LEAST_KERNEL = 4  # entries of a kernel that may be a row of its own: each row has a scale
_SAMPLE = 1 << 15  # entries
_COARSEST = 0.9  # a tolerance
_TINY, _PROMISING = 1e-12, 0.06  # of the largest power; bits an entry


def tilings(request: Request, kernel: int) -> list[Tile]:
    """The tiles that are worth a trial for a matrix (m, n) whose columns come in groups of `kernel`."""
    m, n = request.w.shape
    few = kernel < 2 or min(m, n // kernel) < 2
    if few or request.effort == "fast" or request.norm == "spectral" or request.size == 0:
        return []
    return [(m, kernel), (1, kernel)] if kernel >= _LEAST_KERNEL else [(m, kernel)]


def some_channels(request: Request, kernel: int) -> Request:
    """The request for some output and input channels only, at the same absolute error."""
    (m, n), share = request.w.shape, math.sqrt(_SAMPLE / request.w.numel())
    outputs, inputs = (_spread(count, max(2, round(share * count))) for count in (m, n // kernel))
    w = request.w.reshape(m, -1, kernel)[outputs][:, inputs].reshape(len(outputs), -1)
    size = reference(w, request.norm)
    entries = math.sqrt(w.numel() / request.w.numel()) if request.norm == "fro" else 1.0
    tol = min(request.tol * request.size * entries / size, _COARSEST) if size > 0 else _COARSEST
    return replace(request, w=w, tol=tol, size=size)


def _spread(count: int, some: int) -> Tensor:
    return torch.arange(min(some, count)) * count // min(some, count)


def are_alike(w: Tensor, kernel: int) -> bool:
    """Whether the kernels in w (m, n) differ from noise whose scales are those of channels: in size or in direction."""
    x = w.reshape(-1, kernel).to(torch.float64).numpy()
    power = np.square(x).mean(1)
    power = np.maximum(power, max(_TINY * float(power.max()), np.finfo(np.float64).tiny))
    return (
        _scale_bits(power.reshape(w.shape[0], -1), kernel) + _direction_bits(x / np.sqrt(power)[:, None]) > _PROMISING
    )


def _scale_bits(power: Array, kernel: int) -> float:
    """Bits an entry that a scale for each kernel saves beside scales of channels; power (out, in), log-normal."""
    s = 0.5 * np.log2(power)
    rest = s - s.mean(0) - s.mean(1)[:, None] + s.mean()
    x = kernel / 2
    noise = (1 / x + 1 / (2 * x**2) + 1 / (6 * x**3)) / (2 * math.log(2)) ** 2  # the variance of a log of chi squared
    return math.log(2) * (float(rest.var()) - noise)


def _direction_bits(x: Array) -> float:
    """Bits an entry that the best transform of kernels x (count, k), of one size, saves: its coding gain."""
    values = np.linalg.eigvalsh(x.T @ x / len(x))
    return -0.5 * float(np.log2(np.maximum(values / max(values.mean(), _TINY), 1e-4)).mean())
