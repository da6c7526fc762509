"""TorchScript archives: weights of a scripted or traced module under their state_dict names; its code stays behind."""

import re
from collections import OrderedDict
from typing import Any

from hmcompress.checkpoint.archive import Archive
from hmcompress.checkpoint.assemble import Opened, opened_object
from hmcompress.checkpoint.lazy import LazyTensor
from hmcompress.checkpoint.limits import MAX_DEPTH, MAX_NAME, Budget
from hmcompress.checkpoint.plain import Notes
from hmcompress.checkpoint.pytorch_zip import ZipStorages, is_big_endian, unpickle_entry
from hmcompress.checkpoint.standins import LeftBehind, StandIn
from hmcompress.errors import SourceError

_CLASS = re.compile(r"^class (\w+)\(Module\):\n((?:  .*\n)*)", re.MULTILINE)
_SLOTS = re.compile(r"^  __(parameters|buffers)__ = \[(.*)\]", re.MULTILINE)
_CONSTANTS = "constants/"
_NAME = re.compile(r'"([^"]*)"')


def is_torchscript(archive: Archive) -> bool:
    """Whether the archive was written by torch.jit.save."""
    return "data.pkl" in archive and "constants.pkl" in archive


def open_torchscript(archive: Archive) -> Opened:
    """Parameters and buffers of a TorchScript module. Raises SourceError."""
    storages = ZipStorages(archive, big_endian=is_big_endian(archive))
    module, length = unpickle_entry(archive, "data.pkl", storages)
    notes = Notes()
    constants = sum(archive.stored_bytes(name) for name in archive.names if name.startswith(_CONSTANTS))
    amount = f" ({constants / 1e3:.3g} kB of tensors)" if constants else ""
    notes.add("", f"the TorchScript code and its constants{amount}; parameters and buffers are kept")
    reader = _ScriptModule(archive, Budget(length), notes)
    reader.collect(module, "", 0)
    if not reader.state and constants:
        raise SourceError(
            f"holds no parameters: frozen TorchScript has its weights in its code{amount}; "
            "name the module saved before torch.jit.freeze"
        )
    return opened_object("TorchScript", reader.state, length, archive.path, notes)


def state_in_package(archive: Archive, number: str, notes: Notes) -> OrderedDict[str, Any]:
    """The state dict of a TorchScript module inside a torch.package, which numbers them. Raises SourceError."""
    module, length = unpickle_entry(archive, f".data/ts_code/{number}/data.pkl", ZipStorages(archive, ".data/{}"))
    reader = _ScriptModule(archive, Budget(length), notes, ".data/ts_code/code/")
    reader.collect(module, "", 0)
    return reader.state


class _ScriptModule:
    """Walks the module tree; the class texts in the folder `code` say which attributes are parameters and buffers."""

    def __init__(self, archive: Archive, budget: Budget, notes: Notes, code: str = "code/") -> None:
        self._archive, self._budget, self._notes, self._code = archive, budget, notes, code
        self._slots: dict[str, list[str] | None] = {}
        self.state: OrderedDict[str, Any] = OrderedDict()

    def collect(self, module: Any, prefix: str, depth: int) -> None:
        """Add the state of a module and its children, as state_dict orders it: own tensors, then submodules."""
        if depth > MAX_DEPTH or len(prefix) > MAX_NAME:
            raise SourceError("its modules are nested too deeply, or contain themselves")
        attributes = module.attributes() if isinstance(module, StandIn) else None
        if attributes is None:
            self._notes.add(prefix.rstrip("."), "a TorchScript object with a state of its own")
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
            if isinstance(attributes.get(name), LazyTensor):
                self.state[prefix + name] = attributes[name]
        for name, value in attributes.items():
            if isinstance(value, LeftBehind):
                self._notes.add(prefix + name, value.why)
            elif isinstance(value, LazyTensor) and prefix + name not in self.state:
                self._notes.add(prefix + name, "a tensor attribute, which is not part of the state dict")

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
