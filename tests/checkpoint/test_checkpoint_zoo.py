"""Real checkpoints of public packages: the same keys, order, shapes, types, values and ties as torch.load gives."""

import os
from pathlib import Path

import pytest
import torch
from checkpoint_files import assert_same, restored, tensors_of
from safetensors.torch import load_file

from hmcompress.checkpoint import open_checkpoint

ZOO = Path(os.environ.get("HMC_ZOO", Path.home() / ".cache" / "hmc-zoo"))
MODELS = sorted(p for p in ZOO.glob("*/*") if p.suffix in (".pt", ".bin")) if ZOO.is_dir() else []
needs_zoo = pytest.mark.skipif(not MODELS, reason="the zoo of real checkpoints is not here (HMC_ZOO)")


@needs_zoo
@pytest.mark.parametrize("path", MODELS or [None], ids=lambda path: path.name if path else "none")
def test_torch_checkpoints_equal_torch_load(path):
    checkpoint = open_checkpoint(path)
    wanted = torch.load(path, map_location="cpu", weights_only=True)
    found = restored(checkpoint)
    assert_same(found, wanted)
    assert shared(found) == shared(wanted)
    assert checkpoint.left_behind == ()


def shared(obj):
    """Groups of paths whose tensors begin at the same memory."""
    groups: dict[int, list[str]] = {}
    todo = [("", obj)]
    while todo:
        place, value = todo.pop()
        if isinstance(value, torch.Tensor):
            groups.setdefault(value.data_ptr(), []).append(place)
        elif isinstance(value, (dict, list, tuple)):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            todo.extend((f"{place}.{key}", item) for key, item in items)
    return sorted(sorted(group) for pointer, group in groups.items() if pointer and len(group) > 1)


@needs_zoo
def test_torchscript_equals_its_state_dict():
    path = ZOO / "silero-vad" / "silero_vad.jit"
    found = tensors_of(open_checkpoint(path))
    assert "_model.decoder.rnn.weight_ih" in found
    assert_same(found, dict(torch.jit.load(path, map_location="cpu").state_dict()))


@needs_zoo
def test_safetensors_equals_its_own_reader():
    path = ZOO / "silero-vad" / "silero_vad_16k.safetensors"
    found, wanted = tensors_of(open_checkpoint(path)), load_file(path)
    assert sorted(found) == sorted(wanted)
    for name in wanted:
        assert_same(found[name], wanted[name])
