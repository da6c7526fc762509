"""What a user reads who names the wrong file: one line that says what it is and what to do."""

import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from functools import partial

import numpy as np
import pytest
import torch
from checkpoint_files import restored, small_state
from safetensors.torch import save_file

from hmcompress.checkpoint import open_checkpoint
from hmcompress.errors import SourceError


def message(path):
    with pytest.raises(SourceError) as caught:
        open_checkpoint(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ".replace("\0", "\\x00"))
    assert "\n" not in text
    assert len(text) < 400 + len(str(path))
    return text.partition(": ")[2]


def test_a_wrong_path_suggests_the_right_one(tmp_path):
    torch.save(small_state(), tmp_path / "model.pt")
    assert message(tmp_path / "modle.pt") == "no such file; did you mean model.pt?"
    assert message(tmp_path / "zzzzzzzz") == "no such file"
    assert "there is no folder" in message(tmp_path / "nowhere" / "model.pt")
    assert "no such file" in message(tmp_path / "model.pt" / "x")
    assert "null character" in message("a\0b")


def test_what_is_no_path_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message("https:/host/model.pt") == "no such file: download it first, an address is not read"
    assert message("-") == "no such file: standard input is not read, save the model to a file first"
    torch.save(small_state(), tmp_path / "model.pt")
    with pytest.raises(SourceError, match="the name of the model is empty"):  # and the folder is not taken in its place
        open_checkpoint("")


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"", "empty file"),
        (b"hello world\n", "text file, not a saved model (it begins 'hello world')"),
        (b"import torch\n\nprint('x')\n", "text file"),
        ("Gr\u00fc\u00dfe aus M\u00fcnchen\n".encode(), "text file"),
        (b"a,b,c\n1,2,3\n", "text file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9\n", "git lfs pull"),
        (b"<!DOCTYPE html>\n<html><body>404</body></html>", "web page"),
        (b"\n  <html lang='en'>", "web page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "web page"),
        (b"\xef\xbb\xbf<!doctype html>", "web page"),
        (b"<!-- moved --><html>", "web page"),
        (b'{"error": "Repository not found"}', 'no index of shards (it begins \'{"error": "Repository not found"}\')'),
        (b"\x1c\0\0\0TFL3" + bytes(50), "TensorFlow Lite"),
        (b"\x08\x07\x12\x07pytorch\x1a\x03" + bytes(50), "exported graph (ONNX"),
        (b"\x08\x0a:\x2f\n\x0c" + bytes(50), "exported graph (ONNX"),
        (b"BZh91AY&SY", "bunzip2"),
        (b"\x89HDF\r\n\x1a\n" + bytes(50), "HDF5"),
        (b"MATLAB 5.0 MAT-file, Platform: posix" + bytes(90), "MATLAB"),
        (zlib.compress(b"x" * 100), "joblib"),
        (b"GGUF\x03\x00\x00\x00" + bytes(50), "GGUF"),
        (b"\x80\x03}q\x00X\x01\x00\x00\x00wcjoblib.numpy_pickle\nNumpyArrayWrapper\n" + bytes(50), "joblib"),
        (b"\x81\xa6params\x81\xa6kernel\xc8" + bytes(50), "msgpack file (Flax"),
        (b"\x93NUMPY\x01\x00v\x00{'descr': '<f8'}", "single numpy array"),
        (bytes(100), "no saved PyTorch model"),
        (bytes(range(200, 256)) * 30, "no saved PyTorch model"),
        (pickle.dumps({"a": 1, "b": [1, 2]}), "no tensors: nothing to compress"),
        (pickle.dumps([]), "no tensors"),
        (b"\x80\x02", "truncated"),
        (b"\x80", "truncated"),
        (b"PK\x03\x04", "damaged zip archive"),
    ],
    ids=lambda value: repr(value)[:30] if isinstance(value, bytes) else value[:20],
)
def test_files_that_are_no_models_are_recognised(tmp_path, content, wanted):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    assert wanted in message(path)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_truncated_files_say_so(tmp_path, zipped):
    whole, path = tmp_path / "whole.pt", tmp_path / "model.pt"
    torch.save(small_state(), whole, _use_new_zipfile_serialization=zipped)
    data = whole.read_bytes()
    for cut in (1, 10, 100, len(data) // 2, len(data) - 10):
        path.write_bytes(data[: len(data) - cut])
        assert "truncated" in message(path)


def test_truncated_safetensors_say_so(tmp_path):
    whole, path = tmp_path / "whole", tmp_path / "model.safetensors"
    save_file(small_state(), whole)
    data = whole.read_bytes()
    for size in (20, 200, len(data) - 1):
        path.write_bytes(data[:size])
        assert "truncated" in message(path)


def test_a_file_of_ours_points_to_decompress(tmp_path):
    path = tmp_path / "model.hmc.safetensors"
    save_file({"x": torch.ones(1)}, path, metadata={"format": "hmcompress", "version": "1"})
    assert "compressed by hmcompress already" in message(path)
    assert "hmcompress decompress" in message(path)


def test_objects_without_tensors_name_what_they_hold(tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"epoch": 3, "opt": torch.relu}, path)
    assert "holds no tensors" in message(path)
    assert "relu" in message(path)


