"""Archives of torch.package: pickles by name beside code and resources; the code stays behind."""

from typing import Any

from hmcompress.checkpoint.archive import Archive
from hmcompress.checkpoint.assemble import Opened, opened_object
from hmcompress.checkpoint.plain import Notes
from hmcompress.checkpoint.pytorch_zip import ZipStorages, unpickle_entry
from hmcompress.checkpoint.standins import LeftBehind
from hmcompress.errors import SourceError


def is_package(archive: Archive) -> bool:
    """Whether the archive was written by torch.package."""
    return ".data/extern_modules" in archive


def open_torch_package(archive: Archive) -> Opened:
    """All pickled objects of a package: one as it is, several as a dict by their path. Raises SourceError."""
    pickles = [name for name in archive.names if name.endswith(".pkl") and not name.startswith(".data/")]
    if not pickles:
        raise SourceError("a torch.package without a pickled object: nothing to compress")
    storages = ZipStorages(archive, ".data/{}.storage")

    def persistent_load(key: Any) -> Any:
        if isinstance(key, tuple) and key[:1] == ("reduce_package",):
            return LeftBehind("a TorchScript module inside a torch.package")
        return storages.persistent_load(key)

    objects, length = {}, 0
    for name in pickles:
        obj, size = unpickle_entry(archive, name, storages, persistent_load)
        objects[name.removesuffix(".pkl")] = obj
        length += size
    notes = Notes()
    notes.add("", "the code and resources of the torch.package; pickled objects are kept")
    root = objects if len(objects) > 1 else next(iter(objects.values()))
    return opened_object("torch.package", root, length, archive.path, notes)
