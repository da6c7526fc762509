"""HLinear: a linear layer whose weight is a hierarchy of low-rank blocks; it runs and trains without a dense weight.

The rows and the columns are cut into 2^L ranges of equal size. Of every level the blocks beside the diagonal have low
rank, the blocks on the diagonal of the last level are dense (a weakly admissible H-matrix, HODLR: Ambikasaran and
Darve 2013). Since all blocks of a level have one shape and one rank, a product is two batched products in all.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

_CACHED = 2**16  # numbers of a batch that a processor's cache holds beside the factors
_SMALLEST_CHUNK = 16


class HLinear(nn.Module):
    """y = x W^T + b, W (out_features, in_features) hierarchical; a drop-in for nn.Linear.

    ranks: of each level, coarsest first; their number L sets 2^L leaves. rows, columns: permutations, where the
    hierarchy lives in another order: position i of the ordered matrix is row rows[i] of W.

    Parameters: `right` (2^L, n, R) holds for each range of columns the factors of all blocks above it, levels side by
    side, R = sum(ranks); `left` (2^L, R + n, m) the other factors and, in its last n rows, the dense leaf; m and n are
    the sizes of the ranges, rounded up.
    """

    bias: nn.Parameter | None
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
        self._allocate(device, dtype)
        self.register_parameter(
            "bias", nn.Parameter(torch.zeros(out_features, device=device, dtype=dtype)) if bias else None
        )
        self.register_buffer("columns", None if columns is None else columns.to(device))
        # Stored the other way round: y in the order of W is y_ordered[rows].
        self.register_buffer("rows", None if rows is None else torch.argsort(rows).to(device))

    def _allocate(self, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
        leaves, rank = 2 ** len(self.ranks), sum(self.ranks)
        self.right = nn.Parameter(torch.zeros(leaves, self._n, rank, device=device, dtype=dtype))
        self.left = nn.Parameter(torch.zeros(leaves, rank + self._n, self._m, device=device, dtype=dtype))

    def leaves(self) -> Tensor:
        """The dense leaves (2^L, n, m), transposed; a view."""
        return self.left[:, sum(self.ranks) :]

    def by_leaves(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Of each level, coarsest first: views of the right factors (2^l, leaves of a range, n, rank) and of the left
        ones (2^l, leaves of a range, rank, m)."""
        start = 0
        for level, rank in enumerate(self.ranks, start=1):
            part = slice(start, start + rank)
            yield tuple(f.unflatten(0, (2**level, -1)) for f in (self.right[:, :, part], self.left[:, part]))
            start += rank

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        flat = x if x.dim() == 2 else x.reshape(-1, self.in_features)
        if not torch.compiler.is_compiling() and flat.shape[0] > self._chunk and x.device.type == "cpu":
            y = torch.cat([self._product(part) for part in flat.split(self._chunk)])
        else:
            y = self._product(flat)
        return y if x.dim() == 2 else y.reshape(*x.shape[:-1], self.out_features)

    def _product(self, x: Tensor) -> Tensor:
        """(batch, in_features) to (batch, out_features)."""
        held, bias = self._buffers, self.bias  # attributes of a module are looked up slowly
        columns, rows = held["columns"], held["rows"]
        y = self._ordered_product(x if columns is None else x.index_select(1, columns))
        if rows is not None:
            y = y.index_select(1, rows)
        return y if bias is None else y + bias

    def _ordered_product(self, x: Tensor) -> Tensor:
        """The same without bias, in the order of the hierarchy."""
        leaves, batch = 2 ** len(self.ranks), x.shape[0]
        padded = functional.pad(x, (0, leaves * self._n - self.in_features))
        blocks = padded.reshape(batch, leaves, self._n).transpose(0, 1)
        far = self._across(torch.bmm(blocks, self.right))
        y = torch.bmm(torch.cat([*far, blocks], -1), self.left)
        return y.transpose(0, 1).reshape(batch, leaves * self._m)[:, : self.out_features]

    def _across(self, t: Tensor) -> list[Tensor]:
        """From each range's own products (leaves, batch, R) what each range receives, level by level.

        A block beside the diagonal sums over all leaves of its columns and hands the sum to all leaves of its rows.
        """
        received, leaves, batch = [], len(t), t.shape[1]
        for level, part in enumerate(t.split(self.ranks, -1)):
            pairs, below = 2**level, leaves // 2 ** (level + 1)
            summed = part.reshape(pairs, 2, below, batch, part.shape[-1]).sum(2, keepdim=True).flip(1)
            received.append(summed.expand(-1, -1, below, -1, -1).reshape(part.shape))
        return received

    def to_dense(self) -> Tensor:
        """The weight (out_features, in_features), expanded; differentiable."""
        leaves = self.leaves()
        eye = torch.eye(self.in_features, device=leaves.device, dtype=leaves.dtype)
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
