"""Weights that a module also keeps in dicts and lists of its own, where torch's functional_call does not reach them."""

import copy
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_DEPTH = 3  # dicts in lists in dicts
_TORCHS_OWN = ("_parameters", "_buffers", "_modules")


@dataclass(frozen=True)
class Shelf:
    """A dict, list or tuple that holds some of a module's parameters or buffers: its path and attribute."""

    path: str
    attribute: str

    @contextmanager
    def with_others(self, module: nn.Module, others: Mapping[Tensor, Tensor]) -> Iterator[None]:
        """Others stand in it meanwhile, in this module or a copy of it."""
        before = self.put(module, others)
        try:
            yield
        finally:
            vars(module.get_submodule(self.path))[self.attribute] = before

    def put(self, module: nn.Module, others: Mapping[Tensor, Tensor]) -> object:
        """Others stand in it from now on; returns what it was."""
        attributes = vars(module.get_submodule(self.path))
        before = attributes[self.attribute]
        attributes[self.attribute] = _with(before, others)
        return before


def shelves_in(module: nn.Module, own: Container[Tensor]) -> Iterator[Shelf]:
    """Where the module's own tensors stand, nested or not."""
    for path, part in module.named_modules():
        if isinstance(part, torch.jit.ScriptModule | nn.RNNBase):  # torch's own recurrent layers mind their lists
            continue
        for attribute, held in vars(part).items():
            if attribute not in _TORCHS_OWN and any(t in own for t in _tensors(held)):
                yield Shelf(path, attribute)


@contextmanager
def shelved(module: nn.Module, shelves: Sequence[Shelf], others: Mapping[Tensor, Tensor]) -> Iterator[None]:
    """What takes the place of some of the module's tensors stands on its shelves meanwhile."""
    with ExitStack() as stack:
        for shelf in shelves:
            stack.enter_context(shelf.with_others(module, others))
        yield


def _tensors(held: object, depth: int = _DEPTH) -> Iterator[Tensor]:
    if isinstance(held, Tensor):
        yield held
    elif isinstance(held, dict | list | tuple) and depth:
        for part in held.values() if isinstance(held, dict) else held:
            yield from _tensors(part, depth - 1)


def _with(held: Any, others: Mapping[Tensor, Tensor], depth: int = _DEPTH) -> Any:
    """The same with other tensors in it; what holds none of them may be a copy."""
    if isinstance(held, Tensor):
        return others.get(held, held)
    if not isinstance(held, dict | list | tuple) or not depth:
        return held
    if isinstance(held, tuple):
        parts = [_with(part, others, depth - 1) for part in held]
        return held._make(parts) if hasattr(held, "_make") else tuple(parts)
    found = copy.copy(held)
    for key, part in held.items() if isinstance(held, dict) else enumerate(held):
        found[key] = _with(part, others, depth - 1)
    return found
