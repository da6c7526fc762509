"""A compressed file may name code: it is run only where it is the user's own, or where the user says so."""

import sys
from types import ModuleType

import pytest
import torch

import hmcompress
from hmcompress.commands.trust import check_code
from hmcompress.errors import SettingsError
from hmcompress.network.model.factory import build_foreign
from hmcompress.settings.problem_settings import FactoryNetwork

NETWORK = """
import torch
from pathlib import Path

def build():
    Path(__file__).with_name("ran").touch()
    return torch.nn.Sequential(torch.nn.Linear(2, 20), torch.nn.Tanh(), torch.nn.Linear(20, 1))
"""


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder with code, and the working directory in another."""
    for name in ("code", "work"):
        (tmp_path / name).mkdir()
    (tmp_path / "code" / "mynetwork.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "code"


# Not pip: looking for it makes setuptools leave its own distutils, which torch.compile needs, out of this process.
@pytest.mark.parametrize("factory", ["os:abort", "sys:exit", "http.server:test", "torch.nn:Linear", "numpy:load"])
def test_installed_code_is_not_called_because_a_file_says_so(factory, tmp_path):
    with pytest.raises(SettingsError, match=f"names code to run, {factory}.*--network {factory}"):
        check_code(factory, tmp_path / "model.pt")


def test_code_elsewhere_is_not_called_and_the_users_own_is(elsewhere, monkeypatch):
    path = elsewhere / "mynetwork.py"
    with pytest.raises(SettingsError, match="names code to run"):
        check_code(f"{path}:build", "model.pt")
    check_code(f"{path}:build", elsewhere / "model.pt")  # beside the source
    monkeypatch.chdir(elsewhere)
    check_code("mynetwork.py:build", "/model.pt")
    check_code("mynetwork:build", "/model.pt")
    monkeypatch.syspath_prepend(elsewhere)
    check_code("mynetwork:build", "/model.pt")


def test_functions_of_the_running_program_are_called_only_where_it_is_the_users_own(elsewhere, monkeypatch):
    program = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", program)
    check_code("__main__:build", "model.pt")  # typed in, as in a notebook
    program.__file__ = str(elsewhere / "mynetwork.py")
    with pytest.raises(SettingsError, match="names code to run"):
        check_code("__main__:build", "model.pt")  # the console script would run again
    check_code("__main__:build", elsewhere / "model.pt")


def test_verify_runs_foreign_code_on_request_only(elsewhere, monkeypatch):
    sys.modules.pop("mynetwork", None)
    spec = f"{elsewhere / 'mynetwork.py'}:build"
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Linear(2, 20), torch.nn.Tanh(), torch.nn.Linear(20, 1))
    torch.save(layers.state_dict(), "model.pt")
    box = {"domain": {"x": [0, 1], "y": [0, 1]}, "samples": 64, "held_out": 64}
    hmcompress.compress(
        "model.pt", metric="outputs", network={"factory": spec}, calibration=box, tol=0.1, effort="fast"
    )
    (elsewhere / "ran").unlink()
    with pytest.raises(SettingsError, match="names code to run"):
        hmcompress.verify("model.hmc.safetensors", "model.pt")
    assert hmcompress.verify("model.hmc.safetensors").passed and not (elsewhere / "ran").exists()
    assert hmcompress.verify("model.hmc.safetensors", "model.pt", network=spec).passed


def test_a_module_in_the_working_directory_is_found_and_the_path_stays(elsewhere, monkeypatch):
    """The console script does not put the working directory on the path, as `python -m` does."""
    monkeypatch.chdir(elsewhere)
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder not in ("", str(elsewhere))])
    sys.modules.pop("mynetwork", None)
    path = list(sys.path)
    layers = torch.nn.Sequential(torch.nn.Linear(2, 20), torch.nn.Tanh(), torch.nn.Linear(20, 1))
    network = build_foreign(FactoryNetwork(factory="mynetwork:build"), layers.state_dict())
    assert [layer.weight for layer in network.layers] == ["0.weight", "2.weight"] and sys.path == path
    sys.modules.pop("mynetwork", None)
