"""Nothing is lost in silence: weights that no state dict holds are named, and configurations come back plain."""

import datetime
import sys
import types
from collections import deque

import pytest
import torch
from checkpoint_files import assert_same, restored, tensors_of
from torch import nn

from hmcompress.checkpoint import open_checkpoint
from hmcompress.errors import SourceError

LOOSE = "a tensor among the attributes of a module, which is not part of its state dict"


class Attributed(nn.Module):
    """A module that keeps tensors outside of its state."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(2, 2)
        self.table = torch.ones(3)
        self.inner.scales = {"a": [torch.ones(2)]}
        self.alias = [self.inner.weight]
        self.shared = self.inner.shared = {"settings": [1, 2, 3]}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_tensors_among_the_attributes_of_a_module_are_named(tmp_path, zipped):
    path = tmp_path / "model.pt"
    torch.save({"net": Attributed()}, path, _use_new_zipfile_serialization=zipped)
    checkpoint = open_checkpoint(path)
    assert set(tensors_of(checkpoint)) == {"net.inner.weight", "net.inner.bias"}
    assert f"net.table, net.inner.scales: {LOOSE}" in checkpoint.left_behind
    assert not any("alias" in line or "shared" in line for line in checkpoint.left_behind)


class Chosen(nn.Module):
    """As programs keep one model for each class: in a plain dict, which torch does not look into."""

    def __init__(self):
        super().__init__()
        self.classifier = nn.Linear(2, 2)
        self.models = {0: nn.Linear(3, 2), (1, 2): deque([Attributed()])}
        self.models[0].owner = [self, self.classifier]


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_modules_in_plain_containers_of_a_module_are_kept(tmp_path, zipped):
    path = tmp_path / "model.pt"
    module = Chosen()
    torch.save(module, path, _use_new_zipfile_serialization=zipped)
    checkpoint = open_checkpoint(path)
    tensors = tensors_of(checkpoint)
    own = {"classifier.weight", "classifier.bias", "models.0.weight", "models.0.bias"}
    assert set(tensors) == own | {"models.1.0.inner.weight", "models.1.0.inner.bias"}
    assert torch.equal(tensors["models.0.weight"], module.models[0].weight)
    assert any(line.startswith("models.0, models.1.0: a module in a plain") for line in checkpoint.left_behind)


class Entries(dict):
    """A dict with an attribute."""


class Items(list):
    """A list with an attribute."""


class Rebuilt:
    """An object that is called with a tensor, and then gets a state."""

    def __init__(self, weight=None):
        self.weight = weight

    def __reduce__(self):
        return Rebuilt, (self.weight,), {"step": 1}


def test_tensors_in_every_part_of_an_object_are_kept(tmp_path):
    """What of an object was kept was its entries, its items or its attributes, and the other parts went in silence."""
    entries, items = Entries(a=torch.ones(2)), Items([torch.ones(3)])
    entries.b = items.b = torch.ones(4)
    plain = Entries(a=torch.ones(2))
    plain.step = 1
    path = tmp_path / "model.pt"
    torch.save({"entries": entries, "items": items, "rebuilt": Rebuilt(torch.ones(5)), "plain": plain}, path)
    checkpoint = open_checkpoint(path)
    kept = ["entries.entries.a", "entries.attributes.b", "items.items.0", "items.attributes.b", "rebuilt.values.0"]
    assert list(checkpoint.names) == [*kept, "plain.a"]
    assert (
        "rebuilt: an object of class test_checkpoint_left_behind.Rebuilt, kept as a dict of its attributes and values"
        in (checkpoint.left_behind)
    )


def test_arrays_among_the_attributes_of_a_module_are_named(tmp_path):
    module = nn.Linear(2, 2)
    module.mean = torch.ones(3).numpy()
    torch.save(module, tmp_path / "model.pt")
    assert any(line.startswith("mean: a numpy array") for line in open_checkpoint(tmp_path / "model.pt").left_behind)


class PackedParameters:
    """As torch pickles the weights of a quantised layer: inside an object of a class that only C++ knows."""

    def __init__(self, weight):
        self.weight = weight


@pytest.mark.filterwarnings("ignore")
def test_quantised_layers_of_a_module_are_named(tmp_path):
    quantised = torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 0, torch.qint8)
    module = nn.Sequential(nn.Linear(2, 2), nn.Identity())
    module[1].packed = PackedParameters(quantised)
    torch.save(module, tmp_path / "mixed.pt")
    assert any(line.startswith("1.packed: a quantized") for line in open_checkpoint(tmp_path / "mixed.pt").left_behind)
    torch.save(module[1:], tmp_path / "model.pt")
    with pytest.raises(SourceError, match=r"holds no tensors that can be read .*packed: a quantized tensor"):
        open_checkpoint(tmp_path / "model.pt")


@pytest.mark.filterwarnings("ignore")
def test_frozen_torchscript_says_where_its_weights_are(tmp_path):
    module = torch.jit.freeze(torch.jit.script(nn.Linear(64, 64)).eval())
    torch.jit.save(module, tmp_path / "model.pt")
    with pytest.raises(SourceError, match="frozen TorchScript"):
        open_checkpoint(tmp_path / "model.pt")


class Scripted(nn.Module):
    """A module whose traced code holds a tensor."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        return self.inner(x) + torch.arange(1000.0)[:4]


