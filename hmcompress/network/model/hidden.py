"""Modules that a module keeps in plain dicts, lists or attributes: torch does not know of them, but they are run."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

_DEPTH = 5  # dicts in lists in dicts, as pickled modules are read
_TORCHS_OWN = ("_parameters", "_buffers", "_modules")


def hidden_places(module: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The tensors of such modules by their names in a checkpoint, behind any prefix; shapes: those without a place.

    Left as they are made, the network that runs would have other weights there than the one that was saved.
    """
    found = {}
    for place, own in _hidden_tensors(module).items() if shapes else ():
        fits = [n for n in shapes if f".{n}".endswith(f".{place}") and shapes[n] == tuple(own.shape)]
        if len(fits) == 1:
            found[fits[0]] = own
    return found


def _hidden_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of modules in plain containers, under the names that a pickled module's have."""
    found: dict[str, Tensor] = {}
    seen = set(module.modules())
    open_parts = [] if isinstance(module, torch.jit.ScriptModule) else list(module.named_modules())
    for path, part in open_parts:  # which grows on the way
        for place, hidden in _hidden_in(part, path):
            if hidden not in seen:
                seen |= set(hidden.modules())
                found |= {f"{place}.{name}": t for name, t in hidden.state_dict(keep_vars=True).items()}
                open_parts += hidden.named_modules(prefix=place)
    return {name: t for name, t in found.items() if isinstance(t, Tensor) and not t.is_meta}


def _hidden_in(part: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    for attribute, held in vars(part).items():
        if attribute not in _TORCHS_OWN:
            yield from _modules(held, f"{path}.{attribute}" if path else attribute)


def _modules(held: Any, place: str, depth: int = _DEPTH) -> Iterator[tuple[str, nn.Module]]:
    if isinstance(held, nn.Module):
        yield place, held
    elif isinstance(held, dict | list | tuple) and depth:
        for number, (key, item) in enumerate(held.items() if isinstance(held, dict) else enumerate(held)):
            yield from _modules(item, f"{place}.{key if isinstance(key, str | int) else number}", depth - 1)
