"""A matrix and what is asked of it, and a way to divide it into leaves."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from hmcompress.hmatrix.basics import exact
from hmcompress.hmatrix.basics.measure import Norm, relative_error
from hmcompress.hmatrix.codecs import DIGITS, EXACT, LATTICE, TREE
from hmcompress.hmatrix.hmatrix import HMatrix
from hmcompress.hmatrix.patterns import digits, lattice
from hmcompress.hmatrix.tree import tree
from hmcompress.hmatrix.tree.blocks import PLAIN_LEAF, Leaf, Plan
from hmcompress.hmatrix.tree.encode import Options
from hmcompress.hmatrix.tree.order import NATURAL, Order
from hmcompress.hmatrix.tree.parts import CodedLeaf

Array = np.ndarray
_NOTHING, _LOW_RATE = 0.02, 3.4  # bits an entry: thrift saves few bytes below, less than half a per cent above
_LARGE = 1 << 23  # entries, of which thrift makes several copies
_MANY, _SOME, _FEW_VALUES, _TINY = 1 << 10, 1 << 8, 8, 64  # entries, of which some have few values; bytes
_FINEST = 2.0**-54  # of the tolerances that rounding can keep


@dataclass(frozen=True)
class Request:
    """One matrix w (m, n) and what is asked of it."""

    w: Tensor
    tol: float
    norm: Norm
    effort: str
    size: float  # of w, in `norm`

    @cached_property
    def values(self) -> Array:
        """w as an array, in float32 where it has fewer bits."""
        return (self.w if self.w.dtype in (torch.float32, torch.float64) else self.w.float()).numpy()

    def forget(self) -> None:
        """Free w as an array, which may take twice as much memory; it is made again when asked for."""
        self.__dict__.pop("values", None)

    def exact(self, known: float = math.inf) -> HMatrix:
        """The matrix without loss. known: bytes of another form, which this one is to beat."""
        return self.matrix(bytes([EXACT]) + exact.encode(self.w, self.effort, known)).with_error(0.0, 0.0)

    def tiny(self) -> HMatrix | None:
        """The matrix without loss where that takes so few bytes that no search pays: masks, constants, averages."""
        if self.effort == "max" or self.size == 0 or self.w.numel() < _MANY:
            return None
        some = self.w.reshape(-1)[:: self.w.numel() // _SOME]
        found = self.exact(2 * _TINY) if len(some.unique()) <= _FEW_VALUES else None
        return found if found is not None and found.nbytes <= _TINY else None

    def lattice(self) -> HMatrix | None:
        """The matrix as the lattice that its weights lie on, if they do."""
        forms = (self.measured(bytes([LATTICE]) + body) for body in lattice.find(self.w, self.effort))
        return next((form for form in forms if form.error <= self.tol), None)

    def matrix(self, payload: bytes) -> HMatrix:
        """The matrix that a payload holds, its error not known yet."""
        return HMatrix((self.w.shape[0], self.w.shape[1]), self.w.dtype, payload, self.tol, self.norm)

    def measured(self, payload: bytes) -> HMatrix:
        """The matrix that a payload holds, with the error that its decoded values have."""
        matrix = self.matrix(payload)
        error, largest = relative_error(self.w, matrix.blocks(), self.norm, self.size)
        return matrix.with_error(error, largest)

    @property
    def rounds(self) -> bool:
        """Whether float64 tells the multiples of a step apart that keeps the tolerance."""
        return self.tol >= _FINEST

    def rate(self, nbytes: int) -> float:
        """Bits an entry of a form of so many bytes."""
        return 8 * nbytes / self.w.numel()

    def suits_thrift(self, nbytes: int) -> bool:
        """Whether a form of so many bytes has low rates, though more than next to nothing, and only the sum of squares
        counts: thrift makes the largest error larger."""
        low = _NOTHING < self.rate(nbytes) < _LOW_RATE and self.w.numel() <= _LARGE
        return low and self.effort != "fast" and self.norm == "fro"

    @property
    def options(self) -> Options:
        return Options(every=self.norm == "max", scales=self.effort != "fast")


def zero_payload(entries: int) -> bytes:
    """A matrix of zeros, of any shape."""
    if entries <= digits.MOST:
        return bytes([DIGITS])
    return bytes([TREE]) + tree.encode(Leaf(), [CodedLeaf(())], 0.0, NATURAL, NATURAL, "fast")


def first_step(request: Request) -> float:
    """The step that plain quantisation would need: D = step^2 / 12 for fro and, as the 2-norm of noise, spectral."""
    m, n = request.w.shape
    if request.norm == "max":
        return 2 * request.tol * request.size
    root = math.sqrt(m * n) if request.norm == "fro" else math.sqrt(m) + math.sqrt(n)
    return request.tol * request.size * math.sqrt(12) / root


@dataclass(frozen=True)
class Candidate:
    """A plan for the matrix with its rows and columns in some order. scaled: whether scales may pay."""

    plan: Plan
    rows: Order = NATURAL
    columns: Order = NATURAL
    scaled: bool = True

    @property
    def is_plain(self) -> bool:
        """Whether every entry is rounded where it stands."""
        return self.plan == PLAIN_LEAF and self.rows.permutation is None and self.columns.permutation is None

    def ordered(self, values: Array) -> Array:
        """values (m, n) in these orders."""
        return self.columns.apply(self.rows.apply(values, 0), 1)
