"""Modules whose layers are no chains: `python tests/benchmarks/web_modules.py [NAME]...` trains each for some thousand
steps and prints the bytes of all layers at 1e-2, with the joint stage of groups of neurons and without it. Rough, which
few neurons do not carry, is compressed at 1e-3, where some tens of neurons are."""

import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import torch
from torch import Tensor, nn

import hmcompress.network.stages as stages
from hmcompress.checkpoint import open_checkpoint
from hmcompress.network import compress_network
from hmcompress.settings.config import load_settings

WIDTH, STEPS, RATE = 64, 6000, 2e-3
TOL, FINE = 1e-2, 1e-3


class Residual(nn.Module):
    """Sines with a skip connection around each hidden layer."""

    inputs = 2
    fast = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(2, WIDTH), nn.Linear(WIDTH, 1)
        self.blocks = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.sin(self.fast * self.first(x))
        for block in self.blocks:
            y = y + torch.sin(self.fast * block(y))
        return self.last(y)


class Applied(nn.Module):
    """One block with a skip connection, applied four times."""

    inputs = 2

    def __init__(self) -> None:
        super().__init__()
        self.first, self.block, self.last = nn.Linear(2, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.sin(self.first(x))
        for _ in range(4):
            y = y + torch.sin(self.block(y))
        return self.last(y)


class Solver(nn.Module):
    """Motion by a learned right-hand side: two steps of the classical Runge-Kutta method."""

    inputs = 2

    def __init__(self) -> None:
        super().__init__()
        sizes = (2, WIDTH, WIDTH, 2)
        self.layers = nn.ModuleList(nn.Linear(n, m) for n, m in pairwise(sizes))

    def slope(self, y: Tensor) -> Tensor:
        return self.layers[2](torch.tanh(self.layers[1](torch.tanh(self.layers[0](y)))))

    def forward(self, y: Tensor) -> Tensor:
        for _ in range(2):
            y = runge_kutta(self.slope, y, 0.5)
        return y


class Rough(Residual):
    """Fast sines with skip connections (Sitzmann et al. 2020)."""

    fast = 10.0

    def __init__(self) -> None:
        super().__init__()
        nn.init.uniform_(self.first.weight, -0.5, 0.5)
        for block in self.blocks:
            nn.init.uniform_(block.weight, -((6 / WIDTH) ** 0.5) / self.fast, (6 / WIDTH) ** 0.5 / self.fast)


class Gated(nn.Module):
    """Two encodings of the inputs, mixed by every hidden layer."""

    inputs = 2

    def __init__(self) -> None:
        super().__init__()
        self.u, self.v, self.first = (nn.Linear(2, WIDTH) for _ in range(3))
        self.hidden, self.last = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3)), nn.Linear(WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        u, v, y = (torch.tanh(layer(x)) for layer in (self.u, self.v, self.first))
        for hidden in self.hidden:
            z = torch.tanh(hidden(y))
            y = (1 - z) * u + z * v
        return self.last(y)


class Ensemble(nn.Module):
    """Four networks side by side, the layers of all in one parameter."""

    inputs = 2

    def __init__(self) -> None:
        super().__init__()
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for n, m in pairwise((2, WIDTH, WIDTH, 1)):
            self.weights.append((2 * torch.rand(4, n, m) - 1) / n**0.5)
            self.biases.append((2 * torch.rand(4, 1, m) - 1) / n**0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = x.expand(4, -1, -1)
        for k, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(b, torch.sin(x) if k else x, w)
        return x[..., 0].T


class Hamiltonian(nn.Module):
    """Motion from the gradient of an energy."""

    inputs = 2

    def __init__(self) -> None:
        super().__init__()
        sizes = (2, WIDTH, WIDTH, 1)
        self.layers = nn.ModuleList(nn.Linear(n, m) for n, m in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x if x.requires_grad else x.clone().requires_grad_()
            energy = self.layers[2](torch.tanh(self.layers[1](torch.tanh(self.layers[0](x)))))
            slopes = torch.autograd.grad(energy.sum(), x, create_graph=True)[0]
        return torch.stack([slopes[:, 1], -slopes[:, 0]], 1)


class Pairs(nn.Module):
    """Forces on three atoms in the plane from a potential of their distances."""

    inputs = 6

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(1, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x if x.requires_grad else x.clone().requires_grad_()
            y = nn.functional.silu(self.first(distances(x)))
            energy = self.last(y + nn.functional.silu(self.second(y)))
            return -torch.autograd.grad(energy.sum(), x, create_graph=True)[0]


def distances(x: Tensor) -> Tensor:
    """(N, 3, 1), of three points (N, 6)."""
    p = x.reshape(-1, 3, 2)
    return torch.stack([(p[:, i] - p[:, j]).square().sum(-1, keepdim=True) for i, j in ((0, 1), (0, 2), (1, 2))], 1)


def waves(x: Tensor) -> Tensor:
    a, b = x[:, :1], x[:, 1:]
    return torch.sin(5 * a + 3 * b.square()) * torch.exp(-a.square()) + 0.3 * torch.cos(7 * b)


def four_times(x: Tensor) -> Tensor:
    return waves(x).expand(-1, 4)


def pendulum(x: Tensor) -> Tensor:
    return torch.stack([x[:, 1], -1.5 * torch.sin(3 * x[:, 0])], 1)


def runge_kutta(slope: Callable[[Tensor], Tensor], y: Tensor, h: float) -> Tensor:
    a = slope(y)
    b = slope(y + h / 2 * a)
    c = slope(y + h / 2 * b)
    return y + h / 6 * (a + 2 * b + 2 * c + slope(y + h * c))


def motion(y: Tensor) -> Tensor:
    """Of the pendulum, after a unit of time."""
    for _ in range(20):
        y = runge_kutta(pendulum, y, 0.05)
    return y


def wells(x: Tensor) -> Tensor:
    with torch.enable_grad():
        x = x.clone().requires_grad_()
        energy = (1 - torch.exp(-2 * ((distances(x) + 0.05).sqrt() - 0.7))).square().sum()
        return -torch.autograd.grad(energy, x)[0]


CASES: dict[str, Callable[[Tensor], Tensor]] = {
    "Residual": waves,
    "Gated": waves,
    "Ensemble": four_times,
    "Hamiltonian": pendulum,
    "Pairs": wells,
    "Applied": waves,
    "Solver": motion,
    "Rough": waves,
}


def trained(name: str) -> nn.Module:
    torch.manual_seed(0)
    module = globals()[name]()
    x = 2 * torch.rand(4096, module.inputs) - 1
    y = CASES[name](x).detach()
    optimizer = torch.optim.Adam(module.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        some = torch.randint(len(x), (256,))
        optimizer.zero_grad()
        (module(x[some]) - y[some]).square().mean().backward()
        optimizer.step()
        schedule.step()
    error = (module(x) - y).detach().norm() / y.norm()
    print(f"{name}: trained to {float(error):.1e}, {4 * sum(p.numel() for p in module.parameters())} B", flush=True)
    return module


def layer_bytes(source: Path, name: str, inputs: int) -> int:
    box = {f"x{k}": [-1, 1] for k in range(inputs)}
    given = {
        "tol": FINE if name == "Rough" else TOL,
        "metric": "outputs",
        "calibration": {"domain": box, "samples": 4096},
    }
    settings = load_settings(None, {**given, "network": {"factory": f"{Path(__file__).resolve()}:{name}"}})
    result = compress_network(open_checkpoint(source), settings)
    return sum(len(layer.payload) for layer in result.layers)


if __name__ == "__main__":
    for name in sys.argv[1:] or CASES:
        with TemporaryDirectory() as folder:
            module, source = trained(name), Path(folder) / "model.pt"
            torch.save(module.state_dict(), source)
            found = layer_bytes(source, name, module.inputs)
            with mock.patch.object(stages, "origins_of", lambda problem: ()):
                alone = layer_bytes(source, name, module.inputs)
            print(f"{name}: {found} B, without groups of neurons {alone} B, {alone / found:.3g}x", flush=True)
