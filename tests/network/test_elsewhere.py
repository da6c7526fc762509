"""A file of the outputs metric is checked, timed and exported from another folder than it was made in."""

import numpy as np
import pytest
import torch

import hmcompress
from hmcompress.errors import NetworkError

BUILD = "import torch\n\n\ndef build():\n    return torch.nn.Linear(24, 16)\n"


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A folder with a source, its inputs and exact solutions, and a file that was compressed from the folder above."""
    folder = tmp_path / "models"
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    w, x = torch.randn(16, 24, generator=generator), torch.randn(300, 24, generator=generator)
    torch.save({"weight": w, "bias": w[:, 0].clone()}, folder / "m.pt")
    np.savez(folder / "points.npz", x=x.numpy())
    np.savez(folder / "exact.npz", x=x.numpy(), y=(x @ w.T + w[:, 0]).numpy())
    (folder / "net.py").write_text(BUILD)
    monkeypatch.chdir(tmp_path)
    options = {"metric": "outputs", "ntk": False, "effort": "fast", "tol": 1e-2}
    files = {"calibration": {"inputs": "models/points.npz"}, "reference": "models/exact.npz"}
    for name, network in {"m": {"linear": {}}, "own": {"factory": "models/net.py:build"}}.items():
        hmcompress.compress("models/m.pt", f"models/{name}.hmc.safetensors", network=network, **files, **options)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return folder


@pytest.mark.parametrize("name", ["m", "own"])
def test_what_lies_beside_the_source_is_found(made, name):
    assert hmcompress.verify(made / f"{name}.hmc.safetensors", made / "m.pt").passed


def test_a_reference_that_is_gone_is_not_needed(made):
    (made / "exact.npz").unlink()
    assert hmcompress.verify(made / "m.hmc.safetensors", made / "m.pt").passed


def test_inputs_that_are_gone_are_asked_for(made, tmp_path):
    (made / "points.npz").rename(tmp_path / "moved.npz")
    file, source = made / "m.hmc.safetensors", made / "m.pt"
    with pytest.raises(NetworkError, match=r"points\.npz: the file that the held-out points come from is not here"):
        hmcompress.verify(file, source)
    assert hmcompress.verify(file, source, inputs=str(tmp_path / "moved.npz")).passed


def test_it_is_timed_and_exported_without_its_inputs(made, tmp_path):
    (made / "points.npz").unlink()
    file = made / "m.hmc.safetensors"
    assert hmcompress.bench(file, batches=(1,)).totals
    hmcompress.export(file, torch=tmp_path / "m.pt2")
    x = torch.randn(3, 24, generator=torch.Generator().manual_seed(1))
    state = hmcompress.load_state_dict(file)
    expected = x @ state["weight"].T + state["bias"]
    torch.testing.assert_close(torch.export.load(tmp_path / "m.pt2").module()(x), expected, atol=1e-5, rtol=1e-4)


def test_a_file_that_is_missing_is_told_with_its_setting(made):
    options = {"metric": "outputs", "network": {"linear": {}}, "tol": 1e-2, "ntk": False}
    points = {"inputs": str(made / "points.npz")}
    with pytest.raises(NetworkError, match=r"^calibration: inputs: there is no file nowhere\.npz"):
        hmcompress.compress(made / "m.pt", "o.hmc.safetensors", calibration={"inputs": "nowhere.npz"}, **options)
    with pytest.raises(NetworkError, match=r"^reference: there is no file nowhere\.npz"):
        hmcompress.compress(made / "m.pt", "o.hmc.safetensors", calibration=points, reference="nowhere.npz", **options)
