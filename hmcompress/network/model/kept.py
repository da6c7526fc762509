"""What modules keep from one call to the next, such as factors of their weights."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

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


@dataclass(frozen=True)
class KeptTensor:
    """A buffer, or a tensor in an attribute, that calls change, and its value before any."""

    path: str
    name: str
    value: Tensor

    @property
    def place(self) -> str:
        """Its name in the whole module."""
        return f"{self.path}.{self.name}" if self.path else self.name

    def forget(self, module: nn.Module) -> None:
        """Give it that value again, in a tensor of its own: the module may have returned the one it holds."""
        part = module.get_submodule(self.path)
        now = getattr(part, self.name)
        setattr(part, self.name, self.value.to(now).clone() if isinstance(now, Tensor) else self.value.clone())


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


def states(module: nn.Module) -> dict[tuple[str, str], Tensor]:
    """Copies of a module's buffers and of tensors in its attributes, by path and name."""
    return {
        (path, name): value.detach().clone()
        for path, part in module.named_modules()
        for name, value in _tensors_of(part)
    }


def changed_states(module: nn.Module, before: Mapping[tuple[str, str], Tensor]) -> tuple[KeptTensor, ...]:
    """Those that calls have changed since."""
    now = states(module)
    return tuple(KeptTensor(*place, t) for place, t in before.items() if not _is_same(t, now.get(place)))


def unshared(state: Mapping[str, Tensor], kept: Sequence[Kept | KeptTensor]) -> dict[str, Tensor]:
    """Tensors to run a module with, of which it may change those that calls change: copies of these."""
    changed = {t.place for t in kept if isinstance(t, KeptTensor)}
    return {place: t.clone() if place in changed else t for place, t in state.items()}


def forget(kept: Sequence[Kept | KeptTensor], module: nn.Module) -> None:
    """Have a module forget what it kept."""
    for attribute in kept:
        attribute.forget(module)


def _tensors_of(part: nn.Module) -> Iterator[tuple[str, Tensor]]:
    held = {} if isinstance(part, torch.jit.ScriptModule) else vars(part)
    both = (*part.named_buffers(recurse=False, remove_duplicate=False), *held.items())
    return ((name, t) for name, t in both if isinstance(t, Tensor) and t.layout == torch.strided and not t.is_meta)


def _is_same(old: Tensor, new: Tensor | None) -> bool:
    """Whether a tensor is what it was, bit for bit."""
    if new is None or old.shape != new.shape or old.dtype != new.dtype:
        return False
    return torch.equal(old, new) or (old.is_floating_point() and torch.equal(old.nan_to_num(), new.nan_to_num()))


def _is_plain(value: object) -> bool:
    """Whether a value, or all that a container or an object holds, is a number, a text or None."""
    if isinstance(value, dict | list | set):
        return all(map(_is_simple, value.values() if isinstance(value, dict) else value))
    held = [value] if callable(value) or not hasattr(value, "__dict__") else vars(value).values()
    return all(map(_is_simple, held))


def _is_simple(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float | str)
