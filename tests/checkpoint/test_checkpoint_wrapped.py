"""Archives around saved models: zip and tar files that NeMo, PhysicsNeMo and stable-baselines3 write."""

import gzip
import io
import tarfile
import zipfile

import pytest
import torch
from checkpoint_files import assert_same, peak_rss, restored, small_state
from safetensors.torch import save

from hmcompress.checkpoint import open_checkpoint
from hmcompress.errors import SourceError


def saved(obj, zipped=True):
    buffer = io.BytesIO()
    torch.save(obj, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def tar(path, entries):
    with tarfile.open(path, "w") as archive:
        for name, data in entries.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def zipped(path, entries, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize("data", [saved(small_state()), saved(small_state(), False), save(small_state())])
@pytest.mark.parametrize("write", [tar, zipped, lambda *a: zipped(*a, zipfile.ZIP_DEFLATED)])
def test_one_model_comes_back_as_it_is(tmp_path, write, data):
    path = write(tmp_path / "x.nemo", {"./model_config.yaml": b"a: 1", "./model_weights.ckpt": data})
    checkpoint = open_checkpoint(path)
    found = restored(checkpoint)
    assert_same({name: found[name] for name in small_state()}, small_state())
    assert checkpoint.source_bytes == path.stat().st_size
    assert "model_config.yaml" in checkpoint.left_behind[-1]
    assert "keep it for these" in checkpoint.left_behind[-1]
    assert checkpoint.files == (path,)
    assert not [file for file in tmp_path.iterdir() if file != path]  # nothing is unpacked


@pytest.mark.parametrize("parts", [1, 2])
def test_gzip_is_expanded(tmp_path, parts):
    """`.nemo` of older releases; a gzip file may have several members."""
    data = tar(tmp_path / "x.tar", {"model_weights.ckpt": saved(small_state())}).read_bytes()
    path, cut = tmp_path / "x.nemo", len(data) // parts
    path.write_bytes(b"".join(gzip.compress(data[i : i + cut]) for i in range(0, len(data), cut)))
    checkpoint = open_checkpoint(path)
    assert_same(restored(checkpoint), small_state())
    assert checkpoint.kind == "gzip of tar of PyTorch (zip)"
    assert checkpoint.source_bytes == path.stat().st_size


@pytest.mark.parametrize("spoil", [lambda d: d[:-9], lambda d: d[:40] + b"x" * 40 + d[80:], lambda d: d[:12]])
def test_damaged_gzip_is_one_line(tmp_path, spoil):
    path = tmp_path / "x.pt.gz"
    path.write_bytes(spoil(gzip.compress(saved(small_state()))))
    with pytest.raises(SourceError, match="damaged"):
        open_checkpoint(path)


def test_gzip_does_not_expand_without_end(tmp_path):
    path = tmp_path / "x.pt.gz"
    path.write_bytes(gzip.compress(bytes(1 << 28), 1))
    before = peak_rss()
    with pytest.raises(SourceError, match="unfold"):
        open_checkpoint(path)
    assert peak_rss() - before < 1 << 27
    path.write_bytes(gzip.compress(b""))
    with pytest.raises(SourceError):
        open_checkpoint(path)


def test_several_models_are_a_dict_by_entry(tmp_path):
    """As agents of stable-baselines3."""
    policy, optimizer = {"a": small_state(), "n": 3}, {"state": {0: {"m": torch.ones(3)}}, "lr": 0.1}
    entries = {
        "data": b"{}",
        "policy.pth": saved(policy),
        "policy.optimizer.pth": saved(optimizer),
        "pytorch_variables.pth": saved(None),
        "empty.pth": b"",
    }
    checkpoint = open_checkpoint(zipped(tmp_path / "agent.zip", entries))
    assert_same(restored(checkpoint), {"policy": policy, "policy.optimizer": optimizer})
    assert checkpoint.kind == "zip of PyTorch (zip)"
    told = "\n".join(checkpoint.left_behind)
    assert "pytorch_variables.pth" in told
    assert "empty.pth: an entry of the zip file that was not read: it is an empty file" in told
    assert "data" in told


def test_entries_that_only_their_endings_tell_apart_keep_them(tmp_path):
    path = tar(tmp_path / "x.tar", {"a/m.pt": saved(small_state()), "a/m.bin": saved(small_state())})
    assert list(restored(path)) == ["a/m.pt", "a/m.bin"]


def test_what_is_left_behind_of_each_model_names_it(tmp_path):
    entries = {"one.pt": saved({"w": torch.ones(2), "f": torch.nn.ReLU}), "two.safetensors": save(small_state())}
    told = open_checkpoint(zipped(tmp_path / "x.zip", entries)).left_behind
    assert any(line.startswith("one.f: ") for line in told)


def test_an_entry_that_was_changed_is_found(tmp_path):
    """Entries of a safetensors file have no checksum of their own: that of the archive around it holds."""
    path = zipped(tmp_path / "x.zip", {"m.safetensors": save(small_state())})
    data = bytearray(path.read_bytes())
    data[data.index(b"m.safetensors") + 13 + len(save(small_state())) - 5] ^= 1
    path.write_bytes(data)
    with pytest.raises(SourceError, match="checksum"):
        open_checkpoint(path)


def test_models_that_cannot_be_read_say_where(tmp_path):
    path = zipped(tmp_path / "x.zip", {"a/model.pth": b"x" * 50, "a/b.txt": b""})
    with pytest.raises(SourceError, match=r"x.zip: model.pth in this zip file: is "):
        open_checkpoint(path)


def test_archives_lie_in_few_archives(tmp_path):
    data = saved(small_state())
    for depth in range(4):
        path = tar(tmp_path / f"{depth}.tar", {"m.pt": data})
        data = path.read_bytes()
    assert_same(restored(tmp_path / "1.tar"), small_state())
    with pytest.raises(SourceError, match="archives in archives"):
        open_checkpoint(path)


def test_many_models_are_refused(tmp_path):
    with pytest.raises(SourceError, match="of 300 models"):
        open_checkpoint(tar(tmp_path / "x.tar", {f"{i}.pt": b"x" for i in range(300)}))


def test_links_and_entries_beyond_the_end_are_no_models(tmp_path):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("m.pt")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(SourceError, match="without a saved model"):
        open_checkpoint(path)
    data = saved(small_state())
    tar(path, {"m.pt": data})
    path.write_bytes(path.read_bytes()[: 512 + len(data) // 2])
    with pytest.raises(SourceError, match="truncated"):
        open_checkpoint(path)
    with tarfile.open(path, "w") as archive:
        for _ in range(2):
            archive.addfile(tarfile.TarInfo("m.pt"), io.BytesIO())
    with pytest.raises(SourceError, match=r"two entries m\.pt"):
        open_checkpoint(path)


def test_a_chain_of_long_names_is_one_line(tmp_path):
    """Each header names the next one: tarfile calls itself for every link of the chain."""
    path = tmp_path / "x.tar"
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 512
    path.write_bytes((info.tobuf(tarfile.GNU_FORMAT) + b"x" * 512) * 5000)
    with pytest.raises(SourceError, match="damaged tar"):
        open_checkpoint(path)


def test_tar_files_of_torch_before_2017_are_named(tmp_path):
    path = tar(tmp_path / "old.pt", dict.fromkeys(("sys_info", "pickle", "storages", "tensors"), b"x"))
    with pytest.raises(SourceError, match="before 2017"):
        open_checkpoint(path)
