"""HLinear: a linear layer whose weight is a nested hierarchy of low-rank blocks; it runs and trains without another.

The rows and the columns are cut into as many ranges of equal size. Blocks on the diagonal are dense; all others of a
range of rows share one basis, and so do those of a range of columns, so that the rest is a matrix of the products of
bases, far smaller and of the same kind: cut again, until it is small (hierarchically semiseparable, Chandrasekaran, Gu
and Pals 2006). All blocks of a level have one shape, and a level is three batched products.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

_CACHED = 2**20  # numbers of a batch: its products stay in the cache, and in memory that the process has already


class Level(NamedTuple):
    """How often a level cuts its matrix, and the size of its bases: of columns (`inward`) and of rows (`outward`)."""

    groups: int
    inward: int
    outward: int


class HLinear(nn.Module):
    """y = x W^T + b, W (out_features, in_features) hierarchical; a drop-in for nn.Linear.

    leaf: rows and columns (m, n) of the blocks on the diagonal; those beyond the edge of W are never used. levels:
    finest first; the groups of each are a multiple of the next one's. rows, columns: permutations, where the hierarchy
    lives in another order: position i of the ordered matrix is row rows[i] of W.

    Parameters, transposed: of level l = 0, 1, ... with blocks (m, n) `near_l` (groups, n, m), those on the diagonal,
    `right_l` (groups, n, inward) and `left_l` (groups, outward, m); `top` (inputs, outputs), what the last one leaves.
    Raises ValueError where the levels do not fit.
    """

    top: nn.Parameter
    bias: nn.Parameter | None
    rows: Tensor | None
    columns: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        leaf: tuple[int, int],
        levels: Sequence[Sequence[int]],
        bias: bool = True,
        *,
        rows: Tensor | None = None,
        columns: Tensor | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.leaf = in_features, out_features, leaf
        self.levels = tuple(Level(*level) for level in levels)
        self._check()
        for name, shape in self._shapes():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape, device=device, dtype=dtype)))
        self._padded = leaf[1] * self.levels[0].groups - in_features, leaf[0] * self.levels[0].groups - out_features
        self._chunk = max(1, _CACHED // max(in_features, out_features))
        self._names = tuple((f"near_{k}", f"right_{k}", f"left_{k}") for k in range(len(self.levels)))
        self.register_parameter(
            "bias", nn.Parameter(torch.zeros(out_features, device=device, dtype=dtype)) if bias else None
        )
        # `rows` is stored the other way round: y in the order of W is y_ordered[rows].
        inverse = None if rows is None else torch.argsort(rows)
        for name, order in (("columns", columns), ("rows", inverse)):
            if order is None:
                setattr(self, name, None)  # no buffer: torch.export miscounts empty ones
            else:
                self.register_buffer(name, order.to(device))

    def _shapes(self) -> Iterator[tuple[str, tuple[int, int] | tuple[int, int, int]]]:
        (m, n), groups = self.leaf, self.levels[0].groups
        for k, level in enumerate(self.levels):
            m, n, groups = m * groups // level.groups, n * groups // level.groups, level.groups
            yield f"near_{k}", (groups, n, m)
            yield f"right_{k}", (groups, n, level.inward)
            yield f"left_{k}", (groups, level.outward, m)
            m, n = level.outward, level.inward
        yield "top", (groups * n, groups * m)

    def _check(self) -> None:
        counts = [level.groups for level in self.levels]
        if not counts or any(fine % coarse for fine, coarse in pairwise(counts)):
            raise ValueError(f"levels of {counts} groups do not nest")
        if counts[0] * self.leaf[0] < self.out_features or counts[0] * self.leaf[1] < self.in_features:
            raise ValueError(f"{counts[0]} leaves of {self.leaf} do not cover {(self.out_features, self.in_features)}")

    def factors(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """`near`, `right` and `left` of each level, finest first."""
        held = cast(dict[str, Tensor], self._parameters)  # attributes of a module are looked up slowly
        for names in self._names:
            near, right, left = (held[name] if name in held else getattr(self, name) for name in names)
            yield near, right, left

    def forward(self, input: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        if input.shape[-1] != self.in_features:
            raise RuntimeError(f"{input.shape[-1]} inputs for a layer of {self.in_features}")
        if input.dim() != 2:
            return self.forward(input.reshape(-1, self.in_features)).reshape(*input.shape[:-1], self.out_features)
        if not torch.compiler.is_compiling() and input.shape[0] > self._chunk and input.device.type == "cpu":
            return self._by_parts(input)
        return self._run(input).flatten(1)

    def _by_parts(self, x: Tensor) -> Tensor:
        """The same as _run, some samples at a time."""
        parts = x.split(self._chunk)
        if torch.is_grad_enabled():
            return torch.cat([self._run(part).flatten(1) for part in parts])
        first = self._run(parts[0])
        y = first.new_empty((len(x), *first.shape[1:]))  # one by one: all parts at once are memory asked for anew
        y[: len(first)] = first
        for k, part in enumerate(parts[1:], start=1):
            y[k * self._chunk : k * self._chunk + len(part)] = self._run(part)
        return y.flatten(1)

    def _run(self, x: Tensor) -> Tensor:
        """(batch, in_features) to (batch, out_features), or (batch, leaves, m), which is the same."""
        columns, rows, bias = self.columns, self.rows, self.bias
        y = self._product(x if columns is None else x.index_select(1, columns)).transpose(0, 1)
        if rows is not None:
            y = y.flatten(1).index_select(1, rows)
        elif self._padded[1]:
            y = y.flatten(1)[:, : self.out_features]
        return y if bias is None else y.flatten(1) + bias

    def _product(self, x: Tensor) -> Tensor:
        """(batch, in_features) to (leaves, batch, m), in the order of the hierarchy.

        One sample takes hardly longer than the calls: here are as few of them as there can be.
        """
        batch, levels, factors, inputs = x.shape[0], self.levels, list(self.factors()), []
        if self._padded[0]:
            x = functional.pad(x, (0, self._padded[0]))
        own = x.reshape(batch, levels[0].groups, self.leaf[1]).transpose(0, 1)
        for level, (_, right, _) in zip(levels, factors, strict=True):
            own = _joined(own, level.groups)
            inputs.append(own)
            own = torch.bmm(own, right)
        groups, inward, outward = levels[-1]
        y = torch.mm(own.transpose(0, 1).reshape(batch, groups * inward), self.top)
        y = y.reshape(batch, groups, outward).transpose(0, 1)
        for level, (near, _, left) in zip(reversed(levels), reversed(factors), strict=True):
            y = torch.baddbmm(torch.bmm(inputs.pop(), near), _parted(y, level.groups), left)
        return y

    def to_dense(self) -> Tensor:
        """The weight (out_features, in_features), expanded; differentiable."""
        top = self.top
        eye = torch.eye(self.in_features, device=top.device, dtype=top.dtype)
        y = self.forward(eye)
        return (y if self.bias is None else y - self.bias).T

    @property
    def weight(self) -> Tensor:
        """The dense weight, expanded at each access: for code that looks at nn.Linear.weight, not for running."""
        return self.to_dense()

    def extra_repr(self) -> str:
        levels = ", ".join(f"{level.groups}: ({level.outward}, {level.inward})" for level in self.levels)
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, leaf={self.leaf}, levels={{{levels}}}, "
            f"permuted=({self.rows is not None}, {self.columns is not None}), bias={self.bias is not None}"
        )


def _joined(t: Tensor, groups: int) -> Tensor:
    """What several ranges hold each (k * groups, batch, size), side by side: (groups, batch, k * size)."""
    ranges, batch, size = t.shape
    if ranges == groups:
        return t
    k = ranges // groups
    return t.reshape(groups, k, batch, size).transpose(1, 2).reshape(groups, batch, k * size)


def _parted(t: Tensor, groups: int) -> Tensor:
    """Inverse of _joined: to as many groups."""
    ranges, batch, size = t.shape
    if ranges == groups:
        return t
    k = groups // ranges
    return t.reshape(ranges, batch, k, size // k).transpose(1, 2).reshape(groups, batch, size // k)


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

    def forward(self, input: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        return functional.linear(functional.linear(input, self.right.t()), self.left.t(), self.bias)

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
