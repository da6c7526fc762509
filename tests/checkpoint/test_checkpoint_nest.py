"""The skeleton of plain values: everything comes back, through JSON, and damaged skeletons are refused."""

import json
from collections import OrderedDict

import numpy as np
import pytest
import torch
from checkpoint_files import assert_same
from hypothesis import given, settings
from hypothesis import strategies as st

from hmcompress.checkpoint import pack_nest, unpack_nest
from hmcompress.checkpoint.nest import flatten
from hmcompress.errors import FormatError, SourceError


def through_json(obj):
    flat = flatten(obj)
    return unpack_nest(json.loads(json.dumps(flat.nest)), {n: as_tensor(t) for n, t in flat.leaves.items()})


def as_tensor(leaf):
    return torch.from_numpy(leaf) if isinstance(leaf, np.ndarray) else leaf


def test_a_flat_dict_of_tensors_costs_nothing():
    assert pack_nest({"a.b": torch.ones(1), "c": torch.ones(2)}) is None
    assert pack_nest(OrderedDict(a=torch.ones(1))) is None


def test_a_dict_of_tensors_costs_nothing_for_each_tensor():
    one = pack_nest({"step": 1, "state": {"a": torch.ones(1)}})
    many = pack_nest({"step": 1, "state": {f"layer.{i}.weight": torch.ones(1) for i in range(100)}})
    assert one == many == {"step": 1, "state": {"$": "tensors"}}


@pytest.mark.parametrize(
    "value",
    [
        None, True, False, 0, -1, 2**53, 2**53 + 1, -(2**200), 0.1, -0.0, 1e308, 5e-324, float("nan"), float("inf"),
        -float("inf"), "", "text", "\ud800 surrogate", "\u2028", 1 + 2j, complex("nan"), b"", b"\0\xff",
        bytearray(b"x"), (), (1, (2,)), [], [1, [2, []]], {}, {"a": {}}, {1: 2, "1": 3}, {(1, "a"): None},
        {"$": 1}, {"\ud800": 1},
        {None: 0, True: 1, 2.5: 2}, {1, 2, "x"}, frozenset({(1, 2)}), slice(1, None, 2), range(3, 9, 2),
        torch.float32, torch.float8_e4m3fn, torch.device("cuda:1"), torch.Size([2, 3]), OrderedDict(b=1, a=2),
        np.float64(0.5), np.float32("nan"), np.int16(-3), np.bool_(True), np.complex64(1j),
    ],
    ids=lambda value: type(value).__name__,  # the order of a set differs from run to run
)  # fmt: skip
def test_plain_values_survive_json(value):
    saved = {"w": torch.ones(2), "value": value, "list": [value]}
    found = through_json(saved)
    assert_same(found, saved)
    assert str(found["value"]) == str(value) or isinstance(value, (set, frozenset))  # the sign of zero


LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.binary(max_size=5),
    st.integers(0, 3).map(lambda n: torch.arange(float(n))),
)  # fmt: skip
KEYS = st.one_of(st.sampled_from(["a", "b", "a.b", "$", "", "0", "a.b.c"]), st.integers(-1, 2), st.text(max_size=2))
NESTS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(KEYS, inner, max_size=4),
        st.dictionaries(KEYS, inner, max_size=4).map(OrderedDict),
    ),
    max_leaves=12,
)


@given(NESTS)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_any_nest_survives_json(nest):
    assert_same(through_json(nest), nest)


def test_names_that_collide_are_told_apart():
    saved = {"a": {"b": torch.ones(1)}, "a.b": torch.ones(2), 0: torch.ones(3), "0": torch.ones(4)}
    flat = flatten(saved)
    assert list(flat.leaves) == ["a.b", "a.b#2", "0", "0#2"]
    assert_same(through_json(saved), saved)


def test_numpy_arrays_come_back_as_arrays():
    saved = {"mean": np.arange(3.0), "w": torch.ones(2)}
    assert_same(through_json(saved), saved)


def test_dropped_tensors_leave_their_dict():
    saved = {"w": torch.ones(1), "state": {"a": torch.ones(1)}, "pair": (torch.ones(1), 5), "n": 1}
    nest = pack_nest(saved)
    assert unpack_nest(nest, {}) == {"state": {}, "pair": (None, 5), "n": 1}


def test_values_without_plain_form_are_refused():
    with pytest.raises(SourceError, match="type object"):
        pack_nest({"x": object()})
    deep: list = []
    for _ in range(1000):
        deep = [deep]
    with pytest.raises(SourceError, match="deeper than"):
        pack_nest(deep)


@pytest.mark.parametrize(
    "nest",
    [
        {"$": "unknown"}, {"$": "int", "v": "x"}, {"$": "int"}, {"$": "float", "v": "1"},
        {"$": "dict", "k": [1], "v": []}, {"$": "dict", "k": [[]], "v": [1]}, {"$": "dtype", "v": "load"},
        {"$": "device", "v": "nowhere"}, {"$": []},
        {"$": "scalar", "dtype": "|O", "v": ""}, {"$": "scalar", "dtype": "<f8", "v": "AA=="},
        {"$": "range", "v": ["a"]}, {"$": "size", "v": ["a"]},
        {"$": "sparse", "layout": "x", "parts": ["w", "w"], "size": [1]},
        {"$": "sparse", "layout": "sparse_coo", "parts": ["w", "w"], "size": [-1]}, {"$": "complex", "v": [1]},
        {"$": "dict", "k": ["", ""], "v": [{"$": "tensors"}, {"$": "tensors"}]},
        {"$": "tuple", "v": 3}, {"$": "str", "v": "/w=="}, {"$": "set", "v": [[1]]}, {"$": "tensor", "name": []},
    ],
    ids=lambda nest: json.dumps(nest)[:40],
)  # fmt: skip
def test_damaged_skeletons_are_refused(nest):
    with pytest.raises(FormatError, match="skeleton"):
        unpack_nest(nest, {"w": torch.ones(1)})


def test_deep_skeletons_are_refused():
    nest: list = []
    for _ in range(900):
        nest = [nest]
    with pytest.raises(FormatError, match="deeply"):
        unpack_nest(nest, {})
