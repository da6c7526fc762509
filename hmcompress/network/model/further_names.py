"""Tensors that a checkpoint has under several names, as those of a layer that a module holds in a list as well."""

from collections import Counter
from collections.abc import Hashable, Mapping

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

Tensors = Mapping[str, Tensor]


def memory(t: Tensor) -> Hashable:
    """What tensors have in common that are names of the same one, meta tensors too."""
    return StorageWeakRef(t.untyped_storage()).cdata, t.storage_offset(), t.shape, t.stride()


def by_stored_names(places: Mapping[str, str], tensors: Tensors) -> dict[str, str]:
    """Places by the names that tensors are stored under, the first of several, where a network knows one alone."""
    first = _first_names(tensors)
    stored = {name: first[memory(tensors[name])] for name in places}
    known = Counter(stored.values())
    return {stored[name] if known[stored[name]] == 1 else name: place for name, place in places.items()}


def of_whole_modules(places: Mapping[str, str], tensors: Tensors) -> dict[str, str]:
    """Places of further names that a network does not know, where all tensors of a module, two at least, have them.

    A weight alone may be tied to that of another layer, which means more than what the network makes of it.
    """
    first, held = _first_names(tensors), _by_modules(tensors)

    def stored(name: str) -> str:
        return first[memory(tensors[name])]

    def is_whole(module: str, other: str) -> bool:
        leaves = held[module]
        return len(leaves) > 1 and all(stored(f"{module}.{leaf}") == f"{other}.{leaf}" for leaf in leaves)

    names = (n for n in tensors if n not in places and stored(n) != n and stored(n) in places)
    return {n: places[stored(n)] for n in names if is_whole(n.rpartition(".")[0], stored(n).rpartition(".")[0])}


def _first_names(tensors: Tensors) -> dict[Hashable, str]:
    first: dict[Hashable, str] = {}
    for name, t in tensors.items():
        first.setdefault(memory(t), name)
    return first


def _by_modules(tensors: Tensors) -> dict[str, list[str]]:
    """The last parts of names by what stands before these."""
    held: dict[str, list[str]] = {}
    for name in tensors:
        module, _, leaf = name.rpartition(".")
        held.setdefault(module, []).append(leaf)
    return held
