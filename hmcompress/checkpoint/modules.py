"""Pickled modules: their parameters and buffers under the names that state_dict would give."""

from collections import OrderedDict
from typing import Any

from hmcompress.checkpoint.lazy import LazyTensor
from hmcompress.checkpoint.limits import MAX_DEPTH, MAX_NAME, Budget
from hmcompress.checkpoint.standins import Converted, LeftBehind, SparseTensor, StandIn
from hmcompress.errors import SourceError

_MARKS = ("_parameters", "_buffers", "_modules")


def module_slots(value: Any) -> dict[str, Any] | None:
    """The attributes of a stand-in for an nn.Module, None for anything else."""
    attributes = value.attributes() if isinstance(value, StandIn) and value.states else None
    if attributes is None or not all(isinstance(attributes.get(mark), dict) for mark in _MARKS):
        return None
    return attributes


def module_state(module: StandIn, budget: Budget) -> tuple[OrderedDict[str, Any], list[tuple[str, str]]]:
    """The state dict of a pickled nn.Module, and (name, why) of each tensor that is not part of it."""
    state: OrderedDict[str, Any] = OrderedDict()
    skipped: list[tuple[str, str]] = []
    _collect(module, "", 0, state, skipped, budget)
    return state, skipped


def _collect(module: Any, prefix: str, depth: int, state: dict, skipped: list, budget: Budget) -> None:
    if depth > MAX_DEPTH or len(prefix) > MAX_NAME:
        raise SourceError("its modules are nested too deeply, or contain themselves")
    slots = module_slots(module)
    if slots is None:
        skipped.append((prefix.rstrip("."), f"{_what(module)} where a module was expected"))
        return
    hidden = slots.get("_non_persistent_buffers_set")
    for name, tensor in _named(slots["_parameters"]) + _named(slots["_buffers"]):
        budget.spend(len(prefix))
        if isinstance(hidden, set) and name in hidden and name in slots["_buffers"]:
            skipped.append((prefix + name, "a non-persistent buffer, which is not part of the state dict"))
        elif isinstance(tensor, Converted) and isinstance(tensor.value, LazyTensor):
            state[prefix + name] = tensor.value
            skipped.append((prefix + name, tensor.why))
        elif isinstance(tensor, (LazyTensor, SparseTensor)):
            state[prefix + name] = tensor
        else:
            skipped.append((prefix + name, _what(tensor)))
    for name, child in _named(slots["_modules"]):
        budget.spend(len(prefix))
        _collect(child, f"{prefix}{name}.", depth + 1, state, skipped, budget)


def _named(slots: dict) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in slots.items() if isinstance(name, str) and value is not None]


def _what(value: Any) -> str:
    if isinstance(value, (LeftBehind, Converted)):
        return value.why
    return f"an object of class {value.class_name}" if isinstance(value, StandIn) else f"a {type(value).__name__}"
