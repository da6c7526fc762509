"""How much a user's own module writes while it runs."""

from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hmcompress.network.model.inputs import Points
from hmcompress.network.model.network import Network

_COMPARED = (1, 2)  # samples, of which tensors are compared whose size grows with them


class Written(TorchDispatchMode):
    """Counts the elements that operations write, all of them together, and of each tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.each = list[int]()

    @property
    def elements(self) -> int:
        return sum(self.each)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.each += [t.numel() for t in tree_leaves(out) if isinstance(t, Tensor)]
        return out


def largest_written(network: Network, points: Points) -> int:
    """Elements of the largest tensor that a network writes, for each sample."""
    runs = []
    for count in _COMPARED:
        with Written() as written:
            network.run(points.take(slice(0, count)).tensors)
        runs.append(written.each)
    return max(b - a for a, b in zip(*runs, strict=False)) // (_COMPARED[1] - _COMPARED[0])
