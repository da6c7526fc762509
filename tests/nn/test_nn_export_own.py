"""Claims about export of networks of the user's own: any number of samples, any call, only code that is trusted."""

import io
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from nn_cases import kernel
from torch import nn

import hmcompress
from hmcompress import cli
from hmcompress.commands.programs import Called, check
from hmcompress.errors import BoundError
from hmcompress.network.model.inputs import Points
from hmcompress.nn.choose import Stopwatch, Timing

NETWORKS = """
import torch
from torch import nn
from torch.nn.utils import parametrizations


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.inner = nn.Linear(2, width)
        self.outer = nn.Linear(width, 3)


class Coordinates(Block):
    def forward(self, x, t, *, scale=None):
        y = self.outer(torch.tanh(self.inner(torch.cat([x, t], -1))))
        return {"y": y if scale is None else y * scale, "x": x}


class Named(Block):
    def forward(self, x, *, t):
        return self.outer(torch.tanh(self.inner(torch.cat([x, t], -1))))


class Halves(Block):
    def forward(self, x):
        half = x.shape[0] // 2
        return self.outer(torch.tanh(self.inner(torch.cat([x[half:], x[:half]]) if half > 20 else x)))


class Unrolled(Block):
    def forward(self, x):
        return torch.stack([self.outer(torch.tanh(self.inner(row))) for row in x])


def coordinates():
    return Coordinates(32)


def named():
    return Named(32)


def halves():
    return Halves(32)


def unrolled():
    return Unrolled(32)


def normed():
    return nn.Sequential(parametrizations.weight_norm(nn.Linear(2, 32)), nn.Tanh(), nn.Linear(32, 3))


def smooth():
    return nn.Sequential(nn.Linear(512, 512), nn.Tanh(), nn.Linear(512, 3))


def batched():
    return nn.Sequential(nn.Linear(2, 32), nn.BatchNorm1d(32), nn.SiLU(), nn.Dropout(0.5), nn.Linear(32, 3))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder, in which the networks lie and inputs of one and of two arrays."""
    (tmp_path / "nets.py").write_text(NETWORKS)
    x = np.random.default_rng(0).uniform(-1, 1, (256, 2)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "xt.npz", x=x[:, :1], t=x[:, 1:])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def built(name: str) -> nn.Module:
    namespace: dict = {"__name__": "nets"}
    exec(NETWORKS, namespace)
    torch.manual_seed(0)
    return namespace[name]().eval()


def compressed(name: str) -> nn.Module:
    """Write NAME.hmc.safetensors, which knows no network, and return the module that it decompresses to."""
    module = built(name)
    torch.save(module.state_dict(), f"{name}.pt")
    hmcompress.compress(f"{name}.pt", f"{name}.hmc.safetensors", tol=1e-2)
    hmcompress.decompress(f"{name}.hmc.safetensors", f"{name}_back.pt")
    module.load_state_dict(torch.load(f"{name}_back.pt"))
    return module


def exported(name: str, inputs: str, *options: str) -> int:
    own = ["--network", f"nets.py:{name}", "--inputs", inputs]
    return cli.run(["export", f"{name}.hmc.safetensors", *own, *(options or ("--torch", "small.pt2"))])


def program():
    with open("small.pt2", "rb") as file:
        return torch.export.load(io.BytesIO(file.read())).module()


@pytest.mark.parametrize("name", ["normed", "batched"])
def test_a_program_is_the_decompressed_network_for_any_number_of_samples(folder, name):
    module = compressed(name)
    assert exported(name, "x.npy") == 0
    for count in (1, 2, 61, 500):
        x = torch.rand(count, 2)
        torch.testing.assert_close(program()(x), module(x), rtol=1e-5, atol=1e-5)


def test_an_onnx_model_has_the_arguments_and_the_outputs_of_the_network(folder):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    module = compressed("coordinates")
    assert exported("coordinates", "xt.npz", "--onnx", "small.onnx", "--torch", "small.pt2") == 0
    session = runtime.InferenceSession("small.onnx")
    assert [entry.name for entry in session.get_inputs()] == ["x", "t"]
    for count in (1, 61, 500):
        x, t = torch.rand(2, count, 1)
        y, same = session.run(None, {"x": x.numpy(), "t": t.numpy()})
        expected = module(x, t)["y"].detach()
        np.testing.assert_allclose(y, expected, atol=1e-5)
        np.testing.assert_array_equal(same, x)
        torch.testing.assert_close(program()(x, t)["y"], expected, rtol=1e-5, atol=1e-5)


