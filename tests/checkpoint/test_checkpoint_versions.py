"""Versions of modules, which hang on a state dict: loaders that ask for them find them again."""

from collections import OrderedDict

import pytest
import torch
from checkpoint_files import assert_same, restored
from torch import nn

import hmcompress
from hmcompress.checkpoint import open_checkpoint
from hmcompress.checkpoint.versions import told_versions, versions_of


class Strict(nn.Module):
    """A module that refuses a state dict which does not say its version, as MNASNet of torchvision does."""

    _version = 2

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)

    def _load_from_state_dict(self, state, prefix, metadata, *rest):
        if metadata.get("version") != 2:
            raise ValueError("a state dict of another version")
        super()._load_from_state_dict(state, prefix, metadata, *rest)


def saved(tmp_path, obj):
    torch.save(obj, tmp_path / "model.pt")
    return restored(tmp_path / "model.pt")


@pytest.mark.parametrize("wrap", [lambda m: m, lambda m: nn.Sequential(nn.Linear(2, 3), m)], ids=["root", "child"])
def test_a_loader_that_asks_for_a_version_finds_it(tmp_path, wrap):
    module = wrap(Strict())
    found = saved(tmp_path, module.state_dict())
    assert_same(found, module.state_dict())
    module.load_state_dict(found)


def test_versions_of_a_nested_state_dict_are_kept(tmp_path):
    module = Strict()
    found = saved(tmp_path, {"model": module.state_dict(), "epoch": 3})
    module.load_state_dict(found["model"])


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": s, "epoch": 3}], ids=["root", "nested"])
def test_a_loader_that_asks_for_a_version_finds_it_in_what_load_state_dict_gives(tmp_path, wrap):
    module, file = Strict(), tmp_path / "m.hmc.safetensors"
    torch.save(wrap(module.state_dict()), tmp_path / "model.pt")
    hmcompress.compress(tmp_path / "model.pt", file)
    nested = "model" in wrap(module.state_dict())
    module.load_state_dict(hmcompress.load_state_dict(file, "model" if nested else None))


def test_versions_of_a_state_dict_with_plain_values_are_kept(tmp_path):
    state = Strict().state_dict()
    state["extra"] = 3
    found = saved(tmp_path, state)
    assert versions_of(found) == {"": {"version": 2}}
    assert list(found) == list(state)


def test_versions_are_kept_where_names_of_tensors_reach_into_another_dict(tmp_path):
    module = Strict()
    found = saved(tmp_path, {"a": module.state_dict(), "a.b": torch.ones(2)})
    module.load_state_dict(found["a"])


def test_usual_versions_take_no_bytes(tmp_path):
    state = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).state_dict()
    assert versions_of(state)["1"] == {"version": 2}
    assert told_versions(state) == {}
    torch.save(state, tmp_path / "model.pt")
    assert open_checkpoint(tmp_path / "model.pt").nest is None


def test_old_spectral_norm_tells_its_version(tmp_path):
    module = nn.utils.spectral_norm(nn.Linear(4, 4))
    found = saved(tmp_path, module.state_dict())
    assert versions_of(found)[""]["spectral_norm"] == {"weight.version": 1}


@pytest.mark.parametrize(
    "versions", [{"": {"version": torch.ones(2)}}, {1: {"version": 2}}, {"": 3}, 7, {"": {"a": {"b": {"c": 1}}}}]
)
def test_versions_that_are_none_are_passed_over(tmp_path, versions):
    state = OrderedDict(w=torch.ones(3))
    state._metadata = versions
    assert not versions_of(saved(tmp_path, state))
