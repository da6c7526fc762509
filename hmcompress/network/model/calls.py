"""Products with matrices of a parameter as a module takes them: a single one, or several side by side."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hmcompress.network.model.matrices import Beside, Matrices, Matrix


@dataclass(frozen=True)
class Call:
    """One product, of x (..., n) with W (n, m), and what makes the module's result from that.

    axis: of the result, from its end, along which neurons lie. bias: what the same call adds; kernel: along that axis,
    as convolutions do. after: what each neuron is multiplied by. sizes, order: of the axes along which neurons lie
    where these are several, and of all axes of the result. beside: with what the parameter of the matrix makes W.
    """

    matrix: Matrix
    turned: bool
    x: Tensor
    axis: int = -1
    bias: Tensor | None = None
    kernel: bool = False
    after: Tensor | None = None
    sizes: tuple[int, ...] = ()
    order: tuple[int, ...] = ()
    beside: Beside | None = None

    def leave(self, z: Tensor) -> Tensor:
        """z (..., m) as the module's own call returns it."""
        z = z if self.after is None else z * self.after
        if self.sizes:
            return z.unflatten(-1, self.sizes).permute(self.order).contiguous()
        return z if self.axis == -1 else z.movedim(-1, self.axis).contiguous()

    def with_bias(self, z: Tensor) -> Tensor:
        """The module's result z with what the same call adds."""
        if self.bias is None:
            return z
        return z + (self.bias.reshape(-1, *[1] * (-1 - self.axis)) if self.kernel else self.bias)


@dataclass(frozen=True)
class Stacked:
    """Products with matrices that lie side by side, whose results then do so `along` an axis, from its end.

    weights: the matrices as they are multiplied by, (n, m). axis: as that of a call, in the result of all. shape: of
    that, where it has further axes.
    """

    each: tuple[Call, ...]
    weights: tuple[Tensor, ...]
    along: int
    axis: int
    shape: tuple[int, ...] | None = None

    def together(self, results: Sequence[Tensor]) -> Tensor:
        """The module's result."""
        z = torch.stack(list(results), self.along)
        return z if self.shape is None else z.reshape(self.shape)


@dataclass(frozen=True)
class Result:
    """What products gave, and how they lie in it."""

    z: Tensor
    calls: tuple[Call, ...]
    axis: int
    along: int | None = None


def side_by_side(found: Matrices, turned: bool, x: Tensor, w: Tensor, shape: tuple[int, ...]) -> Stacked:
    """x (..., k, n) times each W (n, m) of w (..., n, m), which stand along an axis of w and of the result."""
    places, axis = range(found.number), found.axis
    assert axis is not None
    own = x.ndim >= -axis and x.shape[axis] == len(places)
    inputs = [x.select(axis, k) if own else x.squeeze(axis) if x.ndim >= -axis else x for k in places]
    inputs = [t.reshape(*[1] * (-axis - 1 - t.ndim), *t.shape) for t in inputs]
    weights = tuple(w.select(axis, k).reshape(w.shape[-2:]) for k in places)
    calls = (Call(found.at(k), turned, t) for k, t in enumerate(inputs))
    return Stacked(tuple(calls), weights, axis, -1, shape)
