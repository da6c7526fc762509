"""Matrices whose structure is known: spectra, shapes, scales, repetition, and the odd ones that people save."""

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Tensor

from hmcompress.hmatrix import HMatrix, compress_matrix

Array = np.ndarray
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def noise(m: int, n: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((m, n))


def with_spectrum(m: int, n: int, values: Array, seed: int = 0) -> Array:
    """Random singular vectors, chosen singular values."""
    left, right = (np.linalg.qr(noise(k, len(values), seed + i))[0] for i, k in enumerate((m, n)))
    return left * values @ right.T


def _repeated() -> Array:
    b = noise(48, 48, 3)
    return np.block([[b, b.T], [b.T, b]])


def _dead_neurons() -> Array:
    """Most rows are one row up to sign, as weight decay and a saturated activation leave them."""
    a = noise(96, 80, 4)
    a[20:] = a[20] * np.where(np.arange(76) % 2, 1, -1)[:, None]
    return a


def _lstm() -> Array:
    return np.concatenate([noise(32, 80, i) * scale for i, scale in enumerate((0.1, 1.0, 0.02, 0.3))])


def _outlier() -> Array:
    a = noise(72, 90, 5)
    a[3, 4] = 1e3
    return a


def _single() -> Array:
    a = np.zeros((70, 66))
    a[7, 9] = 0.5
    return a


def _distance(n: int) -> Array:
    return np.abs(np.subtract.outer(np.arange(n), np.arange(n)))


def greens(n: int = 96) -> Tensor:
    """Green's function of Poisson's equation on [0, 1], float32."""
    x = torch.arange(1, n + 1) / (n + 1)
    return torch.minimum(x[:, None], x) * (1 - torch.maximum(x[:, None], x))


def _smooth_head() -> Array:
    """Rows are points of a spectrum: smooth down the columns, noise along the rows."""
    x = np.linspace(0, 1, 160)[:, None]
    return sum(np.sin((k + 1) * 3 * x + k) / (k + 1) ** 2 * noise(1, 70, k) for k in range(12))


def _symmetric() -> Array:
    a = noise(96, 96, 7)
    return a + a.T


MATRICES: dict[str, Callable[[], Array]] = {
    "noise": lambda: noise(70, 90),
    "prime sides": lambda: noise(97, 101),
    "tall": lambda: noise(300, 20),
    "wide": lambda: noise(18, 280),
    "16 x 16": lambda: noise(16, 16),
    "one row": lambda: noise(1, 100),
    "one column": lambda: noise(100, 1),
    "one number": lambda: noise(1, 1),
    "constant": lambda: np.full((70, 80), 3.7),
    "rank 1": lambda: np.outer(noise(1, 70)[0], noise(1, 90, 1)[0]),
    "rank 3": lambda: noise(100, 3) @ noise(3, 80, 1),
    "geometric spectrum": lambda: with_spectrum(90, 80, 0.7 ** np.arange(60)),
    "algebraic spectrum": lambda: with_spectrum(90, 80, 1 / (1 + np.arange(80))),
    "flat spectrum": lambda: with_spectrum(80, 80, np.ones(80)),
    "whole numbers": lambda: np.random.default_rng(6).integers(-5, 6, (64, 64)).astype(float),
    "heavy tails": lambda: np.random.default_rng(7).standard_t(3, (80, 80)),
    "outlier": _outlier,
    "single entry": _single,
    "sparse": lambda: noise(80, 80) * (np.random.default_rng(8).random((80, 80)) < 0.03),
    "toeplitz": lambda: 1 / (1 + _distance(96)),
    "hankel": lambda: 1 / (1 + np.add.outer(np.arange(96), np.arange(96))),
    "symmetric": _symmetric,
    "repeated": _repeated,
    "smooth head": _smooth_head,
    "dead neurons": _dead_neurons,
    "lstm gates": _lstm,
    "row scales": lambda: noise(80, 70) * np.logspace(-6, 0, 80)[:, None],
    "huge": lambda: noise(66, 70) / 6 * 1e38,
    "tiny": lambda: noise(66, 70) * 1e-38,
    "subnormal": lambda: noise(66, 70) * 1e-43,
}
# Lossy forms of these have a continuum of errors; others are all but exact, or too few numbers, at some tolerances.
FLEXIBLE = (
    "noise", "prime sides", "geometric spectrum", "algebraic spectrum", "flat spectrum", "heavy tails", "symmetric",
    "repeated", "smooth head", "lstm gates", "row scales",
)  # fmt: skip


def matrix(name: str, dtype: torch.dtype = torch.float32) -> Tensor:
    """A named matrix in a dtype; what half precision cannot hold is clipped to its range."""
    values = torch.from_numpy(np.ascontiguousarray(MATRICES[name]()))
    largest = torch.finfo(dtype).max
    return values.clamp(-largest, largest).to(dtype)


@cache
def compressed(name: str, tol: float = 1e-3, effort: str = "default", dtype: torch.dtype = torch.float32) -> HMatrix:
    """A named matrix, compressed once for all claims about it."""
    return compress_matrix(matrix(name, dtype), tol, effort=effort)


def kernel(name: str, n: int) -> Tensor:
    """A translation-invariant kernel, an exponential on a grid, or a Green's function; float32."""
    x = np.linspace(0, 1, n)
    if name == "distance":
        a = 1 / (np.abs(x[:, None] - x) + 1 / n)
    elif name == "grid":
        side = int(n**0.5)
        y, z = (c.ravel() for c in np.meshgrid(np.linspace(0, 1, side), np.linspace(0, 1, side), indexing="ij"))
        a = np.exp(-np.hypot(np.subtract.outer(y, y), np.subtract.outer(z, z)) / 0.2)
    else:
        inner = np.arange(1, n + 1) / (n + 1)
        a = np.minimum.outer(inner, inner) * (1 - np.maximum.outer(inner, inner))
    return torch.from_numpy(a).float()
