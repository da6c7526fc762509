"""One file of each format and quirk, made as people make them."""

import hashlib
import io
import json
import pickle
import re
import struct
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from checkpoint_files import assert_same, restored, small_state, tensors_of
from safetensors.torch import save_file
from torch import nn
from torch.package import package_exporter

from hmcompress.checkpoint import blobs, open_checkpoint
from hmcompress.errors import SourceError


def rezip(source, target, change=lambda name, data: (name, data), compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for info in old.infolist():
            entry = change(info.filename, old.read(info))
            if entry is not None:
                new.writestr(*entry)
    return target


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt", ".pth.tar", ""])
def test_torch_save_round_trips_under_any_name(tmp_path, zipped, suffix):
    path = tmp_path / f"model{suffix}"
    torch.save(small_state(), path, _use_new_zipfile_serialization=zipped)
    checkpoint = open_checkpoint(path)
    assert checkpoint.nest is None
    assert checkpoint.names == tuple(small_state())
    assert checkpoint.source_bytes == path.stat().st_size
    assert "digest" not in vars(checkpoint)  # the source is not read as a whole before somebody asks
    assert checkpoint.digest == "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    assert checkpoint.left_behind == ()
    assert_same(restored(checkpoint), small_state())


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol_is_read(tmp_path, zipped, protocol):
    saved = {"epoch": 3, "state_dict": small_state(), "big": 1 << 80, "text": "x" * 300}
    path = tmp_path / "model.pt"
    torch.save(saved, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    assert_same(restored(path), saved)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_files_saved_on_cuda_open_on_cpu(tmp_path, zipped):
    path = tmp_path / "cpu.pt"
    torch.save(small_state(), path, _use_new_zipfile_serialization=zipped)

    def to_cuda(data):
        return data.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")

    cuda = tmp_path / "cuda.pt"
    if zipped:
        rezip(path, cuda, lambda name, data: (name, to_cuda(data) if name.endswith("data.pkl") else data))
    else:
        cuda.write_bytes(to_cuda(path.read_bytes()))
    assert cuda.read_bytes() != path.read_bytes()
    assert_same(restored(cuda), small_state())


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_big_endian_files_are_swapped(tmp_path, zipped):
    saved = {"a": torch.arange(5.0), "b": torch.tensor([1 + 2j, -3j]), "c": torch.arange(4, dtype=torch.bfloat16)}
    path, big = tmp_path / "little.pt", tmp_path / "big.pt"
    torch.save(saved, path, _use_new_zipfile_serialization=zipped)
    order = {"data/0": np.dtype("<u4"), "data/1": np.dtype("<u4"), "data/2": np.dtype("<u2")}
    if zipped:

        def swap(name, data):
            short = name.partition("/")[2]
            if short in order:
                data = np.frombuffer(data, order[short]).byteswap().tobytes()
            return name, (b"big" if short == "byteorder" else data)

        rezip(path, big, swap)
    else:
        data = path.read_bytes()
        mark = re.search(rb"little_endianq.\x88", data).end() - 1
        data = data[:mark] + b"\x89" + data[mark + 1 :]
        for tensor, width in zip(saved.values(), ("<u4", "<u4", "<u2"), strict=True):
            raw = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
            data = data.replace(raw, np.frombuffer(raw, width).byteswap().tobytes())
        big.write_bytes(data)
    assert_same(restored(big), saved)


def test_zip_compressed_by_other_tools_is_read(tmp_path):
    path = tmp_path / "model.pt"
    flat = torch.arange(2_000_000) % 1000
    saved = {"w": torch.arange(3000).reshape(50, 60), "a": flat[:9], "b": flat[700_000:700_100], "c": flat[1_999_990:]}
    saved["view"] = saved["w"][3]
    torch.save(saved, path)
    deflated = rezip(path, tmp_path / "deflated.pt", compression=zipfile.ZIP_DEFLATED)
    assert deflated.stat().st_size < path.stat().st_size
    assert_same(restored(deflated), saved)


def test_many_tensors_on_one_compressed_storage_expand_it_once(tmp_path, monkeypatch):
    path, flat = tmp_path / "model.pt", torch.arange(6000)
    saved = {f"w{i}": flat[100 * i : 100 * i + 100] for i in range(60)}
    torch.save(saved, path)
    deflated = rezip(path, tmp_path / "deflated.pt", compression=zipfile.ZIP_DEFLATED)
    expand, times = blobs.DeflatedBlob._expanded, []
    monkeypatch.setattr(blobs.DeflatedBlob, "_expanded", lambda self: times.append(self.nbytes) or expand(self))
    assert_same(restored(deflated), saved)
    assert times.count(flat.nbytes) == 1


def test_no_room_for_temporary_files_is_one_clear_line(tmp_path, monkeypatch):
    flat = torch.arange(6000)
    torch.save({"w": flat[:300]}, tmp_path / "model.pt")
    deflated = rezip(tmp_path / "model.pt", tmp_path / "deflated.pt", compression=zipfile.ZIP_DEFLATED)
    monkeypatch.setattr(blobs.tempfile, "TemporaryFile", lambda: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(
        SourceError, match=r"tensor 'w': cannot be expanded .*\(No space left\); save it again uncompressed"
    ):
        restored(deflated)


def test_files_without_checksums_are_read(tmp_path):
    path = tmp_path / "model.pt"
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(small_state(), path)
    finally:
        torch.serialization.set_crc32_options(True)
    assert_same(restored(path), small_state())


def test_a_flipped_bit_in_a_weight_is_noticed(tmp_path):
    path = tmp_path / "model.pt"
    torch.save(small_state(), path)
    data = bytearray(path.read_bytes())
    raw = small_state()["net.0.weight"].numpy().tobytes()
    data[bytes(data).index(raw) + 3] ^= 1
    path.write_bytes(data)
    checkpoint = open_checkpoint(path)
    with pytest.raises(SourceError, match=r"net\.0\.weight.*checksum"):
        checkpoint.entries["net.0.weight"].load()


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(3, 4)
        self.head = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2))
        self.register_buffer("scale", torch.ones(2))

    def forward(self, x):
        return self.head(self.rnn(x)[0][-1]) * self.scale


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.filterwarnings("ignore")
def test_a_pickled_module_gives_its_state_dict(tmp_path, zipped):
    module = Net()
    module.register_buffer("cache", torch.zeros(3), persistent=False)
    path = tmp_path / "model.pt"
    torch.save(module, path, _use_new_zipfile_serialization=zipped)
    checkpoint = open_checkpoint(path)
    assert checkpoint.nest is None
    assert_same(restored(checkpoint), dict(module.state_dict()))
    assert any("Net" in line for line in checkpoint.left_behind)
    assert any("cache" in line and "non-persistent" in line for line in checkpoint.left_behind)


def test_a_module_inside_a_dict_keeps_its_place(tmp_path):
    module = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    path = tmp_path / "model.pt"
    torch.save({"epoch": 7, "model": module}, path)
    checkpoint = open_checkpoint(path)
    assert checkpoint.names[0] == "model.0.weight"
    assert_same(restored(checkpoint), {"epoch": 7, "model": dict(module.state_dict())})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", ["script", "trace"])
def test_torchscript_gives_the_state_dict(tmp_path, how):
    module = Net().eval()
    scripted = torch.jit.script(module) if how == "script" else torch.jit.trace(module, torch.zeros(5, 2, 3))
    path = tmp_path / "model.pt"
    torch.jit.save(scripted, str(path))
    checkpoint = open_checkpoint(path)
    assert checkpoint.kind == "TorchScript"
    wanted = dict(torch.jit.load(str(path)).state_dict())
    assert_same(restored(checkpoint), wanted)
    assert "TorchScript code" in checkpoint.left_behind[0]


def test_torch_package_gives_its_pickles(tmp_path):
    path = tmp_path / "model.pt"
    with torch.package.PackageExporter(path) as exporter:
        exporter.extern(["collections", "torch.**"])
        exporter.save_pickle("model", "weights.pkl", {"state": small_state(), "epoch": 2})
    checkpoint = open_checkpoint(path)
    assert checkpoint.kind == "torch.package"
    assert_same(restored(checkpoint), {"state": small_state(), "epoch": 2})
    with torch.package.PackageExporter(path) as exporter:
        exporter.extern(["collections", "torch.**"])
        exporter.save_pickle("model", "a.pkl", small_state())
        exporter.save_pickle("model", "b.pkl", {"x": torch.ones(2)})
    assert open_checkpoint(path).names[-1] == "model/b.x"


def test_torch_script_in_a_package_gives_its_weights_under_any_name(tmp_path, monkeypatch):
    """As Silero's speech models come."""
    monkeypatch.setattr(package_exporter, "_gate_torchscript_serialization", False)
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.BatchNorm1d(30))
    path = tmp_path / "model.pt"
    with torch.package.PackageExporter(path) as exporter:
        exporter.extern(["collections", "torch.**"])
        exporter.save_pickle("models", "model", {"net": torch.jit.script(module), "sample_rate": 16000})
    checkpoint = open_checkpoint(path)
    assert_same(restored(checkpoint), {"net": module.state_dict(), "sample_rate": 16000})
    assert "weights of TorchScript are kept" in checkpoint.left_behind[-1]


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
def test_plain_pickles_of_tensors_and_arrays_are_read(tmp_path, protocol):
    saved = {"w": torch.arange(6.0).reshape(2, 3), "a": np.arange(4.0), "n": 3}
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(saved, protocol=protocol))
    assert_same(restored(path), saved)


