"""Which products a module takes with parameters of its own: noted as it runs."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import permutations, product

import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor

from hmcompress.network.model.calls import Call
from hmcompress.network.model.matrices import Beside, Matrix
from hmcompress.network.model.network import Inputs, Network, own_tensors
from hmcompress.network.model.watch import Made, Watch

SAME = 1e-4  # share of the largest number up to which numbers are the same, where sums are taken in another order


@dataclass
class Seen:
    """One product that was taken: of what, None inside torch.func transforms, whether with W^T, which bias came, and
    with what W was made."""

    x: Tensor | None
    turned: bool
    bias: Matrix | None
    beside: Beside | None

    @property
    def places(self) -> set[str]:
        """Of further parameters."""
        return {part.place for part in (self.bias, self.beside) if part is not None}


Calls = dict[Matrix, list[Seen]]


class Recording(Watch):
    """Notes products, and leaves all as it is. single: places of parameters that make no weight with another one."""

    def __init__(self, tensors: Mapping[str, Tensor], single: Set[str]) -> None:
        super().__init__(tensors)
        self._single = single
        self.seen: Calls = {}
        self._of: dict[int, Seen] = {}
        self._tensors = tensors

    def product(self, call: Call, own: Callable[[], Tensor]) -> Tensor:
        x = None if is_functorch_wrapped_tensor(call.x) else call.x.detach().clone()
        seen = Seen(x, call.turned, self.vector(call.bias) if call.after is None else None, call.beside)
        self.seen.setdefault(call.matrix, []).append(seen)
        self._of[id(call)] = seen
        return own()

    def made(self, w: Tensor, places: frozenset[str]) -> Made | None:
        pairs = permutations(sorted(places, key=list(self._tensors).index))
        for (own, other), is_factor, turned in product(pairs, (False, True), (False, True)):
            v, beside = self._tensors[own], Beside(other, is_factor)
            t = self._tensors[other]
            if places & self._single or not isinstance(v, nn.Parameter) or not isinstance(t, nn.Parameter):
                continue
            if beside.fits(v, t, tuple(w.shape), turned) and _are_close(beside.weight(v, t, turned), w):
                return Made(Matrix(own, 1, len(v), 0), turned, beside)
        return None

    def sum(self, calls: Sequence[Call], biases: Sequence[Matrix], z: Tensor, own: Callable[[], Tensor]) -> Tensor:
        for call, bias in zip(calls, biases, strict=True):
            seen = self._of[id(call)]
            if call.bias is None and call.after is None and seen.bias is None:
                seen.bias = bias
        return own()


def _are_close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= SAME * b.abs().max())


def recorded(network: Network, few: Inputs, single: Set[str]) -> Calls:
    """The products of one run. single: places of parameters that are to make no weight with another one."""
    own = own_tensors(network.module)
    counts = Counter(map(id, own.values()))
    alone = {p: own[p] for p in network.places.values() if p in own and counts[id(own[p])] == 1}
    with Recording({place: t for place, t in alone.items() if t.is_floating_point()}, single) as recording:
        network.run(few)
    return recording.seen


def are_same(calls: list[Seen], others: list[Seen]) -> bool:
    """Whether products are of the same numbers, as those of weights are."""
    pairs = ((one.x, other.x) for one, other in zip(calls, others, strict=False))
    same = all(x is not None and y is not None and torch.equal(x, y) for x, y in pairs)
    return same and len(calls) == len(others)
