"""A matrix as one pair of factors, from two passes over its rows (Halko, Martinsson and Tropp 2011)."""

from dataclasses import dataclass

import numpy as np
import scipy.linalg

Array = np.ndarray
_WIDEST = 256  # columns of a sketch,
_HELD = 2**19  # if it and the random vectors hold no more numbers


@dataclass(frozen=True)
class Pair:
    """left (m, rank) right (n, rank)^T, and its squared error."""

    left: Array
    right: Array
    missed: float


@dataclass(frozen=True)
class Sketch:
    """Products (m, w) of a matrix with random vectors (n, w)."""

    random: Array
    products: Array

    @classmethod
    def of(cls, shape: tuple[int, int]) -> "Sketch":
        """Of rows that are still to be added."""
        width = max(1, min(_WIDEST, _HELD // sum(shape), *shape))
        return cls(np.random.default_rng(0).standard_normal((shape[1], width)), np.empty((shape[0], width)))

    def add(self, begin: int, rows: Array) -> None:
        self.products[begin : begin + len(rows)] = rows @ self.random


@dataclass(frozen=True)
class Projection:
    """A basis (m, w) of what a sketch spans, and its products (w, n) with the matrix: the randomised range finder
    (Halko, Martinsson and Tropp 2011)."""

    basis: Array
    products: Array

    @classmethod
    def of(cls, sketch: Sketch) -> "Projection":
        """Of rows that are still to be added."""
        basis, _ = scipy.linalg.qr(sketch.products, overwrite_a=True, mode="economic")
        return cls(basis, np.zeros_like(sketch.random.T))

    def add(self, begin: int, rows: Array) -> None:
        self.products[...] += self.basis[begin : begin + len(rows)].T @ rows

    def pair(self, energy: float, budget: float, most: int) -> Pair | None:
        """The factors of the fewest columns, at most `most`, that miss a squared error of at most `budget` of a matrix
        of this squared norm."""
        left, values, right = np.linalg.svd(self.products, full_matrices=False)
        tails = np.maximum(energy - np.cumsum(np.append(0, np.square(values))), 0)
        rank = max(1, int(np.argmax(tails <= budget)))
        if tails[rank] > budget or rank > most:
            return None
        root = np.sqrt(values[:rank])
        return Pair((self.basis @ left[:, :rank]) * root, right[:rank].T * root, float(tails[rank]))