def test_safetensors_round_trips_in_file_order(tmp_path):
    path = tmp_path / "model.safetensors"
    saved = {"b": torch.ones(2, 3), "a": torch.arange(4), "h": torch.ones(3, dtype=torch.bfloat16)}
    save_file(saved, path, metadata={"format": "pt", "author": "x"})
    checkpoint = open_checkpoint(path)
    assert checkpoint.kind == "safetensors"
    assert checkpoint.metadata == {"author": "x"} and checkpoint.left_behind == ()
    found = restored(checkpoint)
    assert sorted(found) == sorted(saved)
    for name, tensor in saved.items():
        assert_same(found[name], tensor)


@pytest.mark.parametrize("compressed", [False, True])
def test_numpy_archives_are_read(tmp_path, compressed):
    saved = {"w": np.arange(6.0).reshape(2, 3), "f": np.asfortranarray(np.arange(6, dtype=np.int32).reshape(3, 2))}
    path = tmp_path / "model.npz"
    (np.savez_compressed if compressed else np.savez)(path, **saved)
    assert_same(restored(path), saved)


def test_nested_training_checkpoints_keep_their_nest(tmp_path):
    module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    module(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    saved = {
        "epoch": 12,
        "pytorch-lightning_version": "2.1.0",
        "state_dict": OrderedDict(module.state_dict()),
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [],
        "loss": float("nan"),
        "best": float("inf"),
        "seed": 1 << 70,
        "betas": (0.9, 0.999),
        "rng": torch.get_rng_state(),
        "flags": {"amp": False, "resume": None},
    }
    path = tmp_path / "last.ckpt"
    torch.save(saved, path)
    checkpoint = open_checkpoint(path)
    assert "state_dict.0.weight" in checkpoint.names
    assert "optimizer_states.0.state.0.exp_avg" in checkpoint.names
    found = restored(checkpoint)
    assert_same(found, saved)
    assert isinstance(found["state_dict"], OrderedDict)
    assert checkpoint.left_behind == ()
    text = json.dumps(checkpoint.nest)
    assert "0.weight" not in text  # names are not stored twice


def test_lists_tuples_and_bare_tensors_are_named_by_place(tmp_path):
    path = tmp_path / "model.pt"
    torch.save([torch.ones(2), (torch.zeros(1), 5), {"a": torch.ones(3)}], path)
    assert open_checkpoint(path).names == ("0", "1.0", "2.a")
    assert_same(restored(path), [torch.ones(2), (torch.zeros(1), 5), {"a": torch.ones(3)}])
    torch.save(torch.ones(2, 2), path)
    assert open_checkpoint(path).names == ("tensor",)
    assert_same(restored(path), torch.ones(2, 2))


def test_streams_are_read_lazily(tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"a": torch.ones(3)}, path)
    checkpoint = open_checkpoint(path)
    path.unlink()
    with pytest.raises(SourceError, match="cannot be read any more"):
        tensors_of(checkpoint)


