"""What a program has set for all of torch changes neither bytes nor verdicts: notebooks turn gradients off, or set a
device for all new tensors."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits
from torch import nn

import hmcompress
import hmcompress.hmatrix.compress as compressing


@contextmanager
def flushed() -> Iterator[None]:
    """Numbers below the normal ones count as zero."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


SETTINGS = {
    "no gradients": torch.no_grad,
    "inference": torch.inference_mode,
    "a device without memory": lambda: torch.device("meta"),
    "no small numbers": lambda: flushed(),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A dense stack whose layers are coded with low rank parts, integers and without loss."""
    generator = torch.Generator().manual_seed(0)
    sizes, state = (2, 48, 48, 1), {}
    for k in range(3):
        state[f"net.{2 * k}.weight"] = torch.randn(sizes[k + 1], sizes[k], generator=generator) / sizes[k] ** 0.5
        state[f"net.{2 * k}.bias"] = 0.3 * torch.randn(sizes[k + 1], generator=generator)
    path = tmp_path_factory.mktemp("surroundings") / "model.pt"
    torch.save(state, path)
    return path


@pytest.fixture(params=SETTINGS)
def surroundings(request) -> Callable[[], AbstractContextManager]:
    return SETTINGS[request.param]


def made(source: Path, output: Path, **options) -> bytes:
    hmcompress.compress(source, output, tol=1e-2, force=True, **options)
    assert hmcompress.verify(output, against=source).passed
    return output.read_bytes()


def test_a_file_is_the_same_in_any_surroundings(source, tmp_path, surroundings):
    usual = made(source, tmp_path / "usual.hmc.safetensors")
    with surroundings():
        assert made(source, tmp_path / "here.hmc.safetensors") == usual


def test_a_file_is_read_in_any_surroundings(source, tmp_path, surroundings):
    hmcompress.compress(source, tmp_path / "file.hmc.safetensors", tol=1e-2)
    usual = hmcompress.load_state_dict(tmp_path / "file.hmc.safetensors")
    with surroundings():
        here = hmcompress.load_state_dict(tmp_path / "file.hmc.safetensors")
        nested = hmcompress.load_checkpoint(tmp_path / "file.hmc.safetensors")
    assert all(torch.equal(usual[name], here[name]) and torch.equal(usual[name], nested[name]) for name in usual)


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 1e-40), (torch.float64, 1e-310)])
def test_the_error_of_small_numbers_is_measured_where_they_count_as_zero(dtype, size):
    w = (size * torch.randn(64, 64, dtype=torch.float64)).to(dtype)
    with flushed():
        matrix = hmcompress.compress_matrix(w, 1e-2)
        still = torch.tensor(size, dtype=dtype) * 1 == 0
    scale = 2.0 ** (100 if dtype == torch.float32 else 1000)
    left = (matrix.to_dense().double() * scale - w.double() * scale).norm() / (w.double() * scale).norm()
    assert left <= 1e-2 and matrix.error == pytest.approx(float(left), rel=1e-3)
    assert still  # as the program has set it


def test_outputs_are_bounded_in_any_surroundings(source, tmp_path, surroundings):
    options = {
        "metric": "outputs",
        "network": {"mlp": {"activation": "tanh"}},
        "calibration": {"domain": {"x": [-1, 1], "t": [0, 1]}, "samples": 256, "held_out": 256, "derivatives": 1},
        "ntk": False,
        "effort": "fast",
    }
    usual = made(source, tmp_path / "usual.hmc.safetensors", **options)
    with surroundings():
        assert made(source, tmp_path / "here.hmc.safetensors", **options) == usual


def test_a_matrix_and_a_module_are_the_usual_ones(source, tmp_path, surroundings):
    w = torch.load(source)["net.2.weight"]
    hmcompress.compress(source, tmp_path / "file.hmc.safetensors", tol=1e-2)
    module = nn.ModuleDict(
        {"net": nn.Sequential(nn.Linear(2, 48), nn.Tanh(), nn.Linear(48, 48), nn.Tanh(), nn.Linear(48, 1))}
    )
    with surroundings():
        matrix = hmcompress.compress_matrix(w, tol=1e-2)
        loaded = hmcompress.load_model(tmp_path / "file.hmc.safetensors", module)
    assert matrix.error <= 1e-2 and matrix.nbytes == hmcompress.compress_matrix(w, tol=1e-2).nbytes
    assert all(p.requires_grad and not p.is_meta and not p.is_inference() for p in loaded.parameters())


def test_what_was_set_stays_set():
    with torch.no_grad(), torch.device("meta"):
        hmcompress.compress_matrix(torch.eye(20, device="cpu"), tol=1e-2)
        assert not torch.is_grad_enabled() and torch.get_default_device().type == "meta"


def threads() -> list[int]:
    return [torch.get_num_threads(), *(library["num_threads"] for library in threadpool_info())]


@pytest.fixture
def two_threads() -> Iterator[None]:
    usual = torch.get_num_threads()
    torch.set_num_threads(2)
    with threadpool_limits(2):
        yield
    torch.set_num_threads(usual)


def test_a_matrix_takes_one_thread_and_gives_the_others_back(monkeypatch, two_threads):
    meanwhile, lossy = [], compressing._lossy
    monkeypatch.setattr(compressing, "_lossy", lambda *given: meanwhile.append(threads()) or lossy(*given))
    before = threads()
    hmcompress.compress_matrix(np.random.default_rng(0).standard_normal((64, 64)), 1e-2)
    assert set(meanwhile[0]) == {1} and threads() == before and before[0] == 2