def test_archives_of_other_kinds_are_named(tmp_path):
    path = tmp_path / "model.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("run/model.pth", b"x")
        archive.writestr("run/log.txt", b"x")
    assert message(path).startswith("model.pth in this zip file: is a text file")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", b"x")
    assert "no data.pkl" in message(path)
    with tarfile.open(tmp_path / "model.tar", "w") as archive:
        archive.add(path, "storages")
    assert message(tmp_path / "model.tar") == "is a tar file without a saved model (storages in it)"


def test_keras_archives_are_named(tmp_path):
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", b"{}")
        archive.writestr("model.weights.h5", b"x")
    assert "Keras" in message(path)


def test_a_link_to_nothing_names_what_is_missing(tmp_path):
    (tmp_path / "model.pt").symlink_to("blobs/abc")
    assert message(tmp_path / "model.pt") == "is a link to blobs/abc, which does not exist"


def test_compiled_archives_are_named(tmp_path):
    path = tmp_path / "model.pt2"
    with zipfile.ZipFile(path, "w") as archive:  # a library and its weights
        archive.writestr("model/data/aotinductor/model/kernel.wrapper.so", b"so")
        archive.writestr("model/archive_format", b"pt2")
    assert "torch.export archive without weights" in message(path)


def test_weights_that_deepspeed_has_spread_name_its_tool(tmp_path):
    for name in ("mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt"):
        torch.save({"module": {"w": torch.empty(0), "b": torch.empty(0)}}, tmp_path / name)
    assert "zero_to_fp32.py" in message(tmp_path)
    assert "zero_to_fp32.py" in message(tmp_path / "mp_rank_00_model_states.pt")


def test_entries_in_unusual_compression_are_named(tmp_path):
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("m/data.pkl", pickle.dumps({}))
    assert "repack" in message(path)


def test_a_wrong_byte_order_marker_is_refused(tmp_path):
    path, changed = tmp_path / "model.pt", tmp_path / "changed.pt"
    torch.save(small_state(), path)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            new.writestr(name, b"middle" if name.endswith("byteorder") else old.read(name))
    assert "byte order" in message(changed)


def test_missing_storages_and_doubled_entries_are_refused(tmp_path):
    path, changed = tmp_path / "model.pt", tmp_path / "changed.pt"
    torch.save(small_state(), path)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            if not name.endswith("data/1"):
                new.writestr(name, old.read(name))
    assert "no entry 'data/1'" in message(changed)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("model/data/0", b"x" * 96)
    assert "two entries" in message(path)


def test_devices_are_refused(tmp_path):
    assert "device or a pipe" in message(tmp_path / os.devnull)
    os.mkfifo(tmp_path / "pipe")
    assert "device or a pipe" in message(tmp_path / "pipe")


