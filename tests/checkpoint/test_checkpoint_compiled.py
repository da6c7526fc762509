"""Modules whose children are TorchScript in bytes, as e3nn pickles the code that it generates (MACE, NequIP)."""

import io
import pickle
from collections import OrderedDict

import pytest
import torch
from checkpoint_files import assert_same, restored
from torch import nn

from hmcompress.checkpoint import open_checkpoint
from hmcompress.errors import SourceError


class Tables(nn.Module):
    """A child that is compiled: two buffers, and a child of its own."""

    def __init__(self):
        super().__init__()
        self.register_buffer("w3j", torch.arange(27.0).reshape(3, 3, 3))
        self.register_buffer("norm", torch.ones(2))
        self.inner = nn.Linear(3, 2)

    def forward(self, x):
        return self.inner(x @ self.w3j[0]) * self.norm


class Generated(nn.Module):
    """A module that takes its compiled child out of `_modules` when it is pickled."""

    def __init__(self, damage=0):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(20))
        self.code = torch.jit.script(Tables())
        self.after = nn.Linear(20, 20)
        self._damage = damage

    def __getstate__(self):
        state, buffer = self.__dict__.copy(), io.BytesIO()
        state["_modules"] = {name: child for name, child in self._modules.items() if name != "code"}
        torch.jit.save(self.code, buffer)
        state["__codegen__"] = {"code": buffer.getvalue()[: -self._damage or None]}
        return state


def expected(module: Generated, prefix: str = "") -> OrderedDict:
    """The state dict with the compiled child at the end, where unpickling puts it."""
    state = {prefix + name: tensor for name, tensor in module.state_dict().items()}
    last = [name for name in state if name.startswith(f"{prefix}code.")]
    return OrderedDict([(n, t) for n, t in state.items() if n not in last] + [(n, state[n]) for n in last])


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_compiled_children_are_part_of_the_state_dict(tmp_path, zipped):
    path, module = tmp_path / "model.pt", Generated()
    torch.save(module, path, _use_new_zipfile_serialization=zipped)
    assert_same(restored(path), expected(module))
    assert len(open_checkpoint(path).left_behind) == 1


def test_a_state_dict_with_compiled_children_loads_strictly(tmp_path):
    path, module = tmp_path / "model.pt", nn.Sequential(Generated(), nn.Linear(3, 3))
    torch.save(module, path)
    module.load_state_dict(restored(path), strict=True)


class Told(Generated):
    """The same, with what its child is, as e3nn writes it since 0.5.2; of torch.fx where `code` is traced."""

    def __init__(self, traced: bool):
        super().__init__()
        if traced:
            self.code = torch.fx.symbolic_trace(Tables())

    def __getstate__(self):
        state = self.__dict__.copy()
        state["_modules"] = {name: child for name, child in self._modules.items() if name != "code"}
        if isinstance(self.code, torch.fx.GraphModule):
            state["__codegen__"] = {"code": ("fx", pickle.dumps(self.code))}
        else:
            state["__codegen__"] = {"code": ("torchscript", super().__getstate__()["__codegen__"]["code"])}
        return state


@pytest.mark.parametrize("traced", [True, False], ids=["fx", "torchscript"])
def test_generated_children_that_say_what_they_are_are_part_of_the_state_dict(tmp_path, traced):
    path, module = tmp_path / "model.pt", Told(traced)
    torch.save(module, path)
    assert_same(restored(path), expected(module))
    assert len(open_checkpoint(path).left_behind) == 1
    module.load_state_dict(restored(path), strict=True)


def test_a_damaged_traced_child_is_told(tmp_path):
    path, module = tmp_path / "model.pt", Told(True)
    state = module.__getstate__()
    state["__codegen__"]["code"] = ("fx", pickle.dumps(module.code)[:-30] + b".")
    path.write_bytes(pickled(state))
    assert any("code: a module in bytes, which cannot be read" in line for line in open_checkpoint(path).left_behind)


def test_a_damaged_compiled_child_is_told(tmp_path):
    path = tmp_path / "model.pt"
    torch.save(Generated(damage=30), path)
    assert "code.w3j" not in restored(path)
    assert any(line.startswith("code: TorchScript in bytes, which") for line in open_checkpoint(path).left_behind)


def test_files_in_bytes_among_the_attributes_of_a_module_are_told(tmp_path):
    path, module, buffer = tmp_path / "model.pt", nn.Linear(3, 3), io.BytesIO()
    torch.save(nn.Linear(20, 20).state_dict(), buffer)
    module.cache = {"best": buffer.getvalue()}
    torch.save(module, path)
    assert any(line.startswith("cache: a file in bytes") for line in open_checkpoint(path).left_behind)


def test_one_compiled_child_named_again_and_again_is_refused(tmp_path):
    path, module = tmp_path / "model.pt", Generated()
    state = module.__getstate__()
    state["__codegen__"] = {f"code{n}": state["__codegen__"]["code"] for n in range(2000)}
    path.write_bytes(pickled(state))
    with pytest.raises(SourceError, match="absurd size"):
        open_checkpoint(path)


def pickled(state: dict) -> bytes:
    """A module of that state as a file of torch.save."""
    module, buffer = Held(), io.BytesIO()
    module.held = state
    torch.save(module, buffer)
    return buffer.getvalue()


class Held(nn.Module):
    """A module whose pickled state is what it was given."""

    def __getstate__(self):
        return self.held
