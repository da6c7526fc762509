"""From the stored form of a matrix to the forms that run, without a dense matrix on the way.

The tree that is best for storing has small leaves of many kinds; the one that is best for running has few levels of
equal blocks with shared bases. The second is made from the rows of the first, some at a time.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hmcompress.hmatrix import HMatrix
from hmcompress.hmatrix.basics.bodies import QuantizedBody
from hmcompress.hmatrix.codecs import BASED, INTERPOLATED, OF_TWO, PARTED, TURNED
from hmcompress.hmatrix.patterns.interpolated import read as read_predicted
from hmcompress.hmatrix.tree.order import Order
from hmcompress.hmatrix.tree.tree import TreeBody
from hmcompress.nn.linear import HLinear, LowRankLinear
from hmcompress.nn.nested import Nested, Pair, aligned, nested
from hmcompress.nn.stripes import Stripes, dense_stripes, predicted_stripes, tree_stripes

_NOTHING = 2.0**-60  # of the largest value


@dataclass(frozen=True)
class RunningForm:
    """A module that runs, and its measured relative Frobenius error against the stored matrix."""

    module: nn.Module
    error: float

    @property
    def numbers(self) -> int:
        """As many as its parameters hold."""
        return sum(p.numel() for p in self.module.parameters())


@dataclass(frozen=True)
class Ordered:
    """A matrix in an order of its rows and columns, None where it is the original one."""

    matrix: Stripes
    rows: Tensor | None = None
    columns: Tensor | None = None
    bias: Tensor | None = None

    def with_columns(self, take: np.ndarray) -> "Ordered":
        """The same with its columns in another order."""
        order = torch.from_numpy(take)
        columns = order if self.columns is None else self.columns[order]
        return replace(self, matrix=self.matrix.taken(take), columns=columns)


def read(payload: bytes | memoryview, shape: tuple[int, int], dtype: torch.dtype, has_bias: bool) -> Ordered | None:
    """The payload of a (m, n) matrix, its last column the bias where `has_bias`; None where that cannot be parted, or
    where every entry is stored as it was, turned, in parts, made of two parameters, or on top of another layer.
    Raises FormatError.
    """
    if bytes(payload[:1]) in map(bytes, ([BASED], [TURNED], [PARTED], [OF_TWO])):
        return None
    if payload[:1] == bytes([INTERPOLATED]):
        found = read_predicted(bytes(payload[1:]), shape)
        bias = torch.from_numpy(found.column(shape[1] - 1)) if has_bias else None
        return Ordered(predicted_stripes(found, shape[1] - has_bias), bias=bias)
    return ordered(HMatrix.from_payload(payload, shape, dtype), has_bias)


def ordered(stored: HMatrix, has_bias: bool = False) -> Ordered | None:
    """The same of a decoded matrix. A body without leaves holds every entry: nothing is expanded by using them."""
    body = stored.body
    if isinstance(body, QuantizedBody):
        weight = body.to_dense()
        return from_dense(weight[:, :-1], weight[:, -1].double()) if has_bias else from_dense(weight)
    if not isinstance(body, TreeBody):
        return None
    columns = body.shape[1] - has_bias
    if has_bias and body.columns.permutation is not None:
        return None
    bias = body.matmul(torch.eye(body.shape[1], dtype=torch.float64)[:, -1:])[:, 0] if has_bias else None
    return Ordered(tree_stripes(body, columns), _permutation(body.rows), _permutation(body.columns), bias)


def from_dense(weight: Tensor, bias: Tensor | None = None) -> Ordered:
    """A matrix given by its entries, in the order that it has."""
    return Ordered(dense_stripes(weight.detach().cpu()), bias=bias)


def _permutation(order: Order) -> Tensor | None:
    return None if order.permutation is None else torch.from_numpy(order.permutation.astype(np.int64))


def running_forms(stored: Ordered, tol: float, dtype: torch.dtype) -> list[RunningForm]:
    """The forms with fewer numbers than the dense matrix whose relative Frobenius error is at most `tol`: a hierarchy,
    a pair of factors, which may be as fast with far more numbers, or neither.
    """
    found = [_forms(order, tol, dtype) for order in _orders(stored)]
    return min(found, key=lambda forms: forms[0].numbers if forms else math.inf)


def _orders(stored: Ordered) -> Iterator[Ordered]:
    """The matrix as it is stored and, where it is square, with its columns in the order of its rows.

    Each is stored in the order that suits it, and these hardly ever differ by halves exchanged alone. Where rows and
    columns are the same points, one order for both brings all large entries to the diagonal.
    """
    take = aligned(stored.matrix)
    yield stored if take is None else stored.with_columns(take)
    if stored.rows is not None and stored.columns is not None and len(stored.rows) == len(stored.columns):
        yield stored.with_columns(torch.argsort(stored.columns)[stored.rows].numpy())


def _forms(stored: Ordered, tol: float, dtype: torch.dtype) -> list[RunningForm]:
    hierarchy, pair, energy = nested(stored.matrix, tol)
    found: list[tuple[HLinear | LowRankLinear, float]] = []
    if hierarchy is not None:
        found.append((_hierarchical(hierarchy, stored, dtype), hierarchy.missed))
    if pair is not None:
        found.append((_low_rank(pair, stored, dtype), pair.missed))
    for module, _ in found:
        if stored.bias is not None and module.bias is not None:
            _fill(module.bias, stored.bias)
    return [RunningForm(module, math.sqrt(missed / energy)) for module, missed in found]


def _hierarchical(found: Nested, stored: Ordered, dtype: torch.dtype) -> HLinear:
    m, n = stored.matrix.shape
    sizes = [(len(left), right.shape[2], left.shape[2]) for left, right in (level.bases for level in found.levels)]
    leaf = (found.levels[0].near.shape[1], found.levels[0].near.shape[2])
    has_bias = stored.bias is not None
    module = HLinear(n, m, leaf, sizes, has_bias, rows=stored.rows, columns=stored.columns, dtype=dtype)
    for factors, level in zip(module.factors(), found.levels, strict=True):
        for parameter, values in zip(factors, (level.near, level.bases.right, level.bases.left), strict=True):
            _fill(parameter, values if values is level.bases.right else values.transpose(0, 2, 1))
    _fill(module.top, found.top.T)
    return module


def _low_rank(found: Pair, stored: Ordered, dtype: torch.dtype) -> LowRankLinear:
    m, n = stored.matrix.shape
    module = LowRankLinear(n, m, found.left.shape[1], stored.bias is not None, dtype=dtype)
    _fill(module.left, _restored(found.left, stored.rows).T)
    _fill(module.right, _restored(found.right, stored.columns))
    return module


def _restored(x: np.ndarray, order: Tensor | None) -> np.ndarray:
    return x if order is None else x[torch.argsort(order).numpy()]


def _fill(parameter: Any, values: np.ndarray | Tensor) -> None:
    """Copy values into a parameter, without those next to nothing: products with denormal numbers take far longer."""
    new = torch.as_tensor(values)
    with torch.no_grad():
        parameter.copy_(new.where(new.abs() > _NOTHING * new.abs().max(), torch.zeros_like(new)))
