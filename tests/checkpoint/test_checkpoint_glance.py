"""A glance reads a few numbers from the middle of a tensor, and says nothing where it would read all."""

import zipfile

import pytest
import torch
from safetensors.torch import save_file

from hmcompress.checkpoint import open_checkpoint

WEIGHT = torch.arange(4000.0).reshape(80, 50)


def saved(kind, path):
    if kind == "safetensors":
        save_file({"w": WEIGHT}, path)
    else:
        torch.save({"w": WEIGHT}, path, _use_new_zipfile_serialization=kind == "zip")
    return path


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_a_glance_shows_the_middle(kind, tmp_path):
    entry = open_checkpoint(saved(kind, tmp_path / f"m.{'safetensors' if kind == 'safetensors' else 'pt'}")).entries[
        "w"
    ]
    assert torch.equal(entry.glance(100), WEIGHT.reshape(-1)[1950:2050])
    assert torch.equal(entry.glance(4000), WEIGHT.reshape(-1))
    assert entry.glance(4001) is None and entry.glance(0) is None
    assert torch.equal(entry.load(), WEIGHT)


def test_there_is_no_glance_at_a_transposed_tensor(tmp_path):
    torch.save({"w": WEIGHT.T}, tmp_path / "m.pt")
    assert open_checkpoint(tmp_path / "m.pt").entries["w"].glance(100) is None


def test_there_is_no_glance_at_compressed_archives(tmp_path):
    with (
        zipfile.ZipFile(saved("zip", tmp_path / "m.pt")) as old,
        zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    entry = open_checkpoint(tmp_path / "packed.pt").entries["w"]
    assert entry.glance(100) is None and torch.equal(entry.load(), WEIGHT)


def test_a_source_that_is_gone_is_told_by_load(tmp_path):
    entry = open_checkpoint(saved("zip", tmp_path / "m.pt")).entries["w"]
    (tmp_path / "m.pt").unlink()
    assert entry.glance(100) is None
