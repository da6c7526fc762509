"""Values of numpy and jax in pickles, of any age."""

import datetime
import pickle
import sys
import types

import numpy as np
import pytest
import torch
from checkpoint_files import assert_same, restored

from hmcompress.checkpoint import open_checkpoint

W = torch.arange(12.0).reshape(3, 4)


@pytest.mark.parametrize("old_path", [False, True], ids=["numpy._core", "numpy.core"])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_numpy_values_of_old_and_new_releases_are_read(tmp_path, old_path, protocol):
    saved = {
        "array": np.arange(6, dtype=np.float32).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big": np.arange(3, dtype=">i4"),
        "empty": np.zeros((0, 3)),
        "scalar": np.float64(0.25),
        "flag": np.bool_(True),
        "w": W,
    }
    data = pickle.dumps(saved, protocol=protocol)
    if old_path:
        data = data.replace(b"cnumpy._core.", b"cnumpy.core.").replace(
            b"\x8c\x16numpy._core.mul", b"\x8c\x15numpy.core.mul"
        )
        data = data.replace(b"\x8c\x13numpy._core.numeric", b"\x8c\x12numpy.core.numeric")
        data = data if protocol == 2 else _without_frames(data)
        assert b"_core" not in data
    path = tmp_path / "model.pt"
    path.write_bytes(data)
    assert_same(restored(path), saved | {"big": np.arange(3, dtype=np.int32)})


class _Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2 wrote its strings, from which text and data could not be told apart."""

    def save_bytes(self, data):
        self.write(pickle.BINSTRING + len(data).to_bytes(4, "little") + data)

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.dispatch = {**pickle._Pickler.dispatch, bytes: _Python2Pickler.save_bytes}


@pytest.mark.parametrize("data", [b"\xdf\x99\x20\x68", b"\xc3\xa9\xc3\xa9", b"abcd", b"\xff\xfe\x80\x3f"])
def test_numbers_of_python_2_are_read_whatever_text_their_bytes_are(tmp_path, data):
    saved = {
        "array": np.frombuffer(3 * data, np.float32),
        "scalar": np.frombuffer(data, np.float32)[0],
        "date": datetime.date(1900, 3, 31),
        "moment": datetime.datetime(1900, 12, 10, 16, 20, 55, 0xC3A9),  # in bytes, UTF-8
        "w": W,
    }
    path = tmp_path / "model.pkl"
    with path.open("wb") as file:
        _Python2Pickler(file, 2).dump(saved)
    assert_same(restored(path), saved | {"date": str(saved["date"]), "moment": str(saved["moment"])})


def _without_frames(data):
    out = data[:2]
    assert data[2:3] == pickle.FRAME
    return out + data[11:]


class _DeviceArray:
    """Pickled as jax pickles its arrays."""

    def __init__(self, values):
        self.values = values

    def __reduce__(self):
        make, arguments, state = self.values.__reduce__()
        return sys.modules["jax._src.array"]._reconstruct_array, (make, arguments, state, {"weak_type": False})


def test_arrays_of_jax_are_read_as_arrays_of_numpy(tmp_path, monkeypatch):
    for name in ("jax", "jax._src", "jax._src.array"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    exec("def _reconstruct_array(*_): raise AssertionError", vars(sys.modules["jax._src.array"]))
    values = np.arange(20, dtype=np.float32).reshape(4, 5)
    path = tmp_path / "params.pkl"
    path.write_bytes(pickle.dumps({"dense": {"kernel": _DeviceArray(values)}}))
    checkpoint = open_checkpoint(path)
    assert_same(restored(checkpoint), {"dense": {"kernel": values}})
    assert not checkpoint.left_behind


def test_numpy_values_without_numbers_are_kept_or_said(tmp_path):
    saved = {
        "names": np.array(["ab", "c"]),
        "objects": np.array([1, "x"], dtype=object),
        "dates": np.array(["2020-01-01"], dtype="datetime64[D]"),
        "dtype": np.dtype("float32"),
        "w": W,
    }
    path = tmp_path / "model.pt"
    torch.save(saved, path)
    checkpoint = open_checkpoint(path)
    assert_same(restored(checkpoint), {"names": ["ab", "c"], "objects": [1, "x"], "dates": None, "dtype": None, "w": W})
    assert len(checkpoint.left_behind) == 4


@pytest.mark.parametrize("name", ["dict.npy", "weights.pt"])
def test_a_dict_that_numpy_saved_is_read(tmp_path, name):
    saved = {"conv1": {"weights": np.arange(6, dtype=np.float32).reshape(2, 3), "biases": np.zeros(2)}, "layers": [1]}
    with open(tmp_path / name, "wb") as file:
        np.save(file, saved, allow_pickle=True)
    checkpoint = open_checkpoint(tmp_path / name)
    assert_same(restored(checkpoint), saved)
    assert not checkpoint.left_behind


def test_several_objects_that_numpy_saved_are_a_list(tmp_path):
    saved = [np.arange(3.0), {"w": np.ones((2, 2), np.float32)}, None]
    array = np.empty(3, dtype=object)
    array[:] = saved
    np.save(tmp_path / "list.npy", array, allow_pickle=True)
    assert_same(restored(tmp_path / "list.npy"), saved)


def test_objects_that_numpy_saved_run_no_code(tmp_path):
    class Attack:
        def __reduce__(self):
            return exec, (f"open({str(tmp_path / 'executed')!r}, 'w')",)

    np.save(tmp_path / "a.npy", {"w": np.ones(3), "x": Attack()}, allow_pickle=True)
    assert_same(restored(tmp_path / "a.npy")["w"], np.ones(3))
    assert not (tmp_path / "executed").exists()
