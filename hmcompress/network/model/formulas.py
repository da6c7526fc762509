"""Operations whose higher derivatives torch does not know, or has wrong, written as formulas of which it knows them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


def _silu(x: Tensor, inplace: bool = False) -> Tensor:
    return _in_place(x, x * torch.sigmoid(x), inplace)


def _mish(x: Tensor, inplace: bool = False) -> Tensor:
    return _in_place(x, x * torch.tanh(functional.softplus(x)), inplace)


def _hardsigmoid(x: Tensor, inplace: bool = False) -> Tensor:
    return _in_place(x, torch.clamp(x + 3, 0, 6) / 6, inplace)


def _in_place(x: Tensor, y: Tensor, inplace: bool) -> Tensor:
    return x.copy_(y) if inplace else y


def _glu(x: Tensor, dim: int = -1) -> Tensor:
    value, gate = x.chunk(2, dim)
    return value * torch.sigmoid(gate)


def _layer_norm(
    x: Tensor,
    normalized_shape: tuple[int, ...],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: object,
) -> Tensor:
    axes = tuple(range(-len(normalized_shape), 0))
    x = x - x.mean(axes, keepdim=True)
    x = x * torch.rsqrt(x.square().mean(axes, keepdim=True) + eps)
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *_: object,
) -> Tensor:
    if training or running_mean is None or running_var is None:
        return functional.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    scale = torch.rsqrt(running_var + eps)
    scale = scale if weight is None else scale * weight
    shift = -running_mean * scale if bias is None else bias - running_mean * scale
    shape = (-1, *[1] * (x.ndim - 2))
    return x * scale.reshape(shape) + shift.reshape(shape)


_OF_BUFFERS: dict[Any, Callable[..., Tensor]] = {functional.batch_norm: _batch_norm}  # no gradient by its statistics
_FROM_FIRST: dict[Any, Callable[..., Tensor]] = {  # their tangents have no gradient, or a wrong one
    functional.glu: _glu,
    functional.hardsigmoid: _hardsigmoid,
    functional.layer_norm: _layer_norm,
    torch.layer_norm: _layer_norm,
}
_FROM_SECOND: dict[Any, Callable[..., Tensor]] = _FROM_FIRST | {functional.silu: _silu, functional.mish: _mish}


class Formulas(TorchFunctionMode):
    """While it is on, such operations are formulas: few for derivatives of first order, more for second, and those
    that have no gradients by buffers for order 0."""

    def __init__(self, order: int) -> None:
        super().__init__()
        self._formulas = (_OF_BUFFERS, _FROM_FIRST, _FROM_SECOND)[order]

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return self._formulas.get(func, func)(*args, **(kwargs or {}))