def test_a_layer_with_structure_is_exported_as_it_runs(folder, monkeypatch):
    monkeypatch.setattr(Stopwatch, "_measured", lambda self, *_: tuple(Timing(b, 2.0, 1.0) for b in self.batches))
    module = built("smooth")
    module[0].weight.data = kernel() / 50
    torch.save(module.state_dict(), "smooth.pt")
    np.save("wide.npy", np.random.default_rng(0).standard_normal((100, 512), np.float32))
    hmcompress.compress("smooth.pt", "smooth.hmc.safetensors", tol=1e-3)
    assert exported("smooth", "wide.npy") == 0
    assert (folder / "small.pt2").stat().st_size < (folder / "smooth.pt").stat().st_size / 3
    for count in (1, 300):
        x = torch.randn(count, 512)
        y = module(x).detach()
        assert float((program()(x) - y).norm() / y.norm()) < 2e-3


def test_an_argument_without_a_place_is_given_by_its_name(folder):
    module = compressed("named")
    assert exported("named", "xt.npz") == 0
    x, t = torch.rand(2, 7, 1)
    torch.testing.assert_close(program()(x, t=t), module(x, t=t), rtol=1e-5, atol=1e-5)


def test_the_coordinates_of_a_box_are_the_networks_arguments(folder):
    torch.save(built("coordinates").state_dict(), "net.pt")
    box = {"domain": {"t": [0, 1], "x": [-1, 1]}, "samples": 256, "held_out": 512}
    network = {"factory": "nets.py:coordinates"}
    file = "net.hmc.safetensors"
    options = {"effort": "fast", "network": network, "calibration": box}
    hmcompress.compress("net.pt", file, metric="outputs", tol=1e-1, **options)
    hmcompress.decompress(file, "back.pt")
    module = built("coordinates")
    module.load_state_dict(torch.load("back.pt"))
    hmcompress.export(file, torch="small.pt2")  # the file says all, and its code lies in this folder
    x, t = torch.rand(2, 5, 1)
    torch.testing.assert_close(program()(x, t)["y"], module(x, t)["y"], rtol=1e-5, atol=1e-5)


def test_a_network_that_means_one_number_of_samples_is_not_exported(folder, capsys):
    for name in ("halves", "unrolled"):
        compressed(name)
        assert exported(name, "x.npy") == 2
        printed = capsys.readouterr().err
        assert "cannot be exported by torch.export for any number of samples" in printed and printed.count("\n") == 1
        assert not (folder / "small.pt2").exists()


def test_what_a_network_takes_must_be_known(folder, capsys):
    compressed("normed")
    assert cli.run(["export", "normed.hmc.safetensors", "--network", "nets.py:normed", "--torch", "small.pt2"]) == 2
    assert "give --inputs FILE" in capsys.readouterr().err
    assert cli.run(["export", "normed.hmc.safetensors", "--torch", "small.pt2"]) == 2
    assert "does not say which network" in capsys.readouterr().err


def test_code_that_a_file_names_is_run_where_it_lies_in_this_folder_or_is_given(folder, capsys, monkeypatch):
    torch.save(built("normed").state_dict(), "net.pt")
    code = folder / "nets.py"
    options = {"network": {"factory": f"{code}:normed"}, "calibration": {"inputs": str(folder / "x.npy")}}
    file = "net.hmc.safetensors"
    hmcompress.compress("net.pt", file, metric="outputs", tol=1e-1, effort="fast", **options)
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    assert cli.run(["export", f"../{file}", "--torch", "small.pt2"]) == 2
    told = capsys.readouterr().err
    assert f"does not lie in this folder: if you trust it, give it as --network {code}:normed" in told
    assert cli.run(["export", f"../{file}", "--torch", "small.pt2", "--network", f"{code}:normed"]) == 0


def test_the_network_of_an_archive_is_saved_otherwise(folder, capsys):
    torch.jit.save(torch.jit.script(nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 1))), "net.pt")
    options = {"network": {"torchscript": True}, "calibration": {"inputs": "x.npy"}}
    file = "net.hmc.safetensors"
    hmcompress.compress("net.pt", file, metric="outputs", tol=1e-1, effort="fast", **options)
    assert cli.run(["export", file, "--torch", "small.pt2"]) == 2
    assert "load_model(file, torch.jit.load(SOURCE)).save(OUT)" in capsys.readouterr().err


@pytest.mark.parametrize(("off", "passes"), [(1e-6, True), (1e-4, False)])
def test_a_sample_whose_outputs_are_near_zero_is_measured_by_the_others(off, passes):
    x = torch.linspace(0, 1, 100)[:, None]  # the first one, which is run alone too, gives zero
    called = Called(nn.Identity(), Points((x,)), ("x",))
    with nullcontext() if passes else pytest.raises(BoundError, match="the program is off by"):
        check(called, lambda points: [points.tensors[0] + off], "the program")
