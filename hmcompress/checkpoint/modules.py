"""Pickled modules: their parameters and buffers under the names that state_dict would give."""

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from hmcompress.checkpoint.lazy import LazyTensor
from hmcompress.checkpoint.limits import MAX_DEPTH, MAX_NAME, Budget
from hmcompress.checkpoint.numpy_values import ArrayInPickle
from hmcompress.checkpoint.pickles import pickled_in_bytes
from hmcompress.checkpoint.script_module import state_in_bytes
from hmcompress.checkpoint.sniff import ZIP, is_file_in_bytes
from hmcompress.checkpoint.standins import (
    Converted,
    LeftBehind,
    NumpyArray,
    QuantizedTensor,
    SparseTensor,
    StandIn,
)
from hmcompress.errors import SourceError

_MARKS = ("_parameters", "_buffers", "_modules")
_TENSORS = (LazyTensor, QuantizedTensor, SparseTensor, dict)  # a dict: made of parts
_CODEGEN = "__codegen__"  # of e3nn (MACE, NequIP): children made of generated code, as TorchScript or pickles
_HIDDEN = "a module in a plain attribute or container, in no state dict; its parameters and buffers are kept as named"
_LOOSE_DEPTH = 5  # containers and objects of an attribute that are looked into for tensors


def module_slots(value: Any) -> dict[str, Any] | None:
    """The attributes of a stand-in for an nn.Module, None for anything else."""
    attributes = value.attributes() if isinstance(value, StandIn) and value.states else None
    if attributes is None or not all(isinstance(attributes.get(mark), dict) for mark in _MARKS):
        return None
    return attributes


def module_state(module: StandIn, budget: Budget) -> tuple[OrderedDict[str, Any], list[tuple[str, str]]]:
    """The state dict of a pickled nn.Module, not plain yet, and (name, why) of each tensor that is not part of it."""
    walk = _Walk(budget)
    walk.collect(module, "", 0)
    walk.collect_hidden()
    return walk.state, walk.skipped + walk.loose()


class _Walk:
    """One walk over a module and its children."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._seen: set[int] = set()  # modules, and objects in their attributes, which they often share
        self._loose: dict[tuple[str, str], Any] = {}
        self._hidden: list[tuple[str, StandIn]] = []  # modules in plain containers, which torch does not know of
        self.state: OrderedDict[str, Any] = OrderedDict()
        self.skipped: list[tuple[str, str]] = []

    def collect(self, module: Any, prefix: str, depth: int) -> None:
        """Add a module's own tensors, then those of its children, as state_dict orders them."""
        if depth > MAX_DEPTH or len(prefix) > MAX_NAME:
            raise SourceError("its modules are nested too deeply, or contain themselves")
        slots = module_slots(module)
        if slots is None:
            self.skipped.append((prefix.rstrip("."), f"{_what(module)} where a module was expected"))
            return
        self._own(slots, prefix)
        if id(module) not in self._seen:
            self._seen.add(id(module))
            self._attributes(slots, prefix)
        for name, child in _named(slots["_modules"]):
            self._budget.spend(len(prefix))
            self.collect(child, f"{prefix}{name}.", depth + 1)
        for name, data in _compiled(slots).items():
            self._generated(data, f"{prefix}{name}.", depth + 1)

    def collect_hidden(self) -> None:
        """Add the modules that attributes alone hold: no state_dict has them, but the file has their weights."""
        for place, module in self._hidden:  # which grows on the way
            self._budget.spend(len(place))
            before = len(self.state)
            if id(module) not in self._seen:
                self.collect(module, f"{place}.", 0)
            if len(self.state) > before:
                self._skip(place, _HIDDEN)

    def _generated(self, data: bytes, prefix: str, depth: int) -> None:
        """Add the tensors of a child that was pickled in bytes: as an archive of TorchScript, or itself (torch.fx)."""
        if data.startswith(ZIP):
            return self._script(data, prefix)
        try:
            child = pickled_in_bytes(data, self._budget)
        except SourceError as error:
            self._skip(prefix.rstrip("."), f"a module in bytes, which cannot be read ({error})")
        else:
            self.collect(child, prefix, depth)

    def _script(self, data: bytes, prefix: str) -> None:
        try:
            state = state_in_bytes(data, self._budget, lambda place, why: self._skip(prefix + place, why))
        except SourceError as error:
            self._skip(prefix.rstrip("."), f"TorchScript in bytes, which cannot be read ({error})")
        else:
            self.state.update({prefix + name: tensor for name, tensor in state.items()})

    def _own(self, slots: dict[str, Any], prefix: str) -> None:
        hidden = slots.get("_non_persistent_buffers_set")
        for name, tensor in _named(slots["_parameters"]) + _named(slots["_buffers"]):
            self._budget.spend(len(prefix))
            if isinstance(hidden, set) and name in hidden and name in slots["_buffers"]:
                self._skip(prefix + name, "a non-persistent buffer, which is not part of the state dict")
            elif prefix + name in self.state:
                self._skip(prefix + name, "another tensor of the same name")
            elif isinstance(_unwrapped(tensor), _TENSORS):
                self.state[prefix + name] = tensor
            else:
                self._skip(prefix + name, _what(tensor))

    def loose(self) -> list[tuple[str, str]]:
        """(name, why) of each tensor among the attributes that is not one of the state's in another place."""
        kept = {_identity(_unwrapped(tensor)) for tensor in self.state.values()}
        return [key for key, value in self._loose.items() if _identity(value) not in kept]

    def _attributes(self, slots: dict[str, Any], prefix: str) -> None:
        opened = (*_MARKS, _CODEGEN) if _compiled(slots) else _MARKS
        for name, value in slots.items():
            self._budget.spend()
            if name not in opened:
                self._attribute(value, f"{prefix}{name}")

    def _attribute(self, value: Any, place: str, keys: tuple = ()) -> None:
        """Say which tensors lie in an attribute: no part of the state dict, but part of what was saved."""
        if why := _loose(value):
            self._loose[place, why] = value
        elif module_slots(value) is not None:
            self._hidden.append((".".join([place, *map(str, keys)]), value))
        elif len(keys) < _LOOSE_DEPTH and id(value) not in self._seen:
            self._seen.add(id(value))
            for number, (key, item) in enumerate(_inside(value)):
                self._attribute(item, place, (*keys, key if isinstance(key, (str, int)) else number))

    def _skip(self, place: str, why: str) -> None:
        self.skipped.append((place, why))


