"""What a decoded payload is: one class per way a matrix is held."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor

LEAF_KINDS = ("zero", "low_rank", "quantized", "hybrid")


class Body(ABC):
    """A decoded matrix. Five questions; all else are functions of the answers."""

    method: str = "hmatrix"

    @abstractmethod
    def to_dense(self) -> Tensor:
        """(m, n), in the dtype the body computes in."""

    def blocks(self) -> Iterator[Tensor]:
        """The rows of to_dense, some at a time where that takes less memory."""
        yield self.to_dense()

    @abstractmethod
    def matmul(self, x: Tensor) -> Tensor:
        """(n, k) to (m, k)."""

    @abstractmethod
    def t(self) -> "Body":
        """The transpose."""

    def leaf_counts(self) -> dict[str, int]:
        return dict.fromkeys(LEAF_KINDS, 0)

    def max_rank(self) -> int:
        return 0


@dataclass(frozen=True)
class DenseBody(Body):
    """Values stored without loss, raw or entropy-coded."""

    values: Tensor
    method: str = "raw"

    def to_dense(self) -> Tensor:
        return self.values

    def matmul(self, x: Tensor) -> Tensor:
        return self.values.to(x.dtype) @ x

    def t(self) -> Self:
        return replace(self, values=self.values.T)


@dataclass(frozen=True)
class QuantizedBody(DenseBody):
    """Quantised values."""

    method: str = "hmatrix"

    def leaf_counts(self) -> dict[str, int]:
        kind = "quantized" if bool(self.values.any()) else "zero"
        return dict.fromkeys(LEAF_KINDS, 0) | {kind: 1}
