"""Archives of torch.package: pickles by name beside code and resources; the code stays behind."""

import pickle
from functools import cache
from typing import Any

from hmcompress.checkpoint.archive import Archive
from hmcompress.checkpoint.assemble import Opened, opened_object
from hmcompress.checkpoint.calls import traced_module
from hmcompress.checkpoint.plain import Notes
from hmcompress.checkpoint.standins import Constructor, LeftBehind
from hmcompress.checkpoint.torchscript import state_in_package
from hmcompress.checkpoint.zip_storages import ZipStorages, unpickle_entry
from hmcompress.errors import SourceError


def is_package(archive: Archive) -> bool:
    """Whether the archive was written by torch.package."""
    return ".data/extern_modules" in archive


def _is_pickle(archive: Archive, name: str) -> bool:
    """By its first byte: a package may give it any name."""
    if name.startswith((".data/", "byteorder")) or name.endswith(".py"):
        return False
    return name.endswith(".pkl") or archive.blob(name).read(0, 1).numpy().tobytes() == pickle.PROTO


def open_torch_package(archive: Archive) -> Opened:
    """All pickled objects of a package: one as it is, several as a dict by their path. Raises SourceError."""
    pickles = [name for name in archive.names if _is_pickle(archive, name)]
    if not pickles:
        raise SourceError("a torch.package without a pickled object: nothing to compress")
    storages, notes = ZipStorages(archive, ".data/{}.storage"), Notes()
    scripted = cache(lambda number: state_in_package(archive, number, notes))

    def persistent_load(key: Any) -> Any:
        if not isinstance(key, tuple) or key[:1] != ("reduce_package",):
            return storages.persistent_load(key)
        match key:
            case (_, _, _, (str(number), *_)) if f".data/ts_code/{number}/data.pkl" in archive:
                return scripted(number)
            case (_, _, Constructor(name="torch.fx.graph_module.reduce_package_graph_module"), (attributes, *_)):
                return traced_module(attributes)
        return LeftBehind("an object of another package inside a torch.package")

    objects, length = {}, 0
    for name in pickles:
        obj, size = unpickle_entry(archive, name, storages, persistent_load)
        objects[name.removesuffix(".pkl")] = obj
        length += size
    notes.add("", "the code and resources of the torch.package; pickled objects and weights of TorchScript are kept")
    root = objects if len(objects) > 1 else next(iter(objects.values()))
    return opened_object("torch.package", root, length, archive.path, notes)
