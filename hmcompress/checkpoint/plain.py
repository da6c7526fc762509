"""From what a pickle built to plain Python values: stand-ins become dicts, lists or None, and a line says so."""

from collections import Counter, OrderedDict, defaultdict, deque
from typing import Any

import numpy as np
import torch

from hmcompress.checkpoint.lazy import LazyTensor, TypedStorage
from hmcompress.checkpoint.limits import MAX_DEPTH, MAX_INLINE_BYTES, Budget
from hmcompress.checkpoint.modules import holds_tensors, module_slots, module_state
from hmcompress.checkpoint.numpy_values import ArrayInPickle, DtypeInPickle
from hmcompress.checkpoint.omegaconf import NOTE, config_content, is_config, is_config_value
from hmcompress.checkpoint.optimizers import with_numbered_state
from hmcompress.checkpoint.sniff import is_file_in_bytes
from hmcompress.checkpoint.standins import (
    Constructor,
    Converted,
    Global,
    LeftBehind,
    NumpyArray,
    QuantizedTensor,
    SparseTensor,
    StandIn,
)
from hmcompress.checkpoint.versions import hang_versions
from hmcompress.errors import SourceError
from hmcompress.texts import excerpt

_AS_THEY_ARE = (
    str, int, float, complex, type(None), slice, range, torch.Size, torch.dtype, torch.device,
    np.generic, LazyTensor, NumpyArray, QuantizedTensor, SparseTensor,
)  # fmt: skip
_LISTED = 3
_ROOT = "(root)"
_MAX_VISITS = 4  # foreign objects often refer to each other in all directions


class Notes:
    """What was left behind, and where; many places with one reason become one line."""

    def __init__(self) -> None:
        self._places: dict[str, list[str]] = {}
        self._counts: Counter[str] = Counter()

    def add(self, place: str, why: str) -> None:
        self._counts[why] += 1
        if self._counts[why] <= _LISTED:
            self._places.setdefault(why, []).append(excerpt(place) or _ROOT)

    def extend(self, other: "Notes", within: str = "") -> None:
        """Take over the notes on something that stands at a place of this object."""
        for why, places in other._places.items():
            for place in places:
                self.add(place if not within else within if place == _ROOT else join(within, place), why)
            self._counts[why] += other._counts[why] - len(places)

    def lines(self) -> tuple[str, ...]:
        """One line for each reason: places, and what was there."""
        lines = []
        for why, places in self._places.items():
            more = self._counts[why] - len(places)
            lines.append(f"{', '.join(places)}{f' and {more} more' if more else ''}: {why}")
        return tuple(lines)


def join(place: str, key: object) -> str:
    """The dotted path of an item of a container at `place`."""
    step = key if isinstance(key, str) else _key_text(key)
    return f"{place}.{step}" if place else step


def _key_text(key: object) -> str:
    if isinstance(key, tuple):
        return f"({', '.join(_key_text(item) for item in key)})"
    if isinstance(key, int) and abs(key) > 1 << 64:
        return hex(key)[:40]  # decimal digits of a huge number take long
    return excerpt(str(key))


