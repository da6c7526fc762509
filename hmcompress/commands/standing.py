"""A layer that is like another one of its shape, stored as what it differs by: a factor times that one, and a rest."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hmcompress.commands.likes import similar
from hmcompress.container import EncodedLayer
from hmcompress.container.based import Based, combined, dtype_of_rest
from hmcompress.container.payload import decode_layer
from hmcompress.hmatrix import HMatrix, compress_matrix
from hmcompress.hmatrix.basics.measure import reference, relative_error
from hmcompress.layers import to_matrices
from hmcompress.settings.config import LayerRule

_PAYS = 0.99  # of the bytes by itself: what stands on another layer takes twice as long to decode
# Of the bits of noise: what takes less has structure, by which it may run. It stands on another layer only where that
# leaves a rest that is rounded so coarsely, and halves its bytes: structure of rests takes long to find.
_STRUCTURED, _COARSE_REST, _HALF = 0.7, 0.3, 0.5
_COARSEST = 0.9  # tolerance of the rest
_TRIALS, _CLOSE = 3, 0.9995
_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Like:
    """What others may stand on: the number of a layer in the file or of a slice in its stack, and how it is decoded."""

    number: int
    matrix: Callable[[], Tensor]


@dataclass(frozen=True)
class Standing:
    """A matrix that stands on another: its payload, the rest as a matrix, and the errors of the whole."""

    payload: bytes
    rest: HMatrix
    error: float
    max_abs_error: float
    method: str = "hmatrix"

    @property
    def leaves(self) -> dict[str, int]:
        """Those of the rest."""
        return self.rest.leaves

    @property
    def max_rank(self) -> int:
        """That of the rest."""
        return self.rest.max_rank


def matrix_of(layer: EncodedLayer) -> Tensor:
    """A coded layer as it is decoded, (m, n)."""
    return to_matrices(decode_layer(layer.payload, layer.shapes, layer.dtype)[0])[0]


def stacked(matrices: Tensor, slices: Sequence[HMatrix], rule: LayerRule, effort: str) -> list[HMatrix | Standing]:
    """The slices of a stack (count, m, n), those that are like another one on top of it where that takes less.

    Those whose payload comes again cost two bytes each as they are.
    """
    often = Counter(matrix.payload for matrix in slices)
    places = list({matrix.payload: i for i, matrix in enumerate(slices)}.values())
    bases = {i: places[base] for i, base in zip(places, similar(matrices[places]), strict=True) if base >= 0}
    found: list[HMatrix | Standing] = list(slices)
    for i, base in bases.items():
        if often[slices[i].payload] == 1:
            like = Like(base, slices[base].to_dense)
            found[i] = standing(matrices[i], like, rule, effort, 1, slices[i].nbytes) or slices[i]
    return found


def standing(w: Tensor, like: Like, rule: LayerRule, effort: str, kernel: int, alone: int) -> Standing | None:
    """The matrix w (m, n) on top of a layer, where that takes clearly less than by itself, `alone`; None elsewise."""
    assert rule.tol is not None and rule.norm is not None
    other, size = like.matrix(), reference(w, rule.norm)
    factor = _factor(w, other)
    rest = combined(other, -factor, w, dtype_of_rest(w.dtype))
    own = reference(rest, rule.norm)
    if not (math.isfinite(factor) and math.isfinite(own) and size > 0):
        return None
    tol = rule.tol * size / own if own > 0 else 1.0
    structured = 8 * alone < -_STRUCTURED * math.log2(rule.tol) * w.numel()
    most = alone * (_HALF if structured else _PAYS)
    if structured and tol < _COARSE_REST:
        return None
    for _ in range(_TRIALS):
        if tol >= 1:  # the other one tells enough
            rest, tol = torch.zeros_like(rest), _COARSEST
        matrix = compress_matrix(rest, min(tol, _COARSEST), rule.norm, effort=effort, grid=rule.grid, kernel=kernel)
        payload = Based(like.number, factor, matrix.payload).payload()
        if len(payload) > most:
            return None
        error, largest = relative_error(w, [combined(other, factor, matrix.to_dense(), w.dtype)], rule.norm, size)
        if error <= rule.tol:
            return Standing(payload, matrix, error, largest)
        tol *= _CLOSE * rule.tol / error
    return None


def _factor(w: Tensor, other: Tensor) -> float:
    """By which the other one comes nearest."""
    products = squares = 0.0
    for x, y in zip(w.reshape(-1).split(_AT_ONCE), other.reshape(-1).split(_AT_ONCE), strict=True):
        x, y = x.double(), y.double()
        products, squares = products + float(x @ y), squares + float(y @ y)
    return products / squares if squares > 0 else 0.0
