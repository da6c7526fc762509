"""Small files that ask for much: refused before memory or time is spent."""

import io
import json
import pickle
import struct
import time
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
from checkpoint_files import peak_rss

from hmcompress.checkpoint import open_checkpoint
from hmcompress.errors import SourceError


def short(text):
    return pickle.SHORT_BINUNICODE + bytes([len(text)]) + text.encode()


def storage(elements, key="0", kind="FloatStorage"):
    number = as_opcode(elements)
    return b"(" + short("storage") + f"ctorch\n{kind}\n".encode() + short(key) + short("cpu") + number + b"tQ"


def as_opcode(value):
    return pickle.dumps(value, 2)[2:-1]


def tensor(shape, stride, offset=0, elements=4):
    arguments = as_opcode(offset) + as_opcode(shape) + as_opcode(stride) + b"\x89}"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage(elements) + arguments + b"tR"


def write_zip(path, body, data=bytes(16), compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("m/data.pkl", b"\x80\x02" + body + b".")
        archive.writestr("m/data/0", data)
    return path


def refused(path, match, megabytes=40, seconds=5):
    """Opening and loading ends in a SourceError that says `match`, with bounded memory and time."""
    tracemalloc.start()
    start, rss = time.perf_counter(), peak_rss()
    try:
        with pytest.raises(SourceError, match=match) as caught:
            checkpoint = open_checkpoint(path)
            for entry in checkpoint.entries.values():
                entry.load()
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 600
        assert tracemalloc.get_traced_memory()[1] < megabytes * 1e6
        assert peak_rss() - rss < 2 * megabytes * 1e6
        assert time.perf_counter() - start < seconds
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("body", "match"),
    [
        (tensor((1 << 40,), (1,)), "beyond its storage"),
        (tensor((1 << 70,), (0,)), "cannot exist"),
        (tensor((1 << 31, 1 << 31), (0, 0)), "cannot exist"),
        (tensor((1 << 30,), (0,)), "unfold"),
        (tensor((0, 1 << 62), (1, 1)), "cannot exist"),
        (tensor((2,), (-1,), offset=1), "out of range"),
        (tensor((-2,), (1,)), "not the shape"),
        (tensor((2,), (1,), offset=-1), "do not fit"),
        (tensor((2,), (1,), offset=1 << 40), "beyond its storage"),
        (tensor((2,), (1 << 61,)), "out of range"),
        (tensor((2,), (1, 1)), "do not fit"),
        (tensor((1,) * 65, (1,) * 65), "cannot exist"),
        (tensor((4,), (1,), elements=1 << 50), "truncated or damaged"),
        (tensor((4,), (1,), elements=-4), "without key or size"),
        (tensor(("4",), (1,)), "not the shape"),
        (tensor((True,), (1,)), "not the shape"),
        (tensor(None, (1,)), "not the shape"),
    ],
)
def test_impossible_tensors_are_refused(tmp_path, body, match):
    refused(write_zip(tmp_path / "model.pt", body), match)


def test_many_expanded_tensors_are_refused_together(tmp_path):
    body = b"]" + b"".join(tensor((1 << 18, i + 2), (0, 0)) + b"a" for i in range(30))
    refused(write_zip(tmp_path / "model.pt", body), "unfold")


def test_many_storages_on_the_same_bytes_are_refused(tmp_path):
    """Overlapping zip entries: one megabyte on disk, read a hundred times."""
    path = tmp_path / "model.pt"
    body = b"]"
    for i in range(100):
        first = tensor((1 << 18,), (1,), elements=1 << 18)
        body += first.replace(short("0") + short("cpu"), short(f"{i}") + short("cpu")) + b"a"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", b"\x80\x02" + body + b".")
        archive.writestr("m/data/0", bytes(1 << 20))
        info = archive.getinfo("m/data/0")
        for i in range(1, 100):
            twin = zipfile.ZipInfo(f"m/data/{i}")
            twin.header_offset, twin.file_size, twin.compress_size, twin.CRC = (
                info.header_offset, info.file_size, info.compress_size, info.CRC,
            )  # fmt: skip
            archive.filelist.append(twin)
            archive.NameToInfo[twin.filename] = twin
    refused(path, "unfold")