class Plainer:
    """One walk over an unpickled object; `notes` fills on the way."""

    def __init__(self, pickle_bytes: int, notes: Notes) -> None:
        self._budget = Budget(pickle_bytes)
        self._looks = Budget(4 * pickle_bytes)  # objects in objects are looked into again
        self._open: set[int] = set()
        self._visits: Counter[int] = Counter()
        self.notes = notes

    def plain(self, value: Any, place: str = "") -> Any:
        """`value` without stand-ins. Raises SourceError where it is nested too deeply or unfolds absurdly."""
        self._budget.spend(len(place))
        if isinstance(value, (bytes, bytearray)):
            return self._bytes(value, place)
        if isinstance(value, _AS_THEY_ARE):
            return value
        if id(value) in self._open:
            return self._left(place, "a reference to the object that contains it")
        if len(self._open) >= MAX_DEPTH:
            raise SourceError(f"its objects are nested deeper than {MAX_DEPTH} levels")
        self._open.add(id(value))
        result = self._opened(value, place)
        self._open.discard(id(value))
        return result

    def _opened(self, value: Any, place: str) -> Any:
        if isinstance(value, dict):
            return self._dict(value, place)
        if isinstance(value, (list, tuple, deque)):
            return self._sequence(value, place)
        if isinstance(value, (set, frozenset)):
            return self._set(value, place)
        if isinstance(value, StandIn):
            return self._stand_in(value, place)
        if isinstance(value, Converted):
            self.notes.add(place, value.why)
            return self.plain(value.value, place)
        if isinstance(value, ArrayInPickle):
            return self.plain(value.content, place)
        return self._left(place, _why_not(value))

    def _left(self, place: str, why: str) -> None:
        self.notes.add(place, why)

    def _bytes(self, value: bytes | bytearray, place: str) -> Any:
        if is_file_in_bytes(value):
            self.notes.add(
                place, "a file in bytes (torch.save, pickle?), which is not opened; save what it holds alone"
            )
        if len(value) > MAX_INLINE_BYTES:
            return self._left(place, f"{len(value) / 1e6:.1f} MB of bytes")
        return value

    def _dict(self, value: dict, place: str) -> dict:
        made: dict = type(value)() if type(value) in (OrderedDict, Counter) else {}
        for key, item in value.items():
            plain_key = _plain_key(key)
            if not _is_plain_key(plain_key) or plain_key in made:
                self.notes.add(place, "an item whose key is an object")
                continue
            if plain_key is not key:
                self.notes.add(join(place, plain_key), "an item whose key is an object, kept under its plain value")
            made[plain_key] = self.plain(item, join(place, plain_key))
        if type(value) is defaultdict:
            self.notes.add(place, "a collections.defaultdict, kept as a dict")
        if isinstance(made, OrderedDict):
            hang_versions(made, vars(value))
        return made

    def _sequence(self, value: list | tuple | deque, place: str) -> list | tuple:
        made = [self.plain(item, join(place, index)) for index, item in enumerate(value)]
        if isinstance(value, deque):
            self.notes.add(place, "a collections.deque, kept as a list")
        return tuple(made) if isinstance(value, tuple) else made

    def _set(self, value: set | frozenset, place: str) -> set | frozenset:
        kept = {item for item in value if _is_plain_key(item)}
        if len(kept) < len(value):
            self.notes.add(place, "items of a set that are objects")
        return frozenset(kept) if isinstance(value, frozenset) else kept

    def _stand_in(self, value: StandIn, place: str) -> Any:
        name = excerpt(value.class_name)
        self._visits[id(value)] += 1
        if module_slots(value) is not None:
            state, skipped = module_state(value, self._budget)
            self.notes.add(place, f"module {name}: its code and settings; its parameters and buffers are kept")
            for inner, why in skipped:
                self.notes.add(join(place, inner), why)
            return self._dict(state, place)
        if is_config(value) or is_config_value(value):
            if is_config(value):
                self.notes.add(place, NOTE)
            return self.plain(config_content(value), place)
        if self._visits[id(value)] > _MAX_VISITS:
            return self._left(place, f"an object of class {name} that is kept elsewhere already")
        content, form = _content(value)
        parts = _parts(value)
        if any(holds_tensors(part, self._looks) for part in list(parts.values())[1:]):
            content, form = parts, f"a dict of its {' and '.join(parts)}"
        if form is None:
            return self._left(place, f"an object of class {name}")
        self.notes.add(place, f"an object of class {name}, kept as {form}")
        return self.plain(content, place)


def _content(value: StandIn) -> tuple[Any, str | None]:
    """What a foreign object holds as a plain value, and the name of that form."""
    attributes = value.attributes()
    if value.entries:
        return value.entries, "a dict"
    if value.items:
        return value.items, "a list"
    if attributes and (numbered := with_numbered_state(attributes)) is not None:
        return numbered, "a dict of its attributes, the state of each parameter under its number"
    if attributes:
        return attributes, "a dict of its attributes"
    if attributes is None:
        return value.states[-1], "its plain state"
    values = _values(value)
    if len(values) == 1:
        return values[0], "its plain value"
    return (tuple(values), "a tuple of its values") if values else (None, None)


def _values(value: StandIn) -> list[Any]:
    return [a for a in value.arguments if not isinstance(a, (Global, Constructor))]


def _parts(value: StandIn) -> dict[str, Any]:
    """All that a foreign object holds, by what it is; the usual form of one is the first of them alone."""
    state = value.states[-1] if value.attributes() is None else None
    parts = {
        "entries": value.entries,
        "items": value.items,
        "attributes": value.attributes(),
        "state": state,
        "values": _values(value),
    }
    return {name: part for name, part in parts.items() if part}


def _plain_key(key: Any) -> Any:
    """Classes as their names, numbers of numpy and members of enums as their values; other keys as they are."""
    if isinstance(key, (Global, Constructor)):
        return str(key)
    if isinstance(key, np.generic):
        return key.item()
    if isinstance(key, Converted):
        return key.value
    if isinstance(key, StandIn):
        return config_content(key) if is_config_value(key) else _content(key)[0]
    return key


def _is_plain_key(key: object) -> bool:
    if isinstance(key, tuple):
        return all(_is_plain_key(item) for item in key)
    return isinstance(key, (str, int, float, complex, bytes, type(None), torch.dtype, torch.device))


def _why_not(value: Any) -> str:
    if isinstance(value, LeftBehind):
        return value.why
    if isinstance(value, (Global, Constructor)):
        return f"the class or function {excerpt(str(value))}"
    if isinstance(value, TypedStorage):
        return "a bare storage"
    if isinstance(value, DtypeInPickle):
        return f"the numpy dtype {value}"
    return f"a {type(value).__name__}"
