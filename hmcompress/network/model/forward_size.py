"""How large a network's forward pass is: what it makes and multiplies for one sample, counted by running it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from hmcompress.errors import NetworkError
from hmcompress.network.model.inputs import Points
from hmcompress.network.model.network import Network

_SAMPLES = 4


@dataclass(frozen=True)
class ForwardSize:
    """For one sample: numbers that operations write, and multiplications in products of matrices and convolutions."""

    numbers: float = 0.0
    multiplications: float = 0.0

    def samples(self, numbers: float, least: int) -> int:
        """How many samples make about so many numbers."""
        return max(int(numbers / max(self.numbers, 1.0)), least)


def forward_size(network: Network, points: Points) -> ForwardSize:
    """Zeros where the operations of a module cannot be watched."""
    few = points.take(slice(0, _SAMPLES))
    written, flops = _Written(), FlopCounterMode(display=False)
    try:
        with flops, written:
            network.run(few.tensors)
    except NetworkError:
        return ForwardSize()
    return ForwardSize(written.numbers / len(few), flops.get_total_flops() / 2 / len(few))


class _Written(TorchDispatchMode):
    """Counts the floating numbers that operations write to memory of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        given = {_place(t) for t in _tensors((args, kwargs))}
        self.numbers += sum(_size(t) for t in _tensors(found) if _place(t) not in given)
        return found


def _tensors(nest: Any) -> list[Tensor]:
    return [t for t in tree_leaves(nest) if isinstance(t, Tensor)]


def _place(t: Tensor) -> int:
    return t.untyped_storage().data_ptr()


def _size(t: Tensor) -> int:
    return t.numel() * (2 if t.is_complex() else int(t.is_floating_point()))
