"""Objects of classes that are not imported: what they hold is kept, what they are is said."""

import argparse
import collections
import datetime
import decimal
import enum
import pathlib
import sys
import types

import numpy as np
import pytest
import torch
from checkpoint_files import assert_same, restored

from hmcompress.checkpoint import open_checkpoint

W = torch.arange(4.0).reshape(2, 2)


@pytest.fixture
def foreign():
    """Classes of a package that is gone when the file is opened."""
    module = types.ModuleType("foreign_package")
    source = """
import enum
class AttributeDict(dict):
    def __getattr__(self, key): return self[key]
    def __setattr__(self, key, value): self[key] = value
class History(list): pass
class Mode(enum.Enum):
    TRAIN = "train"
class Scaler:
    def __init__(self, mean): self.mean = mean
class Slotted:
    __slots__ = ("a", "b")
    def __init__(self): self.a, self.b = 1, 2
class Stateful:
    def __getstate__(self): return [1, 2, 3]
    def __setstate__(self, state): raise RuntimeError("executed")
class Reduced:
    def __reduce__(self): return (Reduced, ("payload",))
    def __init__(self, payload="payload"): pass
class Keyed:
    def __new__(cls, *, size=0): return object.__new__(cls)
    def __getnewargs_ex__(self): return (), {"size": 3}
def relu(x): return x
"""
    exec(source, module.__dict__)
    for value in vars(module).values():
        if isinstance(value, type):
            value.__module__ = "foreign_package"
    module.relu.__module__ = "foreign_package"
    sys.modules["foreign_package"] = module
    yield module
    sys.modules.pop("foreign_package", None)


def saved_without_package(tmp_path, obj, zipped=True):
    path = tmp_path / "model.ckpt"
    torch.save(obj, path, pickle_protocol=4, _use_new_zipfile_serialization=zipped)
    sys.modules.pop("foreign_package", None)
    return open_checkpoint(path)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_contents_of_foreign_objects_are_kept(tmp_path, foreign, zipped):
    saved = {
        "hyper_parameters": foreign.AttributeDict(lr=1e-3, layers=[1, 2], act=foreign.relu),
        "history": foreign.History([1, 2]),
        "mode": foreign.Mode.TRAIN,
        "scaler": foreign.Scaler(W),
        "slotted": foreign.Slotted(),
        "stateful": foreign.Stateful(),
        "reduced": foreign.Reduced(),
        "keyed": foreign.Keyed(),
        "class": foreign.Scaler,
        "w": torch.ones(2),
    }
    checkpoint = saved_without_package(tmp_path, saved, zipped)
    assert "foreign_package" not in sys.modules
    wanted = {
        "hyper_parameters": {"lr": 1e-3, "layers": [1, 2], "act": None},
        "history": [1, 2],
        "mode": "train",
        "scaler": {"mean": W},
        "slotted": {"a": 1, "b": 2},
        "stateful": [1, 2, 3],
        "reduced": "payload",
        "keyed": {"size": 3},
        "class": None,
        "w": torch.ones(2),
    }
    assert_same(restored(checkpoint), wanted)
    assert checkpoint.names == ("scaler.mean", "w")
    text = "\n".join(checkpoint.left_behind)
    for line in (
        "hyper_parameters: an object of class foreign_package.AttributeDict, kept as a dict",
        "hyper_parameters.act: the class or function foreign_package.relu",
        "scaler: an object of class foreign_package.Scaler, kept as a dict of its attributes",
        "mode: an object of class foreign_package.Mode, kept as its plain value",
        "class: the class or function foreign_package.Scaler",
    ):
        assert line in text


class Colour(enum.IntEnum):
    RED = 1


Pair = collections.namedtuple("Pair", "a b")


