"""Products of a compressed matrix with vectors, matrices and batches, shaped as torch shapes those of dense ones."""

from math import prod
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from hmcompress.hmatrix.basics.bodies import Body

Operand = TypeVar("Operand", Tensor, np.ndarray)


def tensor_of(values: Any) -> Tensor:
    """Values as a tensor. torch refuses arrays of foreign byte order or running backwards, and warns of locked ones."""
    if isinstance(values, np.ndarray):
        values = np.asarray(values, values.dtype.newbyteorder("="), order="C")
        values = values if values.flags.writeable else values.copy()
    return torch.as_tensor(values)


def multiply(body: Body, shape: tuple[int, int], dtype: torch.dtype, x: Operand) -> Operand:
    """A matrix of `shape` (m, n) times x: (n,), (n, k) or (..., n, k); the result is (m,), (m, k) or (..., m, k).

    An array gives an array. The result has x's dtype, that of the matrix where x holds no fractions. Raises ValueError
    where the shapes do not fit.
    """
    if isinstance(x, np.ndarray):
        return _multiply(body, shape, dtype, tensor_of(x)).numpy()
    return _multiply(body, shape, dtype, x)


def _multiply(body: Body, shape: tuple[int, int], dtype: torch.dtype, x: Tensor) -> Tensor:
    if x.ndim == 0 or x.shape[-2:][0] != shape[1]:
        raise ValueError(f"cannot multiply {shape} by {tuple(x.shape)}: {shape[1]} rows expected")
    if x.is_complex():
        return torch.complex(*(_multiply(body, shape, dtype, part) for part in (x.real, x.imag)))
    if not x.is_floating_point():
        x = x.to(dtype)
    if x.requires_grad and torch.is_grad_enabled():  # leaves are decoded by numpy, through which no gradient flows
        return body.to_dense().to(x.device, x.dtype) @ x
    rows = x.detach()[:, None] if x.ndim == 1 else x.detach().movedim(-2, 0)
    y = body.matmul(rows.reshape(shape[1], prod(rows.shape[1:])).cpu())
    y = y.to(x.device, x.dtype).reshape(shape[0], *rows.shape[1:])
    return y[:, 0] if x.ndim == 1 else y.movedim(0, -2)
