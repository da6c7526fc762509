"""Codec `positions`: a matrix between points whose coordinates are stored, the form of operators on points in no order.

Its rows are smooth functions of where points lie: it is q @ core @ q^T, or q @ core, where the columns of q are
orthonormal polynomials, at the points, of few coordinates x = sin(pi t). Where there is a base b, which vanishes at a
boundary as b does, they are b times polynomials; b^2 is about a polynomial itself, so that its root is near b.
"""

from dataclasses import dataclass

import numpy as np
import torch

from hmcompress.coding.buffer import Reader, Writer
from hmcompress.errors import FormatError
from hmcompress.hmatrix.grids import weighted
from hmcompress.hmatrix.grids.grid import Grid
from hmcompress.hmatrix.grids.polynomials import count, orthonormal, polynomials
from hmcompress.hmatrix.tree.blocks import Block
from hmcompress.hmatrix.tree.order import NATURAL
from hmcompress.hmatrix.tree.parts import LowRank
from hmcompress.hmatrix.tree.tree import PlacedLeaf, TreeBody

Array = np.ndarray
MOST_DEGREE, MOST_COORDINATES, MOST_FUNCTIONS = 24, 4, 256
ROWS_EACH = 4  # for each function, at least


@dataclass(frozen=True)
class Form:
    """Which functions there are: polynomials up to a degree in so many coordinates, times a base or not, on both sides
    or on the left. base_degree: of the polynomial that the base's square is about."""

    degree: int
    coordinates: int
    mirrored: bool
    base_degree: int | None = None

    @property
    def count(self) -> int:
        """Functions."""
        return count(self.coordinates, self.degree)

    @property
    def numbers(self) -> int:
        """Of each position: t of each coordinate, then what the base lies above the root, if there is one."""
        return self.coordinates + (self.base_degree is not None)

    @property
    def base_count(self) -> int:
        """Numbers of the base's square."""
        return 0 if self.base_degree is None else count(self.coordinates, self.base_degree)

    def functions(self, positions: Array, square: Array) -> Array:
        """(m, count) at positions (m, numbers)."""
        t = positions[:, : self.coordinates]
        base = None if self.base_degree is None else positions[:, -1] + root(t, square, self.base_degree)
        return functions(t, base, self.degree)

    def basis(self, positions: Array, square: Array) -> tuple[Array, Array]:
        """q (m, count) and r (count, count) of the functions at positions (m, numbers)."""
        return orthonormal(self.functions(positions, square))

    def factors(self, positions: Array, square: Array, core: Array) -> tuple[Array, Array]:
        """Left (m, count) and right (n, count) of the matrix left @ right^T."""
        q, _ = self.basis(positions, square)
        return (q, q @ core.T) if self.mirrored else (q, core.T)


def functions(t: Array, base: Array | None, degree: int) -> Array:
    """Polynomials of sin(pi t) at t (m, d), times the base (m,) if there is one: (m, count)."""
    found = polynomials(np.sin(np.pi * t), degree)
    return found if base is None else found * base[:, None]


def root(t: Array, square: Array, degree: int) -> Array:
    """What a base is about (m,): the root of a polynomial (count,) of its square, at t (m, d)."""
    return np.sqrt(np.maximum(polynomials(np.sin(np.pi * t), degree) @ square, 0.0))


def encode(form: Form, positions: Grid, square: Grid, core: Grid, thorough: bool = True) -> bytes:
    """The bytes of positions (m, numbers), square (1, base_count) and core (count, count or n).

    `thorough` tries the models of the scales one by one.
    """
    based = form.base_degree is not None
    out = Writer().uint(4 * form.degree + 2 * form.mirrored + based).uint(form.coordinates)
    if form.base_degree is not None:
        out.uint(form.base_degree).section(weighted.encode(square, thorough))
    return out.section(weighted.encode(positions, thorough)).raw(weighted.encode(core, thorough)).getvalue()


def decode(data: bytes, shape: tuple[int, int], dtype: torch.dtype) -> TreeBody:
    """Inverse of encode: one leaf of low rank. Raises FormatError."""
    (m, n), stream = shape, Reader(data)
    form = _form(stream, shape)
    square = _grid(stream.section() if form.base_count else b"", (1, form.base_count))[0]
    positions = _grid(stream.section(), (m, form.numbers))
    core = _grid(stream.rest(), (form.count, form.count if form.mirrored else n))
    leaf = PlacedLeaf(Block(0, m, 0, n), (LowRank(*form.factors(positions, square, core)),))
    return TreeBody(shape, 1.0, (leaf,), NATURAL, NATURAL, dtype == torch.float64)


def _form(stream: Reader, shape: tuple[int, int]) -> Form:
    degree, flags = divmod(stream.uint(4 * MOST_DEGREE + 3), 4)
    coordinates = stream.uint(MOST_COORDINATES)
    form = Form(degree, coordinates, flags >= 2, stream.uint(MOST_DEGREE) if flags % 2 else None)
    most = min(MOST_FUNCTIONS, shape[0] // ROWS_EACH)
    fits = coordinates > 0 and form.count <= min(most, shape[1]) and form.base_count <= most
    if not fits or (form.mirrored and shape[0] != shape[1]):
        raise FormatError(f"functions of positions do not fit a matrix {shape}: the file is damaged")
    return form


def _grid(data: bytes, shape: tuple[int, int]) -> Array:
    return weighted.decode(data, shape, torch.float64).to_dense().numpy() if all(shape) else np.zeros(shape)
