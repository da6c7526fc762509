"""Archives of torch.export (.pt2): parameters and buffers under their state_dict names; the graph stays behind.

Since torch 2.9 every weight is an entry of its own, described by a table in JSON; before, the state dict is an entry
that torch.save wrote.
"""

import json
import re
from collections import OrderedDict
from typing import Any

import torch

from hmcompress.checkpoint.archive import Archive
from hmcompress.checkpoint.assemble import Opened, opened_object
from hmcompress.checkpoint.lazy import Storage, TypedStorage, view_of
from hmcompress.checkpoint.limits import MAX_TENSORS
from hmcompress.checkpoint.plain import Notes
from hmcompress.checkpoint.standins import LeftBehind
from hmcompress.checkpoint.zip_storages import ZipStorages, is_big_endian, unpickle_entry
from hmcompress.errors import SourceError
from hmcompress.texts import excerpt

_GRAPH = re.compile(r"serialized_exported_program\.json$|^models/|(^|/)aotinductor/")
_WEIGHTS = "data/weights/"
_TABLE = re.compile(r"data/weights/(.+)_weights_config\.json")
_PICKLED = re.compile(r"data/weights/([^/]+)\.pt|serialized_state_dict\.pt")
_CONSTANTS = re.compile(r"data/constants/|serialized_constants\.")
_STRIDED = 7  # of torch's own numbers for layouts
_DTYPES = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16, 7: torch.float32,
    8: torch.float64, 9: torch.complex32, 10: torch.complex64, 11: torch.complex128, 12: torch.bool,
    13: torch.bfloat16, 28: torch.uint16, 29: torch.float8_e4m3fn, 30: torch.float8_e5m2, 31: torch.float8_e4m3fnuz,
    32: torch.float8_e5m2fnuz, 33: torch.float8_e8m0fnu, 34: torch.uint32, 35: torch.uint64,
}  # fmt: skip


def is_exported(archive: Archive) -> bool:
    """Whether the archive was written by torch.export or by the compiler behind it."""
    return any(_GRAPH.search(name) for name in archive.names)


def open_exported(archive: Archive) -> Opened:
    """Parameters and buffers of an exported program; of several a dict by their names. Raises SourceError."""
    programs: dict[str, Any] = {}
    length = 0
    for name in archive.names:
        if table := _TABLE.fullmatch(name):
            programs[table[1]], size = _by_table(archive, name)
        elif pickled := _PICKLED.fullmatch(name):
            programs[pickled[1] or "model"], size = _by_pickle(archive, name)
        else:
            continue
        length += size
    if not programs:
        raise SourceError(
            "is a torch.export archive without weights of its own (compiled, or of a release before 2.3); "
            "save the state_dict of its module with torch.save instead"
        )
    notes = Notes()
    constants = sum(archive.stored_bytes(name) for name in archive.names if _CONSTANTS.match(name))
    amount = f" ({constants / 1e3:.3g} kB)" if constants else ""
    notes.add("", f"the graph of the exported program and its constants{amount}; parameters and buffers are kept")
    root = programs if len(programs) > 1 else next(iter(programs.values()))
    return opened_object("torch.export", root, length, archive.path, notes)


def _by_pickle(archive: Archive, name: str) -> tuple[Any, int]:
    """A state dict that torch.save wrote, and the length of its pickle."""
    inner = Archive(archive.path, archive.blob(name))
    return unpickle_entry(inner, "data.pkl", ZipStorages(inner, big_endian=is_big_endian(inner)))


def _by_table(archive: Archive, name: str) -> tuple[OrderedDict[str, Any], int]:
    """The weights that a table describes, and its length. Tied ones name the same entry."""
    text = archive.read(name)
    try:
        table = json.loads(text)["config"]
    except (ValueError, RecursionError, LookupError, TypeError) as error:
        raise SourceError("damaged: its table of weights cannot be read") from error
    if not isinstance(table, dict) or len(table) > MAX_TENSORS:
        raise SourceError("damaged: its table of weights is none")
    storages: dict[str, Storage] = {}
    return OrderedDict((key, _weight(archive, key, entry, storages)) for key, entry in table.items()), len(text)


def _weight(archive: Archive, name: str, entry: Any, storages: dict[str, Storage]) -> Any:
    match entry:
        case {"path_name": str(path), "use_pickle": True}:
            return _by_pickle(archive, _WEIGHTS + path)[0]
        case {"path_name": str(path), "tensor_meta": {"dtype": int(code), "layout": layout, **view}}:
            if code not in _DTYPES or layout != _STRIDED:
                return LeftBehind("a tensor of a type or layout that is not carried")
            dtype, shape = _DTYPES[code], _numbers(view.get("sizes"))
            offset, stride = _numbers([view.get("storage_offset")])[0], _numbers(view.get("strides"))
            storage = _storage(archive, path, storages)
            if not storage.nbytes and 0 not in shape:
                return LeftBehind("a weight without values in the archive")
            return view_of(TypedStorage(storage, dtype, 0, storage.nbytes), dtype, offset, shape, stride)
    raise SourceError(f"damaged: its table of weights does not describe '{excerpt(name)}'")


def _storage(archive: Archive, path: str, storages: dict[str, Storage]) -> Storage:
    if path not in storages:
        blob = archive.blob(_WEIGHTS + path)
        storages[path] = Storage(blob.nbytes, blob, is_big_endian(archive))
    return storages[path]


def _numbers(values: Any) -> list[int]:
    """Sizes as {"as_int": 4}; those that the program leaves open have no place in a weight. Raises SourceError."""
    listed = values if isinstance(values, list) else [None]
    numbers = [value.get("as_int") if isinstance(value, dict) else None for value in listed]
    if not all(type(number) is int for number in numbers):
        raise SourceError("damaged: its table of weights has sizes that are no numbers")
    return [number for number in numbers if number is not None]
