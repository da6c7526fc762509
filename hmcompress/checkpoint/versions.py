"""Versions of modules, which `state_dict()` hangs on what it returns as `_metadata`: some loaders ask for them.

MNASNet of torchvision refuses a state dict without, quantised layers of torch take it for one of an old release.
"""

from collections import OrderedDict
from typing import Any

_ATTRIBUTE = "_metadata"
_PLAIN = (str, int, float, bool, type(None))
_FIRST = {"version": 1}  # every module has it: to loaders the same as none
_BATCH_NORM = {"version": 2}  # asks for it only where the count of batches is missing


def versions_of(state: Any) -> dict[str, dict[str, Any]]:
    """What hangs on a state dict, by the name of the module; empty where nothing does."""
    return getattr(state, _ATTRIBUTE, {})


def hang_versions(state: OrderedDict, attributes: Any) -> None:
    """Hang on a state dict what its attributes say of modules' versions, where these are plain values."""
    versions = attributes.get(_ATTRIBUTE) if isinstance(attributes, dict) else None
    if isinstance(versions, dict):
        kept = {name: entry for name, entry in versions.items() if isinstance(name, str) and _is_plain(entry)}
        if kept:
            setattr(state, _ATTRIBUTE, OrderedDict(kept))


def told_versions(state: OrderedDict) -> dict[str, dict[str, Any]]:
    """Those versions that a loader can tell from none, by the name of the module."""
    return {name: entry for name, entry in versions_of(state).items() if not _is_usual(name, entry, state)}


def _is_usual(name: str, entry: dict, state: OrderedDict) -> bool:
    counted = f"{name}.num_batches_tracked" if name else "num_batches_tracked"
    return not entry or entry == _FIRST or (entry == _BATCH_NORM and counted in state)


def _is_plain(entry: Any) -> bool:
    """Whether an entry is a dict of numbers and texts, or of dicts of these (what spectral norm tells)."""
    if not isinstance(entry, dict) or not all(isinstance(key, str) for key in entry):
        return False
    inner = [item for value in entry.values() for item in (value.values() if type(value) is dict else (value,))]
    names = [key for value in entry.values() if type(value) is dict for key in value]
    return all(type(item) in _PLAIN for item in inner) and all(isinstance(name, str) for name in names)
