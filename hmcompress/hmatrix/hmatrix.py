"""HMatrix: a compressed matrix that knows its bytes and its measured error, and multiplies."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from hmcompress.hmatrix.basics.bodies import Body
from hmcompress.hmatrix.codecs import decode_payload
from hmcompress.hmatrix.multiply import Operand, multiply

_LARGE = 1 << 22  # entries


@dataclass(frozen=True)
class HMatrix:
    """A matrix in compressed form.

    shape (m, n), dtype of the original; `payload` holds everything a decoder needs beside them. `error` is the
    relative error in `norm`, measured in float64 on the decoded values cast to `dtype`; `max_abs_error` the largest
    absolute error. Matrices read back from a payload alone have no error: it is nan until somebody supplies it.
    """

    shape: tuple[int, int]
    dtype: torch.dtype
    payload: bytes = field(repr=False)
    tol: float = float("nan")
    norm: str = "fro"
    error: float = float("nan")
    max_abs_error: float = float("nan")
    transposed: bool = False
    __array_ufunc__: ClassVar[None] = None  # numpy leaves array @ matrix to the matrix

    @classmethod
    def from_payload(cls, payload: bytes | memoryview, shape: tuple[int, int], dtype: torch.dtype) -> "HMatrix":
        """Read a payload for a matrix of the given shape and dtype. Raises FormatError where it is not one."""
        matrix = cls((shape[0], shape[1]), dtype, bytes(payload))
        _ = matrix.body
        return matrix

    @cached_property
    def body(self) -> Body:
        """The leaves, decoded."""
        m, n = self.shape[::-1] if self.transposed else self.shape
        body = decode_payload(self.payload, (m, n), self.dtype)
        return body.t() if self.transposed else body

    def forget(self) -> None:
        """Free what is decoded, which may be as large as the matrix; it is decoded again when asked for."""
        self.__dict__.pop("body", None)

    def forget_if_large(self) -> None:
        """The same where memory counts more than the time that decoding it once more takes."""
        if self.shape[0] * self.shape[1] > _LARGE:
            self.forget()

    def with_error(self, error: float, max_abs_error: float) -> "HMatrix":
        """The same matrix with its measured error."""
        known = replace(self, error=error, max_abs_error=max_abs_error)
        if "body" in self.__dict__:
            known.__dict__["body"] = self.body  # what is decoded already need not be decoded again
        return known

    @property
    def nbytes(self) -> int:
        return len(self.payload)

    @property
    def method(self) -> str:
        """hmatrix, lossless or raw."""
        return self.body.method

    @property
    def leaves(self) -> dict[str, int]:
        """How many leaves of each kind: zero, low_rank, quantized, hybrid."""
        return self.body.leaf_counts()

    @property
    def max_rank(self) -> int:
        return self.body.max_rank()

    def to_dense(self) -> Tensor:
        """The decoded matrix, (m, n), in the original's dtype."""
        return self.body.to_dense().to(self.dtype)

    def blocks(self) -> Iterator[Tensor]:
        """The rows of to_dense, some at a time where that takes less memory."""
        return (rows.to(self.dtype) for rows in self.body.blocks())

    @property
    def T(self) -> "HMatrix":
        """The transpose; shares the payload."""
        return replace(self, shape=self.shape[::-1], transposed=not self.transposed)

    def __matmul__(self, x: Operand) -> Operand:
        """Multiply by x, a tensor or an array: (n,), (n, k) or a batch (..., n, k), as a dense matrix would be.

        The result is (m,), (m, k) or (..., m, k), in x's dtype, or the matrix's where x holds no fractions. Raises
        ValueError where the shapes do not fit.
        """
        if not isinstance(x, (Tensor, np.ndarray)):
            return NotImplemented
        return multiply(self.body, self.shape, self.dtype, x)

    def __rmatmul__(self, x: Operand) -> Operand:
        """Multiply x from the left: (m,), (k, m) or a batch (..., k, m)."""
        if not isinstance(x, (Tensor, np.ndarray)):
            return NotImplemented
        return self.T @ x if x.ndim < 2 else (self.T @ x.swapaxes(-1, -2)).swapaxes(-1, -2)
