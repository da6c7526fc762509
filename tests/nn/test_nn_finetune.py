"""Claims about fine-tuning: a network trains on from its file, ends nearer to the truth, and goes back into a file."""

from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

import hmcompress
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


def compressed(folder: Path, name: str, tol: float, ntk: bool | dict) -> Report:
    """A file of a checkpoint whose bound is on the outputs over [-1, 1]."""
    return hmcompress.compress(
        folder / f"{name}.pt",
        folder / f"{name}.hmc.safetensors",
        tol=tol,
        metric="outputs",
        ntk=ntk,
        effort="fast",
        network={"mlp": {"activation": "tanh"}},
        calibration={"domain": {"x": [-1, 1]}, "samples": 256},
    )


def save(network: nn.Module, path: Path) -> None:
    torch.save({name: tensor.float() for name, tensor in network.state_dict().items()}, path)


def test_the_recipe_ends_nearer_to_the_exact_solution_at_the_same_bytes(tmp_path):
    """Keep the kernel, train the slim network on its equation, keep the function: the recipe of docs/finetune.md."""
    torch.manual_seed(0)
    points, x = (torch.linspace(-1, 1, n, dtype=torch.float64)[:, None] for n in (64, 201))
    original = nn.Sequential(nn.Linear(1, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 1)).double()
    solve(original, points, 200)
    save(original, tmp_path / "net.pt")
    first = compressed(tmp_path, "net", 5e-2, {"tol": 0.1, "samples": 64})
    hmcompress.decompress(tmp_path / "net.hmc.safetensors", tmp_path / "small.pt", slim=True)
    network = plain(torch.load(tmp_path / "small.pt", weights_only=True))
    before = error(network, x)
    solve(network, points, 100)
    assert error(network, x) < 0.5 * before
    save(network, tmp_path / "trained.pt")
    second = compressed(tmp_path, "trained", 1e-3, False)
    assert second.output_bytes <= 1.05 * first.output_bytes
    file = tmp_path / "trained.hmc.safetensors"
    assert error(hmcompress.load_model(file), x.float()) < 0.5 * before
    assert hmcompress.verify(file, against=tmp_path / "trained.pt").passed