@pytest.mark.parametrize("protocol", [2, 4])
def test_standard_library_values_become_plain(tmp_path, protocol):
    saved = {
        "args": argparse.Namespace(lr=0.1, name="x", nested=argparse.Namespace(k=1)),
        "when": datetime.datetime(2024, 5, 6, 7, 8, 9),
        "took": datetime.timedelta(days=1, seconds=2),
        "where": pathlib.PurePosixPath("/data/run"),
        "price": decimal.Decimal("1.5"),
        "colour": Colour.RED,
        "pair": Pair(1, 2),
        "counter": collections.Counter("aab"),
        "default": collections.defaultdict(list, a=[1]),
        "deque": collections.deque([1, 2], maxlen=5),
        "set": {1, 2},
        "w": W,
    }
    path = tmp_path / "model.pt"
    torch.save(saved, path, pickle_protocol=protocol)
    wanted = {
        "args": {"lr": 0.1, "name": "x", "nested": {"k": 1}},
        "when": "2024-05-06 07:08:09",
        "took": "1 day, 0:00:02",
        "where": "/data/run",
        "price": "1.5",
        "colour": 1,
        "pair": (1, 2),
        "counter": collections.Counter("aab"),
        "default": {"a": [1]},
        "deque": [1, 2],
        "set": {1, 2},
        "w": W,
    }
    found = restored(path)
    assert_same(found, wanted)
    assert type(found["counter"]) is collections.Counter
    assert "args, args.nested: an object of class argparse.Namespace, kept as a dict of its attributes" in (
        open_checkpoint(path).left_behind
    )


def test_a_long_list_of_foreign_objects_is_one_line(tmp_path, foreign):
    checkpoint = saved_without_package(tmp_path, {"w": W, "all": [foreign.Reduced() for _ in range(50)]})
    assert checkpoint.left_behind == (
        "all.0, all.1, all.2 and 47 more: an object of class foreign_package.Reduced, kept as its plain value",
    )


def test_foreign_objects_that_refer_to_each_other_are_cut(tmp_path, foreign):
    first = last = foreign.Scaler(W)
    for _ in range(40):  # each knows the next one by two names: 2^40 paths
        last.left = last.right = foreign.Scaler(W)
        last = last.left
    checkpoint = saved_without_package(tmp_path, {"w": torch.ones(1), "graph": first})
    assert checkpoint.names[:3] == ("w", "graph.mean", "graph.left.mean")
    assert any("kept elsewhere already" in line for line in checkpoint.left_behind)


def test_keys_of_any_kind_are_kept_or_said(tmp_path, foreign):
    saved = {np.int64(3): 1, (1, "a"): 2, frozenset({1}): 3, foreign.Mode.TRAIN: 4, 2.5: 5, None: 6, "w": W}
    saved[foreign.Scaler] = {"best": torch.ones(1)}  # callbacks of older Lightning releases
    saved[foreign.Stateful()] = 7
    checkpoint = saved_without_package(tmp_path, saved)
    wanted = {3: 1, (1, "a"): 2, "train": 4, 2.5: 5, None: 6, "w": W, "foreign_package.Scaler": {"best": torch.ones(1)}}
    assert_same(restored(checkpoint), wanted)
    assert checkpoint.left_behind == (
        "3, train, foreign_package.Scaler: an item whose key is an object, kept under its plain value",
        "(root), (root): an item whose key is an object",
    )


def test_the_state_of_an_optimizer_pickled_whole_is_kept(tmp_path):
    path, module = tmp_path / "m.pt", torch.nn.Linear(4, 3)
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    torch.save({"model": module, "optimizer": optimizer}, path)
    checkpoint = open_checkpoint(path)
    state = restored(checkpoint)["optimizer"]["state"]
    assert_same(state, optimizer.state_dict()["state"])
    assert "under its number" in " ".join(checkpoint.left_behind)


def test_an_optimizer_pickled_whole_is_opened(tmp_path):
    module = torch.nn.Linear(2, 2)
    path = tmp_path / "model.pt"
    torch.save({"model": module, "optimizer": torch.optim.SGD(module.parameters(), lr=0.1)}, path)
    checkpoint = open_checkpoint(path)
    assert checkpoint.names[:2] == ("model.weight", "model.bias")
    assert "optimizer.param_groups.0.params.0" in checkpoint.ties
