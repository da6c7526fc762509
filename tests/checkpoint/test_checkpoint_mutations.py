"""Damaged files: random mutations and truncations end in one clear error, or change nothing that matters."""

import io
import json
import os
import pickle
import random
import tarfile
import time
import tracemalloc
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from checkpoint_files import peak_rss, tensors_of
from safetensors.torch import save
from torch.distributed import checkpoint as distributed

from hmcompress.checkpoint import open_checkpoint, unpack_nest
from hmcompress.errors import SourceError

COUNT = int(os.environ.get("HMC_MUTATIONS", "250"))  # of each format
LIMIT = 40e6  # bytes of memory for sources of a few kB
OBJECT = {
    "epoch": 3,
    "state": OrderedDict(a=torch.arange(12.0).reshape(3, 4), b=torch.arange(4, dtype=torch.int16)),
    "tied": None,
    "mean": np.arange(3.0),
    "names": ["x", ("y", 1.5)],
}
OBJECT["tied"] = OBJECT["state"]["a"][1]


def saved_with(zipped, obj=OBJECT):
    buffer = io.BytesIO()
    torch.save(obj, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def deflated():
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(saved_with(True))) as old,
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return buffer.getvalue()


def without_checksums():
    """Mutations of such a file reach the pickle machine."""
    torch.serialization.set_crc32_options(False)
    try:
        return saved_with(True)
    finally:
        torch.serialization.set_crc32_options(True)


def scripted():
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1))), buffer)
    return buffer.getvalue()


def numpy_archive():
    buffer = io.BytesIO()
    np.savez(buffer, a=np.arange(6.0).reshape(2, 3), b=np.arange(3))
    return buffer.getvalue()


def numpy_object():
    buffer = io.BytesIO()
    np.save(buffer, {"a": np.arange(6.0).reshape(2, 3), "b": [np.arange(3), "x"]}, allow_pickle=True)
    return buffer.getvalue()


def exported():
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(torch.nn.Linear(3, 2), (torch.ones(1, 3),)), buffer)
    return buffer.getvalue()


def wrapped(kind):
    """An archive around two models."""
    models, buffer = {"a.pt": saved_with(True), "b.safetensors": SOURCES["safetensors"]()}, io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, data in models.items():
                archive.writestr(name, data)
        return buffer.getvalue()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in models.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue().rstrip(b"\0") + bytes(1024)  # without most of the zeros at the end


SOURCES = {
    "zip": lambda: saved_with(True),
    "legacy": lambda: saved_with(False),
    "zip_without_checksums": without_checksums,
    "deflated": deflated,
    "torchscript": scripted,
    "module": lambda: saved_with(False, torch.nn.Linear(3, 2)),
    "pickle": lambda: pickle.dumps(OBJECT, 4),
    "pickle0": lambda: pickle.dumps(OBJECT, 0),
    "safetensors": lambda: save({"a": OBJECT["state"]["a"], "b": OBJECT["state"]["b"]}, {"x": "y"}),
    "npz": numpy_archive,
    "npy_of_objects": numpy_object,
    "exported": exported,
    "zip_around": lambda: wrapped("zip"),
    "tar_around": lambda: wrapped("tar"),
    "index": lambda: json.dumps({"weight_map": {"a": "shard.safetensors", "b": "shard.safetensors"}}).encode(),
}


def mutate(data, rng):
    """A truncation, or some changed, inserted, removed or repeated bytes."""
    out = bytearray(data)
    kind = rng.randrange(6)
    if kind == 0:
        return bytes(out[: rng.randrange(len(out))])
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        at = rng.randrange(len(out) or 1)
        if kind in (1, 2):
            out[at : at + 1] = rng.randbytes(1)
        elif kind == 3:
            out[at : at + 4] = rng.choice((b"\xff" * 4, b"\0" * 4, b"\xff\xff\xff\x7f", rng.randbytes(4)))
        elif kind == 4:
            out[at:at] = rng.randbytes(rng.randrange(1, 5))
        else:
            del out[at : at + rng.randrange(1, 9)]
    return bytes(out)


def outcome(path):
    """Open, load everything and rebuild: None where it works, else the error's message."""
    try:
        checkpoint = open_checkpoint(path)
        tensors = tensors_of(checkpoint)
        for name, entry in checkpoint.entries.items():
            assert (tensors[name].shape, tensors[name].dtype) == (entry.shape, entry.dtype)
        unpack_nest(json.loads(json.dumps(checkpoint.nest)), tensors)
    except SourceError as error:
        return str(error)
    return None


@pytest.mark.parametrize("kind", SOURCES)
def test_mutations_end_in_one_clear_error_or_do_no_harm(tmp_path, kind):
    data = SOURCES[kind]()
    path = tmp_path / ("model.index.json" if kind == "index" else "model.pt")
    (tmp_path / "shard.safetensors").write_bytes(SOURCES["safetensors"]())
    path.write_bytes(data)
    assert outcome(path) is None
    rng = random.Random(kind)
    refused, rss = 0, peak_rss()
    tracemalloc.start()
    for _ in range(COUNT):
        path.write_bytes(mutate(data, rng))
        start = time.perf_counter()
        found = outcome(path)
        assert time.perf_counter() - start < 10
        if found is not None:
            refused += 1
            assert "\n" not in found
            assert len(found) < 700
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < LIMIT
    assert peak_rss() - rss < 2 * LIMIT
    assert refused > COUNT // 10


@pytest.mark.parametrize("file", [".metadata", "__0_0.distcp"])
def test_mutations_of_a_distributed_checkpoint_do_no_harm(tmp_path, file):
    distributed.save({"state": dict(OBJECT["state"]), "epoch": 3}, checkpoint_id=tmp_path)
    data, rng = (tmp_path / file).read_bytes(), random.Random(file)
    assert outcome(tmp_path) is None
    refused = 0
    for _ in range(COUNT):
        (tmp_path / file).write_bytes(mutate(data, rng))
        found = outcome(tmp_path)
        refused += found is not None
        assert "\n" not in (found or "")
    assert refused > COUNT // 10


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle", "safetensors"])
def test_every_truncation_is_refused(tmp_path, kind):
    data = SOURCES[kind]()
    path = tmp_path / "model.pt"
    for size in range(0, len(data), max(1, len(data) // 150)):
        path.write_bytes(data[:size])
        assert outcome(path) is not None, size


def test_the_zip_checksums_catch_every_changed_weight(tmp_path):
    """Where a mutated zip file opens and loads, its tensors are those of the original."""
    data = saved_with(True, OBJECT["state"])
    path = tmp_path / "model.pt"
    rng = random.Random(5)
    for _ in range(200):
        changed = bytearray(data)
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        try:
            found = tensors_of(open_checkpoint(path))
        except SourceError:
            continue
        assert list(found) == ["a", "b"]
        assert all(torch.equal(found[name], OBJECT["state"][name]) for name in found)