def test_a_deflate_bomb_is_refused(tmp_path):
    data = bytes(64 << 20)
    body = tensor((16 << 20,), (1,), elements=16 << 20)
    path = write_zip(tmp_path / "model.pt", body, data, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 17
    refused(path, "unfold")


def test_a_deflated_pickle_bomb_is_refused(tmp_path):
    refused(write_zip(tmp_path / "m.pt", b"N" * (64 << 20), compression=zipfile.ZIP_DEFLATED), "unfold")


@pytest.mark.parametrize("kind", ["list", "tuple", "dict", "key", "set_item"])
def test_exponential_sharing_is_refused(tmp_path, kind):
    """Billion laughs: every level refers to the one below twice or ten times."""
    body = {"list": b"]", "tuple": b")", "dict": b"}", "key": b")", "set_item": b")"}[kind] + b"q\x00"
    for level in range(1, 100):
        below, put = bytes([level - 1]), b"q" + bytes([level])
        if kind == "list":
            body += b"](" + (b"h" + below) * 10 + b"e" + put
        elif kind == "dict":
            body += b"}(" + b"".join(b"K" + bytes([i]) + b"h" + below for i in range(10)) + b"u" + put
        else:
            body += b"h" + below + b"h" + below + b"\x86" + put
    if kind == "key":
        body += b"}h\x63K\x01s"
    if kind == "set_item":
        body += b"\x8f(h\x63\x90"
    path = write_zip(tmp_path / "m.pt", b"(" + tensor((4,), (1,)) + body + b"t")
    refused(path, "refer to each other|as a key|deeper")


LARGE = b"(" + b"N" * 30_000 + b"lq\x00"  # a list, as number 0 of the memo
TEXT = b"X" + struct.pack("<I", 100_000) + b"a" * 100_000 + b"q\x00"
STATE = b"}(" + b"".join(b"J" + struct.pack("<i", i) + b"N" for i in range(10_000)) + b"uq\x00"


@pytest.mark.parametrize(
    "body",
    [
        LARGE + b"cbuiltins\nlist\nq\x01(" + b"h\x01h\x00\x85R" * 20_000 + b"l",
        LARGE + b"cbuiltins\nlist\nq\x01(" + b"(h\x01h\x00o" * 20_000 + b"l",
        LARGE + b"(" + b"(h\x00ibuiltins\ntuple\n" * 20_000 + b"l",
        TEXT + b"c_codecs\nencode\nq\x01(" + b"h\x01h\x00\x8c\x06latin1\x86R" * 10_000 + b"l",
        LARGE
        + b"cbuiltins\nlist\nq\x01ctorch._tensor\n_rebuild_from_type_v2\nq\x02("
        + b"h\x02(h\x01Nh\x00\x85NtR" * 2_000
        + b"l",
        STATE + b"ca\nB\n)R" + b"h\x00b" * 20_000,
    ],
    ids=["reduce", "object", "instance", "text", "tensor", "state"],
)
def test_arguments_that_are_copied_again_and_again_are_refused(tmp_path, body):
    refused(write_zip(tmp_path / "m.pt", b"(" + tensor((4,), (1,)) + body + b"t"), "refer to each other", 100)


@pytest.mark.parametrize(
    "body",
    [
        short("a" * 100) + b"q\x00cbuiltins\ngetattr\nq\x01(ca\nB\nq\x02" + b"h\x01h\x02h\x00\x86Rq\x02" * 8_000 + b"l",
        b"(ca\nB\nq\x02" + b"h\x02)Rq\x02" * 10_000 + b"l",
        STATE + b"ca\nB\n)Rh\x00bq\x01(" + b"h\x01" * 20_000 + b"l",
        b"}("
        + b"".join(b"\x8a\x20" + struct.pack("<I", i) + b"\0" * 26 + b"\x11\x11h\x09" for i in range(8000))
        + b"u",
    ],
    ids=["attributes", "calls", "objects", "names"],
)
def test_what_refers_to_the_same_again_and_again_is_opened_in_linear_time(tmp_path, body):
    path = write_zip(tmp_path / "m.pt", b"(" + tensor((4,), (1,)) + b"q\x09" + body + b"t")
    start, rss = time.perf_counter(), peak_rss()
    assert len(open_checkpoint(path).names) in (1, 8001)
    assert time.perf_counter() - start < 5
    assert peak_rss() - rss < 2e8


def test_entries_on_the_same_bytes_are_refused_before_one_is_read(tmp_path):
    """A small text array of numpy, expanded two hundred times."""
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(500_000, "U1"))
    path = tmp_path / "arrays.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0.npy", buffer.getvalue())
        info = archive.getinfo("0.npy")
        for i in range(1, 200):
            twin = zipfile.ZipInfo(f"{i}.npy")
            twin.header_offset, twin.file_size, twin.compress_size, twin.CRC, twin.compress_type = (
                info.header_offset, info.file_size, info.compress_size, info.CRC, info.compress_type,
            )  # fmt: skip
            archive.filelist.append(twin)
            archive.NameToInfo[twin.filename] = twin
    refused(path, "unfold")


