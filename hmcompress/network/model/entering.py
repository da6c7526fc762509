"""What a dense layer is called with: by place or by name, as a tensor or in a class around one."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor


def entering(args: Sequence[Tensor], named: Mapping[str, Tensor]) -> Tensor:
    """The tensor among a dense layer's arguments."""
    x = args[0] if args else named["input"]
    return x if isinstance(x, Tensor) else torch.clone(x)  # by __torch_function__, as the layer itself takes it


def called_with(function: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """A function of that tensor as the forward of a dense layer."""
    return lambda *args, **named: function(entering(args, named))
