"""Files that would run code when unpickled: opened or refused, nothing is ever executed or imported."""

import copyreg
import io
import os
import pickle
import struct
import sys
import zipfile
from functools import partial

import numpy as np
import pytest
import torch
from checkpoint_files import tensors_of

from hmcompress.checkpoint import open_checkpoint
from hmcompress.checkpoint.pickles import MAGIC
from hmcompress.errors import SourceError


class Call:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduced


def short(text):
    return pickle.SHORT_BINUNICODE + bytes([len(text)]) + text.encode()


def named(module, name):
    return f"c{module}\n{name}\n".encode()


def command_of(marker):
    return f"touch {marker}"


def code_of(marker):
    return f"open({str(marker)!r}, 'w').close()"


# Bodies of pickles, without PROTO and STOP, that leave one object on the stack.
def raw_bodies(marker):
    command, code = short(command_of(marker)), short(code_of(marker))
    system = named("posix", "system")
    return {
        "reduce": system + command + b"\x85R",
        "newobj": system + command + b"\x85\x81",
        "newobj_ex": system + command + b"\x85}\x92",
        "inst": b"(" + command + b"iposix\nsystem\n",
        "obj": b"(" + system + command + b"o",
        "stack_global": short("posix") + short("system") + b"\x93" + command + b"\x85R",
        "eval": named("builtins", "eval") + code + b"\x85R",
        "exec_python2": named("__builtin__", "exec") + code + b"\x85R",
        "dotted": short("os") + short("system.__call__") + b"\x93" + command + b"\x85R",
        "build_setstate": named("posix", "system") + b"}" + short("__setstate__") + system + b"sb" + command + b"b",
        "build_on_global": system + b"}" + short("__call__") + system + b"sb" + command + b"\x85R",
        "build_slots": named("torch._utils", "_rebuild_tensor_v2")
        + b"N}" + short("__defaults__") + command + b"\x85s\x86b",
        "build_on_tensor_class": named("torch", "Tensor") + b")\x81}" + short("__class__") + system + b"sb",
        "getattr": named("builtins", "getattr") + named("builtins", "__import__") + short("os") + b"\x85R"
        + short("system") + b"\x86R" + command + b"\x85R",
        "import": named("builtins", "__import__") + short("marker_module") + b"\x85R",
        "global_import": named("marker_module", "anything"),
        "map": named("builtins", "list") + named("builtins", "map") + system + b"(" + command + b"l\x86R\x85R",
        "attrgetter": named("operator", "methodcaller") + short("system") + command + b"\x86R"
        + named("marker_module", "x") + b"\x85R",
        "ext1": b"\x82\xf1" + command + b"\x85R",
        "ext2": b"\x83\xf1\x00" + command + b"\x85R",
        "ext4": b"\x84\xf1\x00\x00\x00" + command + b"\x85R",
        "setitem_on_global": system + b"(" + command + command + b"u",
        "append_on_global": system + command + b"a",
        "setattr": named("builtins", "setattr") + named("torch", "load") + short("x") + command + b"\x87R",
        "persid": b"(" + command + b"tQ",
        "module_persid": b"(" + short("module") + system + short("x.py") + code + b"tQ" + command + b"\x85R",
        "reduce_package": b"(" + short("reduce_package") + system + command + b"\x85tQ",
    }  # fmt: skip


def objects(marker):
    command, code = command_of(marker), code_of(marker)
    call = Call(os.system, command)
    inner = pickle.dumps(call)
    return {
        "value": {"w": torch.ones(2), "x": call},
        "key": {"w": torch.ones(2), call: 1},
        "in_set": {"w": torch.ones(2), "s": {call}},
        "nested": {"state_dict": {"w": torch.ones(2)}, "a": [({"b": (call,)},)]},
        "state": {"w": torch.ones(2), "x": Call(dict, state={"a": call})},
        "partial": {"w": torch.ones(2), "x": Call(partial(os.system, command))},
        "exec": {"w": torch.ones(2), "x": Call(exec, code)},
        "default_factory": {"w": torch.ones(2), "x": Call(__import__("collections").defaultdict, Call(eval, code))},
        "pickle_in_pickle": {"w": torch.ones(2), "x": Call(pickle.loads, inner)},
        "load_from_bytes": {"w": torch.ones(2), "x": Call(torch.storage._load_from_bytes, inner)},
        "torch_load": {"w": torch.ones(2), "x": Call(torch.load, Call(io.BytesIO, inner))},
        "numpy_object": {"w": torch.ones(2), "x": np.array([call, call], dtype=object)},
        "from_type": {"w": Call(torch._tensor._rebuild_from_type_v2, os.system, str, (command,), {})},
        "wrapper": {"w": Call(torch._utils._rebuild_wrapper_subclass, call, call)},
        "parameter": {"w": Call(torch._utils._rebuild_parameter, call, True, call)},
        "ordered": Call(__import__("collections").OrderedDict, call),
    }


