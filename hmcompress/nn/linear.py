"""HLinear: a linear layer whose weight is a hierarchy of low-rank blocks; it runs and trains without a dense weight.

The rows and the columns are cut into 2^L ranges of equal size. Of every level the blocks beside the diagonal have low
rank, the blocks on the diagonal of the last level are dense (a weakly admissible H-matrix, HODLR: Ambikasaran and
Darve 2013). Since all blocks of a level have one shape and one rank, a product is two batched products a level.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

_CACHED = 2**16  # numbers of a batch that a processor's cache holds beside the factors
_SMALLEST_CHUNK = 16


class HLinear(nn.Module):
    """y = x W^T + b, W (out_features, in_features) hierarchical; a drop-in for nn.Linear.

    ranks: of each level, coarsest first; their number L sets 2^L leaves. rows, columns: permutations, where the
    hierarchy lives in another order: position i of the ordered matrix is row rows[i] of W.

    Parameters: `right_l` (2^l, n_l, rank) holds for each range of columns of level l = 1, ..., L the factor of the
    block beside it, `left_l` (2^l, rank, m_l) for each range of rows the other one, `near` (2^L, n_L, m_L) the leaves
    on the diagonal, transposed; m_L and n_L are rounded up, and ranges of coarser levels are whole numbers of leaves.
    """

    bias: nn.Parameter | None
    near: nn.Parameter
    rows: Tensor | None
    columns: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        ranks: Sequence[int],
        bias: bool = True,
        *,
        rows: Tensor | None = None,
        columns: Tensor | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.ranks = in_features, out_features, tuple(ranks)
        leaves = 2 ** len(self.ranks)
        self._n, self._m = -(-in_features // leaves), -(-out_features // leaves)
        self._chunk = max(_SMALLEST_CHUNK, _CACHED // max(in_features, out_features))
        self._names = tuple((f"right_{level}", f"left_{level}") for level in range(1, len(self.ranks) + 1))

        def zeros(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(shape, device=device, dtype=dtype))

        for level, rank in enumerate(self.ranks, start=1):
            n, m = self._n * leaves >> level, self._m * leaves >> level
            right, left = self._names[level - 1]
            self.register_parameter(right, zeros(2**level, n, rank))
            self.register_parameter(left, zeros(2**level, rank, m))
            beside = torch.arange(2**level, device=device) ^ 1
            self.register_buffer(f"beside_{2**level}", beside, persistent=False)
        self.near = zeros(leaves, self._n, self._m)
        self.register_parameter("bias", zeros(out_features) if bias else None)
        self.register_buffer("columns", None if columns is None else columns.to(device))
        # Stored the other way round: y in the order of W is y_ordered[rows].
        self.register_buffer("rows", None if rows is None else torch.argsort(rows).to(device))

    def factors(self) -> list[tuple[Tensor, Tensor]]:
        """`right_l` and `left_l` of each level, coarsest first."""
        held = self._parameters  # attributes of a module are looked up slowly
        if len(held) < 2 * len(self.ranks) + 2:  # some are computed (torch.nn.utils.parametrize)
            return [(getattr(self, right), getattr(self, left)) for right, left in self._names]
        return [(held[right], held[left]) for right, left in self._names]  # type: ignore[misc]

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        flat = x if x.dim() == 2 else x.reshape(-1, self.in_features)
        if len(flat) > self._chunk and x.device.type == "cpu" and not torch.compiler.is_compiling():
            y = torch.cat([self._product(part) for part in flat.split(self._chunk)])
        else:
            y = self._product(flat)
        return y if x.dim() == 2 else y.reshape(*x.shape[:-1], self.out_features)

    def _product(self, x: Tensor) -> Tensor:
        """(batch, in_features) to (batch, out_features)."""
        batch, leaves, n, m = x.shape[0], 2 ** len(self.ranks), self._n, self._m
        held, bias = self._buffers, self.bias
        columns, rows = held["columns"], held["rows"]
        if columns is not None:
            x = x.index_select(1, columns)
        if leaves * n != self.in_features:
            x = functional.pad(x, (0, leaves * n - self.in_features))
        y = torch.bmm(x.view(batch, leaves, n).transpose(0, 1), self.near).transpose(0, 1).reshape(batch, leaves * m)
        factors, ranges = self.factors(), 1
        add = _add_into if self._may_overwrite(x, factors) else _sum
        for right, left in factors:
            ranges, n, m = 2 * ranges, leaves * self._n // (2 * ranges), leaves * self._m // (2 * ranges)
            t = torch.bmm(x.view(batch, ranges, n).transpose(0, 1), right)
            beside = held[f"beside_{ranges}"]
            assert beside is not None
            y = add(y, t.index_select(0, beside), left, (batch, ranges, m))
        if leaves * self._m != self.out_features:
            y = y[:, : self.out_features]
        if rows is not None:
            y = y.index_select(1, rows)
        return y if bias is None else y + bias

    def _may_overwrite(self, x: Tensor, factors: Sequence[tuple[Tensor, Tensor]]) -> bool:
        """Whether sums may be formed in place: nothing is differentiated, traced, mapped or cast on the way."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.is_autocast_enabled(x.device.type):
            return False
        return all(type(left) is nn.Parameter for _, left in factors)  # others are lent, as torch.func does

    def to_dense(self) -> Tensor:
        """The weight (out_features, in_features), expanded; differentiable."""
        eye = torch.eye(self.in_features, device=self.near.device, dtype=self.near.dtype)
        y = self.forward(eye)
        return (y if self.bias is None else y - self.bias).T

    @property
    def weight(self) -> Tensor:
        """The dense weight, expanded at each access: for code that looks at nn.Linear.weight, not for running."""
        return self.to_dense()

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, ranks={self.ranks}, "
            f"leaf=({self._m}, {self._n}), permuted=({self.rows is not None}, {self.columns is not None}), "
            f"bias={self.bias is not None}"
        )


def _add_into(y: Tensor, t: Tensor, left: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """y += t (ranges, batch, rank) times left (ranges, rank, m), in place; y as `shape`: (batch, ranges, m)."""
    y.view(shape).transpose(0, 1).baddbmm_(t, left)
    return y


def _sum(y: Tensor, t: Tensor, left: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """The same in new memory."""
    return y + torch.bmm(t, left).transpose(0, 1).reshape(y.shape)


class LowRankLinear(nn.Module):
    """y = (x R^T) L^T + b with R (rank, in_features), L (out_features, rank); a drop-in for nn.Linear."""

    bias: nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        bias: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.rank = in_features, out_features, rank
        self.right = nn.Parameter(torch.zeros(rank, in_features, device=device, dtype=dtype))
        self.left = nn.Parameter(torch.zeros(out_features, rank, device=device, dtype=dtype))
        self.register_parameter(
            "bias", nn.Parameter(torch.zeros(out_features, device=device, dtype=dtype)) if bias else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        return functional.linear(functional.linear(x, self.right), self.left, self.bias)

    def to_dense(self) -> Tensor:
        """The weight (out_features, in_features), expanded; differentiable."""
        return self.left @ self.right

    @property
    def weight(self) -> Tensor:
        """The dense weight, expanded at each access."""
        return self.to_dense()

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, rank={self.rank}, "
            f"bias={self.bias is not None}"
        )
