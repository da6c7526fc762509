"""TorchScript archives: weights of a scripted or traced module under their state_dict names; its code stays behind."""

from collections import OrderedDict
from typing import Any

from hmcompress.checkpoint.archive import Archive
from hmcompress.checkpoint.assemble import Opened, opened_object
from hmcompress.checkpoint.limits import Budget
from hmcompress.checkpoint.plain import Notes
from hmcompress.checkpoint.script_module import ScriptModule
from hmcompress.checkpoint.zip_storages import ZipStorages, is_big_endian, unpickle_entry
from hmcompress.errors import SourceError

_CONSTANTS = "constants/"


def open_torchscript(archive: Archive) -> Opened:
    """Parameters and buffers of a TorchScript module. Raises SourceError."""
    storages = ZipStorages(archive, big_endian=is_big_endian(archive))
    module, length = unpickle_entry(archive, "data.pkl", storages)
    notes = Notes()
    constants = sum(archive.stored_bytes(name) for name in archive.names if name.startswith(_CONSTANTS))
    amount = f" ({constants / 1e3:.3g} kB of tensors)" if constants else ""
    notes.add("", f"the TorchScript code and its constants{amount}; parameters and buffers are kept")
    reader = ScriptModule(archive, Budget(length), notes.add)
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
    reader = ScriptModule(archive, Budget(length), notes.add, ".data/ts_code/code/")
    reader.collect(module, "", 0)
    return reader.state
