"""Folders and index files of shards."""

import hashlib
import json
import subprocess
import sys

import pytest
import torch
from checkpoint_files import assert_same, restored, small_state
from safetensors.torch import save_file

from hmcompress.checkpoint import open_checkpoint
from hmcompress.errors import SourceError


def make_shards(folder, kind="safetensors", index=True):
    """Two shards of small_state and their index, as transformers writes them."""
    state = small_state()
    stem = "model" if kind == "safetensors" else "pytorch_model"
    parts = [dict(list(state.items())[:2]), dict(list(state.items())[2:])]
    weight_map = {}
    for number, part in enumerate(parts, 1):
        name = f"{stem}-{number:05}-of-00002.{kind}"
        (save_file if kind == "safetensors" else torch.save)(part, folder / name)
        weight_map.update(dict.fromkeys(part, name))
    path = folder / f"{stem}.{kind}.index.json"
    if index:
        path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return path, weight_map


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_shards_open_by_folder_and_by_index(tmp_path, kind):
    index, weight_map = make_shards(tmp_path, kind)
    by_index, by_folder = open_checkpoint(index), open_checkpoint(tmp_path)
    for checkpoint in (by_index, by_folder):
        assert checkpoint.names == tuple(weight_map)
        assert checkpoint.nest is None
        assert checkpoint.left_behind == ()
        assert_same(restored(checkpoint), small_state())
    assert by_index.digest == by_folder.digest
    assert by_index.source_bytes == sum(file.stat().st_size for file in tmp_path.iterdir())
    assert by_index.kind == f"2 shards ({'safetensors' if kind == 'safetensors' else 'PyTorch (zip)'})"


def test_the_digest_covers_names_and_bytes_in_order(tmp_path):
    index, weight_map = make_shards(tmp_path)
    digest = hashlib.sha256()
    for file in (index, *(tmp_path / name for name in dict.fromkeys(weight_map.values()))):
        data = file.read_bytes()
        digest.update(f"{file.name}\0{len(data)}\0".encode() + data)
    assert open_checkpoint(tmp_path).digest == f"sha256:{digest.hexdigest()}"


def test_weights_in_folders_of_a_folder_are_told(tmp_path):
    """As sentence-transformers, diffusers and DeepSpeed write models."""
    inner = tmp_path / "2_Dense"
    inner.mkdir()
    (tmp_path / "1_Pooling").mkdir()
    save_file(small_state(), inner / "model.safetensors")
    with pytest.raises(SourceError, match=r"folder without weights .*; name a folder in it: 2_Dense$"):
        open_checkpoint(tmp_path)
    save_file(small_state(), tmp_path / "model.safetensors")
    (line,) = open_checkpoint(tmp_path).left_behind
    assert line == "(folder): files that were not read as weights of this model (2_Dense/)"


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_numbered_shards_without_index_are_joined(tmp_path, kind):
    make_shards(tmp_path, kind, index=False)
    found = restored(tmp_path)
    assert sorted(found) == sorted(small_state())
    next(iter(tmp_path.iterdir())).unlink()
    with pytest.raises(SourceError, match="1 of 2 shards"):
        open_checkpoint(tmp_path)


def test_a_folder_with_one_model_opens_it_and_names_the_rest(tmp_path):
    torch.save(small_state(), tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text("{}")
    checkpoint = open_checkpoint(tmp_path)
    assert_same(restored(checkpoint), small_state())
    assert checkpoint.left_behind == ("(folder): files that were not read as weights of this model (config.json)",)
    save_file({"ours": torch.ones(1)}, tmp_path / "pytorch_model.hmc.safetensors")
    assert_same(restored(tmp_path), small_state())
    save_file({"w": torch.ones(1)}, tmp_path / "model.safetensors")
    assert open_checkpoint(tmp_path).names == ("w",)


def test_a_folder_with_several_models_asks_which(tmp_path):
    for name in ("a.pt", "b.pt"):
        torch.save(small_state(), tmp_path / name)
    with pytest.raises(SourceError, match=r"several models; name one of them: a\.pt, b\.pt"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("weight_map", "wanted"),
    [
        ({"w": "../secret.safetensors"}, "no file beside it"),
        ({"w": "/etc/passwd"}, "no file beside it"),
        ({"w": ".."}, "is missing"),
        ({"w": ""}, "no file beside it"),
        ({"w": 3}, "no file beside it"),
        ({"w": "a\0b"}, "no file beside it"),
        ({"w": "gone.safetensors"}, "is missing"),
        ({}, "no weight_map"),
        ([], "no weight_map"),
        ({"other": "model-00001-of-00002.safetensors"}, "not in shard"),
    ],
)
def test_bad_indexes_are_refused(tmp_path, weight_map, wanted):
    path, _ = make_shards(tmp_path)
    path.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(SourceError, match=wanted) as caught:
        open_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_a_damaged_shard_is_named(tmp_path):
    make_shards(tmp_path)
    shard = tmp_path / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-5])
    with pytest.raises(SourceError, match="model-00002-of-00002"):
        open_checkpoint(tmp_path)


def test_a_tensor_in_two_shards_is_refused(tmp_path):
    for number in (1, 2):
        save_file({"w": torch.ones(1)}, tmp_path / f"m-0000{number}-of-00002.safetensors")
    with pytest.raises(SourceError, match="two shards"):
        open_checkpoint(tmp_path)


_PEAK = """
import resource, sys
from hmcompress.checkpoint import open_checkpoint
import torch
checkpoint = open_checkpoint(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
total = 0
for entry in checkpoint.entries.values():
    total += entry.load().nbytes
print(total, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.parametrize("kind", ["bin", "safetensors"])
def test_one_tensor_at_a_time_is_in_memory(tmp_path, kind):
    """200 MB in tensors of 20 MB: reading them all takes little more than one of them."""
    weight_map = {}
    for number in range(1, 3):
        part = {f"w{number}.{i}": torch.randn(5_000_000) for i in range(5)}
        name = f"model-0000{number}-of-00002.{kind}"
        (save_file if kind == "safetensors" else torch.save)(part, tmp_path / name)
        weight_map.update(dict.fromkeys(part, name))
    (tmp_path / "model.index.json").write_text(json.dumps({"weight_map": weight_map}))
    command = [sys.executable, "-c", _PEAK, str(tmp_path)]
    total, growth = map(int, subprocess.run(command, capture_output=True, check=True, text=True).stdout.split())
    assert total == 200_000_000
    assert growth < 60_000_000


def test_the_texts_of_shards_are_joined_and_those_that_differ_are_told(tmp_path):
    for number, texts in enumerate(({"a": "1", "b": "2"}, {"a": "1", "b": "3"}), 1):
        file = tmp_path / f"model-{number:05}-of-00002.safetensors"
        save_file({f"w{number}": torch.ones(2)}, file, metadata=texts)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.metadata == {"a": "1", "b": "2"}
    assert len(checkpoint.left_behind) == 1 and "differ from the first shard" in checkpoint.left_behind[0]


@pytest.mark.parametrize("names", [["model.safetensors.index.json"], ["a.index.json", "b.index.json"]])
def test_an_index_that_names_an_index_is_refused(tmp_path, names):
    for name, other in zip(names, names[1:] + names[:1], strict=True):
        (tmp_path / name).write_text(json.dumps({"weight_map": {"w": other}}))
    with pytest.raises(SourceError, match=r"index\.json: is a text file, not a saved model"):
        open_checkpoint(tmp_path / names[0])
