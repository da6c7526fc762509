"""Claims about fine-tuning: a network trains on from its file, ends nearer to the truth, and goes back into a file."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from nn_cases import mlp_file
from torch import nn

import hmcompress
from hmcompress.config import MLP, MLPNetwork, Settings
from hmcompress.container import CompressedFile
from hmcompress.errors import NetworkError, OutputError
from hmcompress.hmatrix.grid import Grid
from hmcompress.network.build import build_network
from hmcompress.network.modules import Stack
from hmcompress.nn.on_grid import GridFit
from hmcompress.nn.refit import refit, slim_grids
from hmcompress.report.records import Report


def error(network: nn.Module, x: torch.Tensor) -> float:
    with torch.no_grad():
        return (network(x) - torch.sin(3 * x)).square().mean().sqrt().item()


def train(network: nn.Module, x: torch.Tensor, steps: int) -> None:
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(steps):
        optimiser.zero_grad()
        (network(x) - torch.sin(3 * x)).square().mean().backward()
        optimiser.step()


def test_training_goes_on_from_the_compressed_file(tmp_path):
    torch.manual_seed(0)
    x = torch.linspace(-1, 1, 64)[:, None]
    original = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
    train(original, x, 300)
    torch.save(original.state_dict(), tmp_path / "net.pt")
    options = {"tol": 0.1, "network": {"mlp": {"activation": "tanh"}}}
    first = hmcompress.compress(tmp_path / "net.pt", tmp_path / "net.hmc.safetensors", **options)
    network = hmcompress.load_model(tmp_path / "net.hmc.safetensors")
    before = error(network, x)
    train(network, x, 200)
    assert error(network, x) < 0.5 * before
    tuned = {name.replace("layers.", ""): tensor for name, tensor in network.state_dict().items()}
    torch.save(tuned, tmp_path / "tuned.pt")
    second = hmcompress.compress(tmp_path / "tuned.pt", tmp_path / "tuned.hmc.safetensors", **options)
    assert second.output_bytes < 1.05 * first.output_bytes
    verified = hmcompress.verify(tmp_path / "tuned.hmc.safetensors", against=tmp_path / "tuned.pt")
    assert verified.passed


def physics(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Loss of u'' = -9 sin(3 x), u(-1) and u(1) given: the exact solution is sin(3 x)."""
    x = x.clone().requires_grad_()
    u = network(x)
    (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
    ends = torch.tensor([[-1.0], [1.0]], dtype=x.dtype)
    return (bend + 9 * torch.sin(3 * x)).square().mean() + 100 * (network(ends) - torch.sin(3 * ends)).square().mean()


def solve(network: nn.Module, x: torch.Tensor, steps: int) -> None:
    optimiser = torch.optim.LBFGS(network.parameters(), max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = physics(network, x)
        loss.backward()
        return loss

    optimiser.step(closure)


def plain(saved: dict) -> nn.Sequential:
    """The network of a slim checkpoint."""
    sizes, parts = saved["layer_sizes"], []
    for n, m in pairwise(sizes):
        parts += [nn.Linear(n, m), nn.Tanh()]
    network = nn.Sequential(*parts[:-1]).double()
    network.load_state_dict(saved["state_dict"])
    return network


@pytest.fixture(scope="module")
def pinn(tmp_path_factory) -> tuple[Path, Report]:
    """A trained PINN's file, its outputs to 5 %."""
    folder = tmp_path_factory.mktemp("pinn")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(1, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 1)).double()
    solve(network, torch.linspace(-1, 1, 64, dtype=torch.float64)[:, None], 200)
    torch.save({name: t.float() for name, t in network.state_dict().items()}, folder / "net.pt")
    report = hmcompress.compress(
        folder / "net.pt",
        folder / "net.hmc.safetensors",
        tol=5e-2,
        metric="outputs",
        ntk=False,
        effort="fast",
        network={"mlp": {"activation": "tanh"}},
        calibration={"domain": {"x": [-1, 1]}, "samples": 256},
    )
    return folder / "net.hmc.safetensors", report


def test_the_recipe_ends_nearer_to_the_exact_solution_at_the_same_bytes(pinn, tmp_path):
    """Load the slim network, train it on its own equation, write it back: the recipe of docs/finetune.md."""
    file, report = pinn
    x = torch.linspace(-1, 1, 201, dtype=torch.float64)[:, None]
    hmcompress.decompress(file, tmp_path / "small.pt", slim=True)
    network = plain(torch.load(tmp_path / "small.pt", weights_only=True))
    before = error(network, x)
    solve(network, torch.linspace(-1, 1, 64, dtype=torch.float64)[:, None], 100)
    assert error(network, x) < 0.5 * before
    torch.save({name: t.float() for name, t in network.state_dict().items()}, tmp_path / "trained.pt")
    again = refit(file, tmp_path / "trained.pt", tmp_path / "trained.hmc.safetensors")
    assert again.output_bytes == (tmp_path / "trained.hmc.safetensors").stat().st_size <= 1.05 * report.output_bytes
    assert error(hmcompress.load_model(tmp_path / "trained.hmc.safetensors"), x.float()) < 0.8 * before
    verified = hmcompress.verify(tmp_path / "trained.hmc.safetensors", against=tmp_path / "trained.pt")
    assert verified.passed and verified.network.tol < 1.1 * again.network.error
    with pytest.raises(OutputError):
        refit(file, tmp_path / "trained.pt", tmp_path / "trained.hmc.safetensors")


def test_the_same_trained_network_gives_the_same_file(pinn, tmp_path):
    file, _ = pinn
    hmcompress.decompress(file, tmp_path / "small.pt", slim=True)
    written = []
    for name in ("a", "b"):
        refit(file, tmp_path / "small.pt", tmp_path / f"{name}.hmc.safetensors")
        written.append((tmp_path / f"{name}.hmc.safetensors").read_bytes())
    assert written[0] == written[1]


def test_the_grid_of_a_file_is_that_of_its_slim_network(pinn, tmp_path):
    file, _ = pinn
    hmcompress.decompress(file, tmp_path / "small.pt", slim=True)
    state = torch.load(tmp_path / "small.pt", weights_only=True)["state_dict"]
    for k, grid in zip((0, 2, 4), slim_grids(CompressedFile.open(file)), strict=True):
        stored = torch.cat([state[f"{k}.weight"], state[f"{k}.bias"][:, None]], 1)
        torch.testing.assert_close(torch.from_numpy(grid.to_dense()).float(), stored)


def test_another_network_is_refused(pinn, tmp_path):
    file, _ = pinn
    other = nn.Sequential(nn.Linear(1, 5), nn.Tanh(), nn.Linear(5, 1))
    torch.save(other.state_dict(), tmp_path / "other.pt")
    with pytest.raises(NetworkError, match="not the slim network"):
        refit(file, tmp_path / "other.pt", tmp_path / "out.hmc.safetensors")
    with pytest.raises(NetworkError, match="no grid"):
        hmcompress.decompress(file, tmp_path / "small.pt", slim=True)
        refit(file, tmp_path / "small.pt", tmp_path / "out.hmc.safetensors", most=400)
    assert not (tmp_path / "out.hmc.safetensors").exists()


def test_a_file_that_bounds_weights_is_refused(tmp_path):
    file, _ = mlp_file(tmp_path)
    with pytest.raises(NetworkError, match="bounds no outputs"):
        refit(file, tmp_path / "mlp.pt", tmp_path / "out.hmc.safetensors")


def grid_of(m: int, n: int, exponent: int) -> Grid:
    """A grid with one step, 2 ** (exponent / 2)."""
    return Grid(np.zeros((m, n), np.int64), np.zeros(m, np.int64), np.full(n, exponent))


def test_the_free_columns_make_up_for_rounding():
    """Half the error or less of plain rounding, and every number on its grid."""
    torch.manual_seed(0)
    tensors = {"0.weight": torch.randn(16, 2), "0.bias": torch.randn(16), "2.weight": torch.randn(1, 16) / 4}
    stack = build_network(Settings(network=MLPNetwork(mlp=MLP(activation="tanh"))), tensors).module
    assert isinstance(stack, Stack)
    stack, x = stack.double(), torch.rand(500, 2, dtype=torch.float64) * 2 - 1
    sizes = [(16, 3), (1, 16)]
    grids = [
        Grid(np.zeros(s, np.int64), np.full(s[0], -2), np.full(s[1], e)) for s, e in zip(sizes, (0, -8), strict=True)
    ]
    fit = GridFit(stack, grids, x)
    found = fit.run()
    first = torch.from_numpy(found[0].to_dense())
    torch.testing.assert_close(fit.network.layers[0].weight.detach(), first[:, :2])
    torch.testing.assert_close(fit.network.layers[0].bias.detach(), first[:, 2])
    y = stack(x)
    with torch.no_grad():
        plain_first = (torch.cat([tensors["0.weight"], tensors["0.bias"][:, None]], 1).double() * 2).round() / 2
        rounded = torch.tanh(x @ plain_first[:, :2].T + plain_first[:, 2]) @ tensors["2.weight"].double().T
        assert (fit.network(x) - y).norm() < 0.5 * (rounded - y).norm()