def test_a_folder_without_weights_says_so(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert "folder without weights" in message(tmp_path)


def test_messages_hold_no_control_characters(tmp_path):
    header = json.dumps({"a\n\x1b[31m": {"dtype": "F32", "shape": [1], "data_offsets": [0, 8]}}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    assert message(path).isprintable()
    torch.save({"a\n\x1b": torch.relu, "w": torch.ones(1)}, tmp_path / "m.pt")
    assert all(line.isprintable() for line in open_checkpoint(tmp_path / "m.pt").left_behind)


def test_a_file_of_joblib_is_named(tmp_path):
    path = tmp_path / "model.joblib"
    path.write_bytes(b"\x80\x04}\x8c\x01w\x8c\x13joblib.numpy_pickle\x8c\x11NumpyArrayWrapper\x93)\x81\xc4\x00\x01")
    assert "is a file of joblib; open it with joblib.load" in message(path)


def test_texts_in_npz_are_kept(tmp_path):
    path = tmp_path / "model.npz"
    names = np.array(["lift", "drag", ""])
    np.savez(path, w=np.ones(2), names=names, label=np.array("x"), big=names.astype(">U4"))
    checkpoint = open_checkpoint(path)
    back = restored(checkpoint)
    assert back["names"] == back["big"] == names.tolist() and back["label"] == ["x"]


def test_arrays_of_objects_in_npz_are_opened(tmp_path):
    path = tmp_path / "model.npz"
    layers = np.array([np.ones((2, 3)), np.zeros(4), "tanh"], dtype=object)
    np.savez(path, w=np.ones(2), o=layers, all=np.array({"b": np.arange(3)}, dtype=object))
    checkpoint = open_checkpoint(path)
    assert checkpoint.left_behind == ("o, all: a numpy array of objects, kept as a flat list",)
    back = restored(checkpoint)
    assert [np.shape(item) for item in back["o"]] == [(2, 3), (4,), ()]
    assert np.array_equal(back["all"][0]["b"], np.arange(3))


def test_arrays_with_fields_in_npz_are_left_behind(tmp_path):
    path = tmp_path / "model.npz"
    np.savez(path, w=np.ones(2), f=np.zeros(2, dtype=[("x", "f4")]), d=np.array(["2026-01-01"], "M8[D]"))
    assert open_checkpoint(path).left_behind == ("f, d: a numpy array of type with fields",)


@pytest.mark.parametrize("count", [3, 3000])
def test_archives_one_behind_the_other_are_refused(tmp_path, count):
    """As torch.distributed writes .distcp files; only the last would be read, and not by what torch.load reads."""
    with open(tmp_path / "model.pt", "wb") as file:
        torch.save({"a": torch.ones(3)}, file)
        torch.save({"b": torch.ones(count)}, file)
    assert message(tmp_path / "model.pt").startswith("holds several archives one behind the other; give each a file")


@pytest.mark.parametrize("save", [partial(torch.save, _use_new_zipfile_serialization=False), pickle.dump])
def test_objects_behind_the_first_are_told(tmp_path, save):
    for objects in ([{"a": torch.ones(3)}], [{"a": torch.ones(3)}, {"b": torch.ones(3)}]):
        with open(tmp_path / "model.pt", "wb") as file:
            for saved in objects:
                save(saved, file)
        lines = open_checkpoint(tmp_path / "model.pt").left_behind
        assert len(lines) == len(objects) - 1
    assert "bytes behind the first saved object" in lines[0]


@pytest.mark.parametrize("save", [torch.save, pickle.dump])
def test_a_saved_file_inside_a_pickle_is_told(tmp_path, save):
    """As skorch pickles a network: its tensors lie in bytes."""
    inner = io.BytesIO()
    save({"w": torch.ones(30)}, inner)
    (tmp_path / "model.pkl").write_bytes(pickle.dumps({"lr": 0.1, "attributes": inner.getvalue()}))
    assert "attributes: a file in bytes (torch.save, pickle?), which is not opened" in message(tmp_path / "model.pkl")


@pytest.mark.parametrize("length", [0x0178, 0x9C78, 0x8B1F])
def test_a_header_whose_length_reads_as_another_format_is_that_of_safetensors(tmp_path, length):
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode().ljust(length)
    (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", length) + header + bytes(8))
    assert open_checkpoint(tmp_path / "m.safetensors").names == ("w",)