@pytest.mark.filterwarnings("ignore")
def test_constants_of_torchscript_are_counted(tmp_path):
    script = torch.jit.trace(Scripted().eval(), torch.ones(2, 4))
    torch.jit.save(torch.jit.freeze(script, preserved_attrs=["inner"]), tmp_path / "model.pt")
    checkpoint = open_checkpoint(tmp_path / "model.pt")
    assert "kB of tensors" in checkpoint.left_behind[0]


class Shards(torch.Tensor):
    """As DTensor and quantised subclasses are pickled: a wrapper without storage, its parts in its attributes."""

    @staticmethod
    def __new__(cls, part):
        made = torch.Tensor._make_wrapper_subclass(cls, part.shape, dtype=part.dtype)
        made.part = part
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return func(*(a.part if isinstance(a, Shards) else a for a in args), **(kwargs or {}))


def test_tensors_made_of_parts_are_kept_as_their_parts(tmp_path):
    """Else a model of torchao, or of sharded tensors, would lose every weight."""
    torch.save({"w": torch.ones(2), "d": Shards(torch.ones(2, 2))}, tmp_path / "model.pt")
    checkpoint = open_checkpoint(tmp_path / "model.pt")
    assert checkpoint.names == ("w", "d.part")
    (line,) = checkpoint.left_behind
    assert line.startswith("d: a tensor of class")
    assert "kept as a dict of its parts; save its full_tensor() or dequantize() for one" in line


def test_parameters_made_of_parts_are_kept_in_a_pickled_module(tmp_path):
    module = nn.Linear(2, 2)
    module._parameters["weight"] = Shards(torch.ones(2, 2))
    torch.save(module, tmp_path / "model.pt")
    checkpoint = open_checkpoint(tmp_path / "model.pt")
    assert checkpoint.names == ("weight.part", "bias")
    assert any(line.startswith("weight: a tensor of class") for line in checkpoint.left_behind)


def test_tensors_made_of_nothing_are_left_behind(tmp_path):
    hollow = Shards(torch.ones(2, 2))
    del hollow.part
    torch.save({"w": torch.ones(2), "d": hollow}, tmp_path / "model.pt")
    (line,) = open_checkpoint(tmp_path / "model.pt").left_behind
    assert line.startswith("d: a tensor of class") and "without plain values" in line


@pytest.fixture
def omegaconf(monkeypatch):
    """Classes that pickle as those of OmegaConf do, by the kind of value that they hold."""
    made = {}
    places = ((dict, "dictconfig", "DictConfig"), (list, "listconfig", "ListConfig"), (object, "nodes", "AnyNode"))
    monkeypatch.setitem(sys.modules, "omegaconf", types.ModuleType("omegaconf"))
    for kind, package, name in places:
        made[kind] = type(name, (), {"__module__": f"omegaconf.{package}"})
        module = types.ModuleType(f"omegaconf.{package}")
        setattr(module, name, made[kind])
        monkeypatch.setitem(sys.modules, f"omegaconf.{package}", module)
    return made


def config(value, classes, parent=None):
    """A nest of dicts, lists and values as OmegaConf holds it: each knows what contains it."""
    made = classes.get(type(value), classes[object])()
    made._parent, made._metadata = parent, {"ref_type": dict}
    if isinstance(value, dict):
        made._content = {key: config(item, classes, made) for key, item in value.items()}
    elif isinstance(value, list):
        made._content = [config(item, classes, made) for item in value]
    else:
        made._val = value
    return made


def test_configurations_of_omegaconf_come_back_plain(tmp_path, omegaconf):
    settings = {"lr": 1e-3, "widths": [1, [2, 3]], "act": {"name": "tanh", "none": None}, "empty": {}}
    torch.save({"hparams": config(settings, omegaconf), "w": torch.ones(2)}, tmp_path / "model.ckpt")
    checkpoint = open_checkpoint(tmp_path / "model.ckpt")
    assert_same(restored(checkpoint), {"hparams": settings, "w": torch.ones(2)})
    (line,) = checkpoint.left_behind
    assert line.endswith("an OmegaConf configuration, kept as plain dicts, lists and values")


def test_types_of_torch_are_kept_as_keys(tmp_path):
    saved = {"w": torch.ones(2), "of": {torch.float32: 1, torch.device("cpu"): torch.ones(3)}, "in": {torch.int8}}
    torch.save(saved, tmp_path / "model.pt")
    checkpoint = open_checkpoint(tmp_path / "model.pt")
    assert checkpoint.left_behind == ()
    assert_same(restored(checkpoint), saved)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_attributes_of_a_parameter_and_layouts_are_named(tmp_path, zipped):
    weight = nn.Parameter(torch.ones(3))
    weight.origin = "elsewhere"
    saved = {"w": weight, "layout": torch.strided, "sparse": torch.eye(2).to_sparse()}
    torch.save(saved, tmp_path / "model.pt", _use_new_zipfile_serialization=zipped)
    checkpoint = open_checkpoint(tmp_path / "model.pt")
    assert checkpoint.left_behind == (
        "w: attributes of a parameter; its values are kept",
        "layout: a torch.layout, kept as text",
    )
    found = restored(checkpoint)
    assert torch.equal(found["w"], weight) and found["layout"] == "strided"
    assert torch.equal(found["sparse"].to_dense(), torch.eye(2))


def test_a_moment_that_loses_its_time_zone_says_so(tmp_path):
    moments = {"w": torch.ones(2), "utc": datetime.datetime(2024, 5, 6, tzinfo=datetime.UTC)}
    torch.save(moments, tmp_path / "m.pt")
    lines = open_checkpoint(tmp_path / "m.pt").left_behind
    assert lines == ("utc: a datetime.datetime, kept as text without its time zone",)
