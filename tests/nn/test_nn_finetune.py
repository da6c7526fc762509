"""Claims about fine-tuning: a network trains on from its file, ends nearer to the truth, and goes back into a file."""

import torch
from torch import nn

import hmcompress


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
