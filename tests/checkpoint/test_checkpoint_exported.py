"""Archives of torch.export: parameters and buffers come back, ties included; the graph is told."""

import io
import json
import zipfile

import pytest
import torch
from checkpoint_files import assert_same, restored, small_state

from hmcompress.checkpoint import open_checkpoint
from hmcompress.errors import SourceError


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm = torch.nn.Linear(4, 6), torch.nn.BatchNorm1d(6)
        self.second, self.third = torch.nn.Linear(6, 6), torch.nn.Linear(6, 6)
        self.third.weight = self.second.weight
        self.shift = torch.nn.Parameter(torch.ones(6, dtype=torch.bfloat16))
        self.register_buffer("hidden", torch.arange(6.0), persistent=False)

    def forward(self, x):
        return self.third(self.second(self.norm(self.first(x)))) * self.hidden + self.shift


@pytest.fixture
def exported(tmp_path):
    torch.manual_seed(0)
    net, path = Net().eval(), tmp_path / "net.pt2"
    torch.export.save(torch.export.export(net, (torch.ones(2, 4),)), path)
    return net, path


def test_the_state_dict_comes_back(exported):
    net, path = exported
    checkpoint = open_checkpoint(path)
    state = restored(checkpoint)
    assert_same({name: state[name] for name in net.state_dict()}, dict(net.state_dict()))
    assert len(state) == len(net.state_dict())
    assert list(checkpoint.ties) == ["third.weight"]
    assert checkpoint.kind == "torch.export"
    assert "graph of the exported program" in checkpoint.left_behind[0]


@pytest.mark.parametrize("layout", ["2.4", "2.7"])
def test_older_archives_have_a_state_dict_of_torch_save(tmp_path, layout):
    buffer, path = io.BytesIO(), tmp_path / "net.pt2"
    torch.save(small_state(), buffer)
    weights, graph = {
        "2.4": ("serialized_state_dict.pt", "serialized_exported_program.json"),
        "2.7": ("net/data/weights/model.pt", "net/models/model.json"),
    }[layout]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(graph, "{}")
        archive.writestr(weights, buffer.getvalue())
    assert_same(restored(path), small_state())


def changed(path, change):
    """The archive with another table of weights."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in entries if name.endswith("_weights_config.json"))
    table = json.loads(entries[name])
    change(table["config"]["first.weight"])
    entries[name] = json.dumps(table).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for key, data in entries.items():
            archive.writestr(key, data)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda entry: entry.update(path_name="../models/model.json"), "no entry"),
        (lambda entry: entry.update(path_name=3), "does not describe"),
        (lambda entry: entry.pop("tensor_meta"), "does not describe"),
        (lambda entry: entry["tensor_meta"].update(sizes=[{"as_int": 1 << 50}, {"as_int": 4}]), "damaged"),
        (lambda entry: entry["tensor_meta"].update(sizes=[{"as_expr": "s0"}, {"as_int": 4}]), "no numbers"),
        (lambda entry: entry["tensor_meta"].update(sizes=7), "no numbers"),
        (lambda entry: entry["tensor_meta"].update(storage_offset={"as_int": 1}), "beyond its storage"),
        (lambda entry: entry.update(use_pickle=True), "zip archive"),
    ],
)
def test_tables_that_say_what_is_not_so_are_one_line(exported, change, told):
    changed(exported[1], change)
    with pytest.raises(SourceError, match=told):
        open_checkpoint(exported[1])


def test_types_that_are_not_carried_are_left_behind(exported):
    changed(exported[1], lambda entry: entry["tensor_meta"].update(layout=2))
    assert any("first.weight" in line for line in open_checkpoint(exported[1]).left_behind)
