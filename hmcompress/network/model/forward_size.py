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
_COMPARED = (1, 2)  # samples, of which tensors are compared whose size grows with them


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
    written, flops = Written(views=False), FlopCounterMode(display=False)
    try:
        with flops, written:
            network.run(few.tensors)
    except NetworkError:
        return ForwardSize()
    return ForwardSize(sum(written.each) / len(few), flops.get_total_flops() / 2 / len(few))


class Written(TorchDispatchMode):
    """Sizes of the floating tensors that operations write, one after the other; views: also of those that take no
    memory of their own."""

    def __init__(self, views: bool = True) -> None:
        super().__init__()
        self._views, self.each = views, list[int]()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        given = set() if self._views else {_place(t) for t in _tensors((args, kwargs))}
        self.each += [_size(t) for t in _tensors(found) if self._views or _place(t) not in given]
        return found


def largest_written(network: Network, points: Points) -> int:
    """Numbers of the largest tensor that a network writes, for each sample."""
    runs = []
    for count in _COMPARED:
        with Written() as written:
            network.run(points.take(slice(0, count)).tensors)
        runs.append(written.each)
    return max(b - a for a, b in zip(*runs, strict=False)) // (_COMPARED[1] - _COMPARED[0])


def _tensors(nest: Any) -> list[Tensor]:
    return [t for t in tree_leaves(nest) if isinstance(t, Tensor)]


def _place(t: Tensor) -> int:
    return t.untyped_storage().data_ptr()


def _size(t: Tensor) -> int:
    return t.numel() * (2 if t.is_complex() else int(t.is_floating_point()))