class MarkerTensor(torch.nn.Module):
    pass


def write_zip(path, data, extra=()):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/data/0", struct.pack("<2f", 1, 2))
        archive.writestr("archive/version", "3")
        for name in extra:
            archive.writestr(f"archive/{name}", data)


def write_legacy(path, bodies):
    path.write_bytes(b"".join(b"\x80\x02" + body + b"." for body in bodies))


def as_opcode(value):
    return pickle.dumps(value, 2)[2:-1]


CONTAINERS = ["zip", "legacy", "legacy_system", "legacy_keys", "legacy_magic", "plain", "torchscript", "package"]


def write(container, path, body):
    data = b"\x80\x04" + body + b"."
    legacy = [as_opcode(MAGIC), as_opcode(1001), as_opcode({"little_endian": True}), body, as_opcode([])]
    if container == "zip":
        write_zip(path, data)
    elif container == "torchscript":
        write_zip(path, data, ["constants.pkl"])
    elif container == "package":
        write_zip(path, data, [".data/extern_modules"])
    elif container == "plain":
        path.write_bytes(data)
    else:
        position = {"legacy": 3, "legacy_system": 2, "legacy_keys": 4, "legacy_magic": 0}[container]
        legacy[position] = body
        write_legacy(path, legacy)


@pytest.fixture
def marker(tmp_path, monkeypatch):
    """The file that malicious code would create, by a command or when a module is imported."""
    path = tmp_path / "executed"
    package = tmp_path / "package"
    package.mkdir()
    (package / "marker_module.py").write_text(code_of(path))
    monkeypatch.syspath_prepend(str(package))
    return path


def open_and_load(path):
    try:
        tensors_of(open_checkpoint(path))
    except SourceError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("container", CONTAINERS)
def test_hand_written_pickles_execute_nothing(tmp_path, marker, container):
    copyreg.add_extension("posix", "system", 0xF1)
    try:
        for name, body in raw_bodies(marker).items():
            path = tmp_path / f"{name}.pt"
            write(container, path, body)
            open_and_load(path)
            write(container, path, b"}" + short("x") + body + b"s")
            open_and_load(path)
            assert not marker.exists(), name
    finally:
        copyreg.remove_extension("posix", "system", 0xF1)
    assert "marker_module" not in sys.modules


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", [2, 5])
def test_malicious_objects_execute_nothing(tmp_path, marker, zipped, protocol):
    for name, saved in objects(marker).items():
        path = tmp_path / f"{name}.pt"
        torch.save(saved, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
        open_and_load(path)
        assert not marker.exists(), name


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
def test_malicious_plain_pickles_execute_nothing(tmp_path, marker, protocol):
    for name, saved in objects(marker).items():
        path = tmp_path / f"{name}.pt"
        path.write_bytes(pickle.dumps(saved, protocol=protocol))
        open_and_load(path)
        assert not marker.exists(), name


def test_the_payloads_are_live(tmp_path, marker):
    """The same pickle executes under Python's own unpickler: the tests above are not vacuous."""
    pickle.loads(b"\x80\x04" + raw_bodies(marker)["reduce"] + b".")
    assert marker.exists()


def test_a_malicious_value_beside_weights_is_named_and_weights_are_read(tmp_path, marker):
    path = tmp_path / "model.pt"
    torch.save({"w": torch.ones(2), "x": Call(os.system, command_of(marker))}, path)
    checkpoint = open_checkpoint(path)
    assert checkpoint.names == ("w",)
    assert checkpoint.left_behind == ("x: an object of class posix.system, kept as its plain value",)
    assert not marker.exists()