def test_tensors_with_attributes_and_subclasses_come_as_tensors(tmp_path):
    class Named(torch.Tensor):
        pass

    globals()["Named"] = Named
    Named.__qualname__ = "Named"
    tensor = torch.ones(3)
    tensor.tag = "x"
    path = tmp_path / "model.pt"
    torch.save({"a": tensor, "b": torch.zeros(2).as_subclass(Named), "p": nn.Parameter(torch.ones(1))}, path)
    assert_same(restored(path), {"a": torch.ones(3), "b": torch.zeros(2), "p": torch.ones(1)})
    assert [line.split(":")[0] for line in open_checkpoint(path).left_behind] == ["a", "b"]


def test_archives_with_foreign_folders_are_read(tmp_path):
    path = tmp_path / "model.pt"
    torch.save(small_state(), path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("__MACOSX/._data.pkl", b"x")
    assert_same(restored(path), small_state())


def test_bytes_io_style_names_do_not_matter(tmp_path):
    buffer = io.BytesIO()
    torch.save(small_state(), buffer)
    path = tmp_path / "model.safetensors"  # the content decides
    path.write_bytes(buffer.getvalue())
    assert open_checkpoint(path).kind == "PyTorch (zip)"


class StorageView:
    """A view of a storage, as torch before 0.4 pickled one: elements 2 to 5 of six."""


class TensorOver:
    """Pickles as a tensor over a StorageView."""

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, (StorageView(), 0, (2, 2), (2, 1), False, OrderedDict())


class OldPickler(pickle.Pickler):
    def persistent_id(self, value):
        if isinstance(value, StorageView):
            return ("storage", torch.FloatStorage, "0", "cpu", 6, ("1", 2, 4))
        return None


def test_views_of_storages_as_old_files_have_them_are_read(tmp_path):
    path = tmp_path / "model.pt"
    with open(path, "wb") as file:
        for head in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
            pickle.dump(head, file, 2)
        OldPickler(file, 2).dump({"w": TensorOver()})
        pickle.dump(["0"], file, 2)
        file.write(struct.pack("<q", 6) + torch.arange(6.0).numpy().tobytes())
    expected = torch.load(path, weights_only=True)
    assert expected["w"].tolist() == [[2, 3], [4, 5]]
    assert_same(restored(path), expected)
