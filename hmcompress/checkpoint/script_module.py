"""Modules of TorchScript: parameters and buffers under the names that state_dict would give."""

import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hmcompress.checkpoint.archive import Archive
from hmcompress.checkpoint.blobs import MemoryBlob
from hmcompress.checkpoint.lazy import LazyTensor
from hmcompress.checkpoint.limits import MAX_DEPTH, MAX_NAME, Budget
from hmcompress.checkpoint.standins import LeftBehind, QuantizedTensor, SparseTensor, StandIn
from hmcompress.checkpoint.zip_storages import ZipStorages, is_big_endian, unpickle_entry
from hmcompress.errors import SourceError

_CLASS = re.compile(r"^class (\w+)\(Module\):\n((?:  .*\n)*)", re.MULTILINE)
_SLOTS = re.compile(r"^  __(parameters|buffers)__ = \[(.*)\]", re.MULTILINE)
_NAME = re.compile(r'"([^"]*)"')
_TENSORS = (LazyTensor, QuantizedTensor, SparseTensor)
_LOOSE_DEPTH = 5  # containers of an attribute that are looked into for tensors


def is_torchscript(archive: Archive) -> bool:
    """Whether the archive was written by torch.jit.save."""
    return "data.pkl" in archive and "constants.pkl" in archive


def state_in_bytes(data: bytes, budget: Budget, note: Callable[[str, str], None]) -> OrderedDict[str, Any]:
    """The state dict of a module of torch.jit.save that lies in a pickle as bytes. Raises SourceError."""
    budget.spend(len(data))  # as often as they are named
    archive = Archive(Path(), MemoryBlob(data))
    if not is_torchscript(archive):
        raise SourceError("is no TorchScript archive")
    module, _ = unpickle_entry(archive, "data.pkl", ZipStorages(archive, big_endian=is_big_endian(archive)))
    reader = ScriptModule(archive, budget, note)
    reader.collect(module, "", 0)
    return reader.state


class ScriptModule:
    """Walks the module tree; the class texts in the folder `code` say which attributes are parameters and buffers."""

    def __init__(self, archive: Archive, budget: Budget, note: Callable[[str, str], None], code: str = "code/") -> None:
        self._archive, self._budget, self._note, self._code = archive, budget, note, code
        self._slots: dict[str, list[str] | None] = {}
        self.state: OrderedDict[str, Any] = OrderedDict()

    def collect(self, module: Any, prefix: str, depth: int) -> None:
        """Add the state of a module and its children, as state_dict orders it: own tensors, then submodules."""
        if depth > MAX_DEPTH or len(prefix) > MAX_NAME:
            raise SourceError("its modules are nested too deeply, or contain themselves")
        attributes = module.attributes() if isinstance(module, StandIn) else None
        if attributes is None:
            self._note(prefix.rstrip("."), "a TorchScript object with a state of its own")
            return
        named = {name: value for name, value in attributes.items() if isinstance(name, str)}
        self._own(module.class_name, named, prefix)
        for name, value in named.items():
            self._budget.spend(len(prefix))
            if isinstance(value, StandIn):
                self.collect(value, f"{prefix}{name}.", depth + 1)

    def _own(self, class_name: str, attributes: dict[str, Any], prefix: str) -> None:
        slots = self._state_slots(class_name)
        for name in attributes if slots is None else slots:
            if isinstance(attributes.get(name), _TENSORS):
                self.state[prefix + name] = attributes[name]
        for name, value in attributes.items():
            if isinstance(value, LeftBehind):
                self._note(prefix + name, value.why)
            elif isinstance(value, _TENSORS) and prefix + name not in self.state:
                self._note(prefix + name, "a tensor attribute, which is not part of the state dict")
            elif isinstance(value, (dict, list, tuple)) and self._holds_tensors(value):
                self._note(prefix + name, "tensors in a container, which are not part of the state dict")

    def _holds_tensors(self, value: Any, depth: int = 0) -> bool:
        self._budget.spend()
        if isinstance(value, StandIn):
            value = value.attributes()
        items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
        deeper = depth < _LOOSE_DEPTH and any(self._holds_tensors(item, depth + 1) for item in items)
        return deeper or isinstance(value, (*_TENSORS, LeftBehind))

    def _state_slots(self, class_name: str) -> list[str] | None:
        """Parameters, then buffers of a class; None where its text is not in the archive."""
        if class_name not in self._slots:
            self._slots[class_name] = self._parse(class_name)
        return self._slots[class_name]

    def _parse(self, class_name: str) -> list[str] | None:
        module, _, name = class_name.rpartition(".")
        file = f"{self._code}{module.replace('.', '/')}.py"
        if file not in self._archive:
            return None
        text = self._archive.read(file).decode("utf-8", "replace")
        for found in _CLASS.finditer(text):
            if found[1] == name:
                slots = dict(_SLOTS.findall(found[2]))
                return [n for kind in ("parameters", "buffers") for n in _NAME.findall(slots.get(kind, ""))]
        return None
