"""Ordinary safetensors files, written one tensor at a time."""

import io

import pytest
import torch
from container_files import write
from safetensors import safe_open
from safetensors.torch import load, save_file

import hmcompress
from hmcompress.container import CompressedFile
from hmcompress.container.plain import PlainWriter
from hmcompress.errors import FormatError, OutputError

TYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.float8_e4m3fn,
    torch.float8_e5m2, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32,
    torch.uint64, torch.bool,
]  # fmt: skip


def test_every_type_and_shape_is_read_by_the_library():
    tensors = {}
    for dtype in TYPES:
        for shape in ((), (3,), (2, 0), (2, 3)):
            raw = torch.randint(0, 2, (*shape, dtype.itemsize), dtype=torch.uint8)
            tensors[f"{dtype}{shape}"] = (
                raw.view(dtype).reshape(shape) if raw.numel() else torch.empty(shape, dtype=dtype)
            )
    file = io.BytesIO()
    writer = PlainWriter(file, {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()})
    for name in reversed(tensors):
        writer.write(name, tensors[name])
    back = load(file.getvalue())
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype and back[name].shape == tensor.shape
        assert back[name].reshape(-1).tolist() == tensor.reshape(-1).tolist()


@pytest.mark.parametrize(
    ("name", "dtype"), [("a", torch.complex128), ("__metadata__", torch.float32), ("\ud800", torch.int8)]
)
def test_what_safetensors_cannot_hold_is_one_line(name, dtype):
    with pytest.raises(OutputError, match=r"write a \.pt file"):
        PlainWriter(io.BytesIO(), {name: (dtype, (2,))})


def test_texts_of_a_safetensors_header_come_back(tmp_path):
    texts = {"format": "np", "author": "Jos\u00e9", "step": "3"}
    save_file({"w": torch.ones(2)}, tmp_path / "m.safetensors", metadata=texts)
    hmcompress.compress(tmp_path / "m.safetensors", tmp_path / "c")
    assert hmcompress.decompress(tmp_path / "c", tmp_path / "out.safetensors") == ()
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        assert file.metadata() == texts
    assert "not in a .pt file" in hmcompress.decompress(tmp_path / "c", tmp_path / "out.pt")[0]


@pytest.mark.parametrize("texts", [{"a": 1}, ["a"], "a", {"a": "\ud800"}])
def test_texts_that_no_writer_wrote_are_refused(tmp_path, texts):
    write(tmp_path / "f", {"w": torch.ones(2)}, metadata=texts)
    with pytest.raises(FormatError, match="makes no sense"):
        CompressedFile.open(tmp_path / "f")
