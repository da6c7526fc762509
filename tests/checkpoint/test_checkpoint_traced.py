"""Modules of torch.fx, which pickle as a call and not as an object: their state dict, like that of any module."""

from collections import OrderedDict

import pytest
import torch
from checkpoint_files import assert_same, restored
from torch import nn

from hmcompress.checkpoint import open_checkpoint


class Scaled(nn.Module):
    """A module with a parameter and buffers of its own, one of which is no part of the state dict."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
        self.gain = nn.Parameter(torch.full((2,), 2.0))
        self.register_buffer("mean", torch.ones(2))
        self.register_buffer("scratch", torch.zeros(5), persistent=False)

    def forward(self, x):
        return (self.inner(x) - self.mean) * self.gain + self.scratch[:2]


def traced() -> nn.Module:
    return torch.fx.symbolic_trace(Scaled())


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_traced_module_gives_its_state_dict(tmp_path, zipped):
    path, module = tmp_path / "model.pt", traced()
    torch.save(module, path, _use_new_zipfile_serialization=zipped)
    assert_same(restored(path), OrderedDict(module.state_dict()))
    assert "(root): module torch.fx.graph_module.GraphModule: its code" in open_checkpoint(path).left_behind[0]


def test_a_traced_module_inside_another_has_its_place(tmp_path):
    path, module = tmp_path / "model.pt", nn.Sequential(nn.Linear(3, 3), traced())
    torch.save({"net": module, "epoch": 3}, path)
    assert_same(restored(path), {"net": OrderedDict(module.state_dict()), "epoch": 3})


@pytest.mark.filterwarnings("ignore:TypedStorage")
def test_a_traced_module_in_a_torch_package_is_kept(tmp_path):
    path, module = tmp_path / "model.pt", traced()
    with torch.package.PackageExporter(path) as exporter:
        exporter.extern("**")
        exporter.save_pickle("model", "model.pkl", module)
    assert_same(restored(path), OrderedDict(module.state_dict()))


class Damaged:
    """Pickles as a traced module whose attributes are none."""

    def __reduce__(self):
        return torch.fx.graph_module.reduce_graph_module, ("x", "")


def test_a_traced_module_without_attributes_is_left_in_one_line(tmp_path):
    torch.save({"w": torch.ones(2), "net": Damaged()}, tmp_path / "model.pt")
    checkpoint = open_checkpoint(tmp_path / "model.pt")
    assert checkpoint.names == ("w",)
    assert "GraphModule" in checkpoint.left_behind[0]