def _compiled(slots: dict[str, Any]) -> dict[str, bytes]:
    """Children that e3nn takes out of `_modules` when it pickles a module, by name; empty where there are none.

    Since its release 0.5.2 it says of each what it is: ("torchscript" or "fx", bytes).
    """
    children = slots.get(_CODEGEN)
    if not isinstance(children, dict) or not all(isinstance(name, str) for name in children):
        return {}
    found = {name: data[1] if _is_told(data) else data for name, data in children.items()}
    return found if all(isinstance(data, bytes) and is_file_in_bytes(data) for data in found.values()) else {}


def _is_told(data: Any) -> bool:
    return isinstance(data, tuple) and len(data) == 2 and isinstance(data[0], str)


def _unwrapped(value: Any) -> Any:
    return value.value if isinstance(value, Converted) else value


def _identity(value: Any) -> object:
    """Equal for tensors over the same values."""
    if isinstance(value, LazyTensor):
        return id(value.storage), value.first_byte, value.shape, value.stride
    return id(value)


def _loose(value: Any) -> str | None:
    """What an attribute that is a tensor or an array is, None for anything else."""
    if isinstance(value, LeftBehind) and "tensor" in value.why:
        return value.why
    if isinstance(value, ArrayInPickle) and isinstance(value.content, NumpyArray):
        return "a numpy array among the attributes of a module, which is not part of its state dict"
    if isinstance(value, QuantizedTensor) or (isinstance(value, Converted) and isinstance(value.value, dict)):
        return "a quantized tensor, or one made of parts, among the attributes of a module"
    if isinstance(value, (bytes, bytearray)) and is_file_in_bytes(value):
        return "a file in bytes (torch.save, pickle?) among the attributes of a module, which is not opened"
    if isinstance(_unwrapped(value), (LazyTensor, SparseTensor)):
        return "a tensor among the attributes of a module, which is not part of its state dict"
    return None


def holds_tensors(value: Any, budget: Budget) -> bool:
    """Whether there is a tensor or a module in a container or foreign object, a few levels deep."""
    seen: set[int] = set()
    level = {id(value): value}
    for _ in range(_LOOSE_DEPTH):
        if any(_loose(item) or module_slots(item) is not None for item in level.values()):
            return True
        seen.update(level)
        level = {id(item): item for item in _all_inside(level.values(), budget) if id(item) not in seen}
    return False


def _all_inside(values: Iterable[Any], budget: Budget) -> Iterator[Any]:
    for value in values:
        for _, item in _inside(value):
            budget.spend()
            yield item


def _inside(value: Any) -> Iterable[tuple[Any, Any]]:
    """The items of a container, or what a foreign object was made of, with their keys, numbers or names."""
    if isinstance(value, StandIn):
        attributes = value.attributes()
        states = attributes.items() if attributes else enumerate(value.states)
        return chain(enumerate(value.arguments), states, enumerate(value.items), value.entries.items())
    if isinstance(value, dict):
        return value.items()
    return enumerate(value) if isinstance(value, (list, tuple, deque)) else ()


def _named(slots: dict) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in slots.items() if isinstance(name, str) and value is not None]


def _what(value: Any) -> str:
    if isinstance(value, (LeftBehind, Converted)):
        return value.why
    return f"an object of class {value.class_name}" if isinstance(value, StandIn) else f"a {type(value).__name__}"
