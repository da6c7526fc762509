"""What modules keep from one call to the next, such as factors of their weights."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

_USUAL = frozenset(vars(nn.Module())) | {"forward"}  # attributes that any module has, or may be given for a while
_ABSENT = object()


@dataclass(frozen=True)
class Kept:
    """An attribute of the module at a path, and its value before any call."""

    path: str
    name: str
    value: Any = _ABSENT

    def forget(self, module: nn.Module) -> None:
        """Give the attribute that value again."""
        held = vars(module.get_submodule(self.path))
        if self.value is _ABSENT:
            held.pop(self.name, None)
        else:
            held[self.name] = copy.copy(self.value)


def before_any_call(module: nn.Module) -> nn.Module | None:
    """A copy of a module as it is now; None of an archive, or where there can be none."""
    if isinstance(module, torch.jit.ScriptModule):
        return None
    try:
        return copy.deepcopy(module)
    except Exception:  # whatever a module holds that cannot be copied
        return None


def what_is_kept(module: nn.Module, untouched: nn.Module) -> Iterator[Kept]:
    """Attributes that came with calls, and those that held nothing but numbers, texts and None before."""
    before = {path: vars(part) for path, part in untouched.named_modules()}
    for path, part in module.named_modules():
        old = before.get(path, {})
        yield from (Kept(path, name) for name in vars(part) if name not in _USUAL and name not in old)
        values = ((name, value) for name, value in old.items() if name not in _USUAL and _is_plain(value))
        yield from (Kept(path, name, copy.copy(value)) for name, value in values)


def forget(kept: Sequence[Kept], module: nn.Module) -> None:
    """Have a module forget what it kept."""
    for attribute in kept:
        attribute.forget(module)


def _is_plain(value: object) -> bool:
    """Whether a value, or all that a container or an object holds, is a number, a text or None."""
    if isinstance(value, dict | list | set):
        return all(map(_is_simple, value.values() if isinstance(value, dict) else value))
    held = [value] if callable(value) or not hasattr(value, "__dict__") else vars(value).values()
    return all(map(_is_simple, held))


def _is_simple(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float | str)