@pytest.mark.parametrize("opener", [b"]", b"(", b"}"], ids=["list", "tuple", "dict"])
def test_deep_nesting_is_refused(tmp_path, opener):
    depth = 20_000
    if opener == b"]":
        body = b"]" * depth + b"a" * (depth - 1)
    elif opener == b"(":
        body = b"(" * depth + b"N" + b"t" * depth
    else:
        body = b"}" + b"K\x01}" * depth + b"s" * depth
    refused(write_zip(tmp_path / "m.pt", b"(" + tensor((4,), (1,)) + body + b"t"), "deeper")


def test_long_chains_of_foreign_calls_are_read_or_refused(tmp_path):
    calls = b"ca\nB\n" + b")R" * 20_000
    arguments = b"ca\nB\n" * 20_000 + b"N" + b"\x85R" * 20_000
    types = b"ctorch._tensor\n_rebuild_from_type_v2\nq\x01" * 20_000 + b"N" + b"N\x86R" * 19_000
    for body in (calls, arguments, types):
        path = write_zip(tmp_path / "m.pt", b"(" + tensor((4,), (1,)) + body + b"t")
        try:
            assert open_checkpoint(path).names == ("0",)
        except SourceError as error:
            assert "\n" not in str(error)


def test_objects_that_contain_themselves_are_cut(tmp_path):
    loop: list = [torch.ones(1)]
    loop.append(loop)
    ring: dict = {"w": torch.ones(2)}
    ring["ring"] = {"back": ring}
    for saved in (loop, ring):
        torch.save(saved, tmp_path / "m.pt")
        checkpoint = open_checkpoint(tmp_path / "m.pt")
        assert len(checkpoint.names) == 1
        assert "a reference to the object that contains it" in checkpoint.left_behind[0]


def test_a_module_that_contains_itself_is_refused(tmp_path):
    module = torch.nn.Linear(1, 1)
    module._modules["self"] = module
    torch.save(module, tmp_path / "m.pt")
    refused(tmp_path / "m.pt", "contain themselves")


def test_long_names_are_refused(tmp_path):
    torch.save({"x" * 600: torch.ones(1)}, tmp_path / "m.pt")
    refused(tmp_path / "m.pt", "longer than 512")
    torch.save({"x" * 5_000_000: {str(i): i for i in range(10_000)}, "w": torch.ones(1)}, tmp_path / "m.pt")
    refused(tmp_path / "m.pt", "absurd", megabytes=100)


@pytest.mark.parametrize(
    "body",
    [
        b"\x8e" + struct.pack("<Q", 1 << 60) + b"x",
        b"\x96" + struct.pack("<Q", 1 << 60) + b"x",
        b"\x8d" + struct.pack("<Q", 1 << 63) + b"x",
        b"X\xff\xff\xff\xffx",
        b"\x8b\xff\xff\xff\x7fx",
        b"T\xff\xff\xff\xffx",
        b"\x95" + struct.pack("<Q", 1 << 60),
        b"r\xff\xff\xff\xff",
        b"Nr\xff\xff\xff\xffj\xfe\xff\xff\xff",
        b"I" + b"9" * 100_000 + b"\n",
        b"cbuiltins\nbytearray\n" + as_opcode(1 << 40) + b"\x85R",
        b"cbuiltins\nbytes\n" + as_opcode(1 << 40) + b"\x85R",
        b"cbuiltins\nlist\ncbuiltins\nrange\n" + as_opcode(1 << 40) + b"\x85R\x85R",
        b"cnumpy\nndarray\n" + as_opcode((1 << 40,)) + b"\x85R",
        b"cnumpy\ndtype\nX\x0b\x00\x00\x00V9999999999\x85R",
    ],
)
def test_absurd_counts_in_pickles_are_refused(tmp_path, body):
    refused(write_zip(tmp_path / "m.pt", body), "truncated|damaged|no tensors|holds no")


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}},
        {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}},
        {
            "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
            "b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        },
        {"a": {"dtype": "F32", "shape": "x", "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [1]}},
        {"a": 3},
        {"a": {"dtype": "F32", "shape": [0, 1 << 62], "data_offsets": [0, 0]}},
        {"__metadata__": 3},
        [],
    ],
    ids=lambda header: json.dumps(header)[:60],
)
def test_impossible_safetensors_headers_are_refused(tmp_path, header):
    text = json.dumps(header).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    refused(path, "damaged|truncated|no saved PyTorch|holds no tensors")


def test_deep_json_is_refused(tmp_path):
    text = b'{"a":' + b"[" * 200_000 + b"}"
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    refused(path, "no JSON")
    path.write_bytes(b'{"weight_map":' + b"[" * 200_000 + b"}")
    refused(path, "no JSON")
