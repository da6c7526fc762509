"""Rows that are like others far from them: neurons that have collapsed, tokens that were never trained.

In an order where each row follows one that is like it, differences are small. Columns likewise.
"""

import numpy as np
import torch

from hmcompress.hmatrix.basics import price
from hmcompress.hmatrix.tree.order import NATURAL, Order

Array = np.ndarray
_LOOKED_AT = 24  # rows
_LARGER, _FEW, _WORK = 4, 1 << 22, 1e10  # distances over entries, and more of them; multiplications for these
_PAYS = 0.01  # of the bits of all rows
_TINY = 1e-12


def likeness(x: Array, square: Array, step: float) -> float:
    """Bits an entry that the nearest of the other rows saves once it is named, for some rows of x (m, n) or columns.

    square: x squared, which must neither overflow nor vanish.
    """
    return max(_likeness(x, square, step), _likeness(x.T, square.T, step))


def _likeness(x: Array, square: Array, step: float) -> float:
    some = np.arange(min(_LOOKED_AT, len(x))) * len(x) // min(_LOOKED_AT, len(x))
    weights = _evening(square.mean(0), step)
    sizes, products = square @ weights, torch.from_numpy(x[some] * weights) @ torch.from_numpy(x).T
    near = sizes[some][:, None] + sizes - 2 * products.numpy()
    near[np.arange(len(some)), some] = np.inf
    centred = (x[some] - x.mean(0)) * np.sqrt(weights)  # what all rows have in common, or all columns, is of low rank
    own = np.square(centred - centred.mean(1)[:, None]).sum(1)
    return float(np.mean(_saved(own, near.min(1), x.shape[1], step))) - np.log2(len(x)) / x.shape[1]


def _evening(squares: Array, step: float) -> Array:
    """Factors for squares that make columns of these mean squares one size: differences are coded by the scales of
    theirs, and none should hide the others."""
    squares = np.maximum(squares, max(step**2, _TINY))  # smaller ones round to zero
    return (np.exp(np.log(squares).mean()) / squares).astype(squares.dtype)


def like_lines(values: Array, step: float) -> list[tuple[Order, Order]]:
    """Orders of the rows, and of the columns, of values (m, n) that bring like ones together, where that pays."""
    if not any(map(_is_quick, (values.shape, values.shape[::-1]))):
        return []
    values, step = _unit(values, step)
    (rows, by_rows), (columns, by_columns) = _chain(values, step), _chain(values.T, step)
    found: list[tuple[Order, Order]] = [(Order(rows), NATURAL)] if by_rows > _PAYS else []
    return [*found, (NATURAL, Order(columns))] if by_columns > _PAYS else found


def _unit(x: Array, step: float) -> tuple[Array, float]:
    """Both over the largest magnitude: squares neither overflow nor vanish."""
    largest = float(max(x.max(initial=0), -x.min(initial=0))) or 1.0
    return x / x.dtype.type(largest), step / largest


def _is_quick(shape: tuple[int, ...]) -> bool:
    m, n = shape
    return m > 2 and m * m <= _LARGER * m * n + _FEW and m * m * n <= _WORK


def _chain(x: Array, step: float) -> tuple[Array, float]:
    """The order of the rows of x (m, n) in which each follows the nearest of those that are left; the share of
    their bits that it saves beyond what it takes."""
    m, n = x.shape
    if not _is_quick(x.shape):
        return np.arange(m), 0.0
    x = x * np.sqrt(_evening(np.square(x).mean(0), step))
    distances = _distances(x)
    np.fill_diagonal(distances, np.inf)
    own = _squares(x)
    order, steps = [int(np.argmin(own))], [own.min()]
    left = np.ones(m, np.bool_)
    for _ in range(m - 1):
        left[order[-1]] = False
        near = np.where(left, distances[order[-1]], np.inf)
        order.append(int(np.argmin(near)))
        steps.append(near[order[-1]])
    own[1:] = np.minimum(own[1:], _squares(np.diff(x, axis=0)))  # neighbours as they stand
    saved = n * float(_saved(own[order], np.array(steps), n, step).sum())
    whole = n * float(price.bits(np.sqrt(own / n) / step).sum())
    return np.array(order), (saved - m * np.log2(m)) / max(whole, 1.0)


def _squares(x: Array) -> Array:
    """Sums of squares of rows, in little memory."""
    return np.einsum("ij,ij->i", x, x, dtype=np.float64)


def _saved(own: Array, near: Array, n: int, step: float) -> Array:
    """Bits an entry of rows of n entries, by the sums of their squares and of those of differences to others."""
    bits = [price.bits(np.sqrt(np.maximum(squares, _TINY) / n) / step) for squares in (own, near)]
    return np.maximum(bits[0] - bits[1], 0.0)


def _distances(x: Array) -> Array:
    """Squares of distances (m, m) between rows of x (m, n)."""
    rows = torch.from_numpy(np.ascontiguousarray(x))
    sizes = rows.square().sum(1)
    squares = (rows @ rows.T).mul_(-2)  # in place: it may be larger than the matrix
    return squares.add_(sizes[:, None]).add_(sizes).clamp_min_(0).numpy()
