"""Tensors that share memory: each group keeps its largest contiguous members, all others become views of them."""

from bisect import bisect_right
from collections.abc import Mapping

from hmcompress.checkpoint.lazy import LazyTensor
from hmcompress.geometry import View


def find_ties(tensors: Mapping[str, LazyTensor]) -> tuple[dict[str, View], list[str]]:
    """The tensors that are views of another one, and the names of those that overlap others without being such a view.

    The base of a tie is contiguous or, for equal views, has the same shape and strides as the tie. Work is
    n log n in the number of tensors on one storage (Lightning and cuDNN put hundreds there).
    """
    groups: dict[tuple, dict[str, LazyTensor]] = {}
    for name, tensor in tensors.items():
        if tensor.numel and not (tensor.conjugate or tensor.negative):
            width = tensor.dtype.itemsize
            key = (id(tensor.storage), tensor.dtype, tensor.first_byte % width)
            groups.setdefault(key, {})[name] = tensor
    ties: dict[str, View] = {}
    apart: list[str] = []
    for group in groups.values():
        if len(group) > 1:
            ties.update(_ties_of(group))
            apart.extend(_overlapping({name: tensor for name, tensor in group.items() if name not in ties}))
    return ties, apart


def _ties_of(group: dict[str, LazyTensor]) -> dict[str, View]:
    bases, starts = _covering(group)
    first_alike: dict[tuple, str] = {}
    ties = {}
    for name, tensor in group.items():
        index = bisect_right(starts, _start(tensor)) - 1
        base = bases[index] if index >= 0 else None
        if base is not None and base != name and _stop(tensor) <= _stop(group[base]):
            ties[name] = View(base, tensor.shape, tensor.stride, _start(tensor) - _start(group[base]))
            continue
        alike = first_alike.setdefault((tensor.shape, tensor.stride, tensor.first_byte), name)
        if alike != name:
            ties[name] = View.whole(alike, tensor.shape)
    return ties


def _covering(group: dict[str, LazyTensor]) -> tuple[list[str], list[int]]:
    """The contiguous tensors that lie in no other one, by their first element; of equals the first in the source."""
    whole = [(name, t) for name, t in group.items() if t.is_contiguous]
    whole.sort(key=lambda pair: (_start(pair[1]), -_stop(pair[1])))  # stable: source order among equals
    bases: list[str] = []
    reach = -1
    for name, tensor in whole:
        if _stop(tensor) > reach:
            bases.append(name)
            reach = _stop(tensor)
    return bases, [_start(group[name]) for name in bases]


def _overlapping(group: dict[str, LazyTensor]) -> list[str]:
    """Names of the tensors that begin before an earlier one ends."""
    found, reach = [], -1
    for name in sorted(group, key=lambda name: _start(group[name])):
        if _start(group[name]) < reach:
            found.append(name)
        reach = max(reach, _stop(group[name]))
    return found


def _start(tensor: LazyTensor) -> int:
    return tensor.first_byte // tensor.dtype.itemsize


def _stop(tensor: LazyTensor) -> int:
    return _start(tensor) + tensor.span
