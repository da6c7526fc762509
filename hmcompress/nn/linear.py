"""HLinear: a linear layer whose weight is a hierarchy of low-rank blocks; it runs and trains without a dense weight.

The rows and the columns are cut into 2^L ranges of equal size. Of every level the blocks beside the diagonal have low
rank, the blocks on the diagonal of the last level are dense (a weakly admissible H-matrix, HODLR: Ambikasaran and
Darve 2013). Since all blocks of a level have one shape and one rank, a product is two batched products in all.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

_CACHED = 2**19  # numbers of a batch that a processor's cache holds beside the factors
_COLUMNS = 48  # samples from which they stand as columns: short rows cost more to join than to transpose


class HLinear(nn.Module):
    """y = x W^T + b, W (out_features, in_features) hierarchical; a drop-in for nn.Linear.

    ranks: of each level, coarsest first; their number L sets 2^L leaves. rows, columns: permutations, where the
    hierarchy lives in another order: position i of the ordered matrix is row rows[i] of W.

    Parameters: `right_l` (2^l, n_l, rank) holds for each range of columns of level l = 1, ..., L the factor of the
    block beside it; `left` (2^L, R + n_L, m_L), R = sum(ranks), for each leaf the other factors of all blocks it has
    part in, levels one below the other, and in its last rows the leaf on the diagonal; n_l and m_l are the sizes of
    the ranges, rounded up.
    """

    bias: nn.Parameter | None
    rows: Tensor | None
    columns: Tensor | None
    beside: Tensor

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
        self._chunk = max(_COLUMNS, _CACHED // (leaves * (sum(self.ranks) + self._n)))

        def zeros(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(shape, device=device, dtype=dtype))

        self._rights = tuple(f"right_{level}" for level in range(1, len(self.ranks) + 1))
        for level, (rank, name) in enumerate(zip(self.ranks, self._rights, strict=True), start=1):
            self.register_parameter(name, zeros(2**level, (leaves >> level) * self._n, rank))
        self.left = zeros(leaves, sum(self.ranks) + self._n, self._m)
        self.register_parameter("bias", zeros(out_features) if bias else None)
        self.register_buffer("beside", torch.arange(leaves, device=device) ^ 1)
        # `rows` is stored the other way round: y in the order of W is y_ordered[rows].
        inverse = None if rows is None else torch.argsort(rows)
        for name, order in (("columns", columns), ("rows", inverse)):
            if order is None:
                setattr(self, name, None)  # no buffer: torch.export miscounts empty ones
            else:
                self.register_buffer(name, order.to(device))

    def leaves(self) -> Tensor:
        """The dense leaves (2^L, n, m), transposed; a view."""
        return self.left[:, sum(self.ranks) :]

    def by_leaves(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Of each level, coarsest first: views of the right factors (2^l, leaves of a range, n, rank) and of the left
        ones (2^l, leaves of a range, rank, m)."""
        start = 0
        for right, rank in zip(self._right_factors(), self.ranks, strict=True):
            part = self.left[:, start : start + rank]
            yield right.unflatten(1, (-1, self._n)), part.unflatten(0, (len(right), -1))
            start += rank

    def _right_factors(self) -> list[Tensor]:
        held = self._parameters  # attributes of a module are looked up slowly
        if not all(name in held for name in self._rights):  # computed: parametrised, pruned
            return [getattr(self, name) for name in self._rights]
        return [held[name] for name in self._rights]  # type: ignore[misc]

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        if x.shape[-1] != self.in_features:
            raise RuntimeError(f"{x.shape[-1]} inputs for a layer of {self.in_features}")
        flat = x if x.dim() == 2 else x.reshape(-1, self.in_features)
        if not torch.compiler.is_compiling() and flat.shape[0] > self._chunk and x.device.type == "cpu":
            parts = flat.tensor_split(-(-flat.shape[0] // self._chunk))
            y = torch.cat([self._product(part) for part in parts])
        else:
            y = self._product(flat)
        return y if x.dim() == 2 else y.reshape(*x.shape[:-1], self.out_features)

    def _product(self, x: Tensor) -> Tensor:
        """(batch, in_features) to (batch, out_features)."""
        held, bias = self._buffers, self.bias
        columns, rows = held.get("columns"), held.get("rows")
        many = not torch.compiler.is_compiling() and x.shape[0] >= _COLUMNS and x.device.type == "cpu"
        if many:
            x = x.t().contiguous()
        if columns is not None:
            x = x.index_select(0 if many else 1, columns)
        y = self._of_columns(x) if many else self._of_rows(x)
        if rows is not None:
            y = y.index_select(0 if many else 1, rows)
        if many:
            y = y.t().contiguous()
        return y if bias is None else y + bias

    def _of_rows(self, x: Tensor) -> Tensor:
        """(batch, in_features) to (batch, out_features) without bias, in the order of the hierarchy."""
        leaves, batch, n, ranges = 2 ** len(self.ranks), x.shape[0], self._n, 1
        if leaves * n != self.in_features:
            x = functional.pad(x, (0, leaves * n - self.in_features))
        received, beside = [], self._beside()
        for right in self._right_factors():
            ranges *= 2
            t = torch.bmm(x.view(batch, ranges, leaves // ranges * n).transpose(0, 1), right)
            t = t.index_select(0, beside[:ranges])
            received.append(t if ranges == leaves else _handed_down(t, leaves))
        received.append(x.view(batch, leaves, n).transpose(0, 1))
        y = torch.bmm(torch.cat(received, -1), self.left).transpose(0, 1).reshape(batch, leaves * self._m)
        return y if leaves * self._m == self.out_features else y[:, : self.out_features]

    def _of_columns(self, x: Tensor) -> Tensor:
        """The same of (in_features, batch) to (out_features, batch)."""
        leaves, batch, n, ranges = 2 ** len(self.ranks), x.shape[1], self._n, 1
        if leaves * n != self.in_features:
            x = functional.pad(x, (0, 0, 0, leaves * n - self.in_features))
        received, beside = [], self._beside()
        for right in self._right_factors():
            ranges *= 2
            t = torch.bmm(right.transpose(1, 2), x.view(ranges, leaves // ranges * n, batch))
            t = t.index_select(0, beside[:ranges])
            received.append(t if ranges == leaves else _handed_down(t, leaves))
        received.append(x.view(leaves, n, batch))
        y = torch.bmm(self.left.transpose(1, 2), torch.cat(received, 1)).view(leaves * self._m, batch)
        return y if leaves * self._m == self.out_features else y[: self.out_features]

    def _beside(self) -> Tensor:
        """The range beside each."""
        beside = self._buffers["beside"]
        assert beside is not None
        return beside

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


def _handed_down(t: Tensor, leaves: int) -> Tensor:
    """What each range receives (ranges, p, q) to what each of its leaves does (leaves, p, q)."""
    ranges, p, q = t.shape
    return t.unsqueeze(1).expand(ranges, leaves // ranges, p, q).reshape(leaves, p, q)


class LowRankLinear(nn.Module):
    """y = x R L + b with `right` R (in_features, rank), `left` L (rank, out_features); a drop-in for nn.Linear.

    The factors stand as the product reads them: transposed ones take a processor up to twice as long.
    """

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
        self.right = nn.Parameter(torch.zeros(in_features, rank, device=device, dtype=dtype))
        self.left = nn.Parameter(torch.zeros(rank, out_features, device=device, dtype=dtype))
        self.register_parameter(
            "bias", nn.Parameter(torch.zeros(out_features, device=device, dtype=dtype)) if bias else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        return functional.linear(functional.linear(x, self.right.t()), self.left.t(), self.bias)

    def to_dense(self) -> Tensor:
        """The weight (out_features, in_features), expanded; differentiable."""
        return (self.right @ self.left).t()

    @property
    def weight(self) -> Tensor:
        """The dense weight, expanded at each access."""
        return self.to_dense()

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, rank={self.rank}, "
            f"bias={self.bias is not None}"
        )
