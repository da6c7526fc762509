"""Weights that a module also keeps in dicts and lists of its own, where torch's functional_call does not reach them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_TORCHS_OWN = ("_parameters", "_buffers", "_modules")


@dataclass(frozen=True)
class Shelf:
    """An entry of a dict or list of a module's, and the place of the parameter or buffer that it is."""

    path: str
    attribute: str
    key: Any
    place: str

    def holder(self, module: nn.Module) -> Any:
        """The dict or list, in this module or a copy of it."""
        return vars(module.get_submodule(self.path))[self.attribute]


def shelves_in(module: nn.Module, places: Mapping[Tensor, str]) -> Iterator[Shelf]:
    """Where they stand; places: of the module's own tensors."""
    for path, part in module.named_modules():
        if isinstance(part, torch.jit.ScriptModule | nn.RNNBase):  # torch's own recurrent layers mind their lists
            continue
        for attribute, holder in vars(part).items():
            if attribute not in _TORCHS_OWN:
                yield from (Shelf(path, attribute, k, places[t]) for k, t in _entries(holder) if t in places)


def _entries(holder: object) -> Iterator[tuple[Any, Tensor]]:
    if isinstance(holder, dict | list):
        entries = holder.items() if isinstance(holder, dict) else enumerate(holder)
        yield from ((key, t) for key, t in entries if isinstance(t, Tensor))


@contextmanager
def shelved(module: nn.Module, shelves: Sequence[Shelf], state: Mapping[str, Tensor]) -> Iterator[None]:
    """What takes the place of some tensors stands on their shelves meanwhile."""
    found = [(shelf.holder(module), shelf) for shelf in shelves if shelf.place in state]
    before = [holder[shelf.key] for holder, shelf in found]
    try:
        for holder, shelf in found:
            holder[shelf.key] = state[shelf.place]
        yield
    finally:
        for (holder, shelf), t in zip(found, before, strict=True):
            holder[shelf.key] = t
