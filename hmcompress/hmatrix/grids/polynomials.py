"""Polynomials of few coordinates, and what is orthonormal of them at points: the basis of codec `positions`."""

from functools import lru_cache
from math import comb

import numpy as np
from numpy.polynomial import chebyshev

Array = np.ndarray


def count(coordinates: int, degree: int) -> int:
    """How many there are up to a total degree."""
    return comb(degree + coordinates, coordinates)


@lru_cache(maxsize=64)
def orders(coordinates: int, degree: int) -> Array:
    """Degrees in each coordinate (count, coordinates) by ascending total degree."""
    found: list[tuple[int, ...]] = [()]
    for _ in range(coordinates):
        found = [(*o, k) for o in found for k in range(degree - sum(o) + 1)]
    return np.array(sorted(found, key=lambda o: (sum(o), o)), np.int64).reshape(-1, coordinates)


def polynomials(x: Array, degree: int) -> Array:
    """Products of Chebyshev polynomials of each coordinate x (m, d), (m, count)."""
    return _products([chebyshev.chebvander(column, degree) for column in x.T], orders(x.shape[1], degree))


def slopes(x: Array, degree: int) -> Array:
    """Their derivatives by each coordinate (m, d, count)."""
    values = [chebyshev.chebvander(column, degree) for column in x.T]
    of = chebyshev.chebder(np.eye(degree + 1), axis=0)
    along = [value[:, : len(of)] @ of for value in values]
    order = orders(x.shape[1], degree)
    return np.stack([_products([*values[:k], g, *values[k + 1 :]], order) for k, g in enumerate(along)], 1)


def _products(values: list[Array], order: Array) -> Array:
    found = np.ones((len(values[0]), len(order)))
    for value, degrees in zip(values, order.T, strict=True):
        found *= value[:, degrees]
    return found


def orthonormal(functions: Array) -> tuple[Array, Array]:
    """Orthonormal columns q (m, count), each after those before it, and r: functions are q @ r."""
    q, r = np.linalg.qr(functions)
    signs = np.where(np.diag(r) < 0, -1.0, 1.0)
    return q * signs, r * signs[:, None]
