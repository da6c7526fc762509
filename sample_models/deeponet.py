"""DeepONet for the antiderivative u(y) = integral of v from 0 to y, in the checkpoint layout of DeepXDE.

Branch 100-128-128-64 (v at 100 sensors), trunk 1-128-128-64 with an activation after its last layer, tanh, as in
DeepXDE's DeepONetCartesianProd: every function is evaluated at every point. Functions are Gaussian random fields of
length scale 0.2, drawn by their spectral expansion so that the antiderivative is exact; deeponet_functions.safetensors
holds the field's mean and factor at the sensors, and the points of the trunk.

Training time: 2 minutes on one idle core. Relative L2 error 6.2e-3.
"""

import itertools
import math

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from training import HERE, relative_l2, setup

LENGTH_SCALE = 0.2
PERIOD = 2.0  # of the expansion; twice the interval, so that v(0) and v(1) are free
MEAN = 0.5  # standard deviation of the fields' mean
SENSORS = torch.linspace(0, 1, 100, dtype=torch.float64)


def expansion(terms: int = 20) -> tuple[Tensor, Tensor]:
    """Wave numbers of the fields' cosines and sines, and deviations of their coefficients, both (terms,)."""
    k = 2 * math.pi / PERIOD * torch.arange(1, terms + 1, dtype=torch.float64)
    spread = torch.exp(-((k * LENGTH_SCALE) ** 2) / 4)
    return k, spread / spread.norm()


def random_fields(count: int, terms: int = 20) -> tuple[Tensor, Tensor]:
    """`count` Gaussian random fields and their exact antiderivatives at the sensors, both (count, 100), float64."""
    k, spread = expansion(terms)
    cosine, sine = torch.randn(2, count, terms, dtype=torch.float64) * spread
    mean = MEAN * torch.randn(count, 1, dtype=torch.float64)
    phase = k[:, None] * SENSORS
    field = mean + cosine @ torch.cos(phase) + sine @ torch.sin(phase)
    antiderivative = mean * SENSORS + (cosine / k) @ torch.sin(phase) + (sine / k) @ (1 - torch.cos(phase))
    return field, antiderivative


def factor() -> Tensor:
    """L (100 sensors, r) with covariance L L^T of the fields, less what is below 1e-6 of the largest."""
    k, spread = expansion()
    phase = k[:, None] * SENSORS
    waves = [spread[:, None] * function(phase) for function in (torch.cos, torch.sin)]
    u, s, _ = torch.linalg.svd(torch.cat([MEAN * torch.ones(1, len(SENSORS)).double(), *waves]).T, full_matrices=False)
    return (u * s)[:, s > 1e-6 * s[0]]


class Stack(nn.Module):
    """Dense layers named linears.0, linears.1, ... as DeepXDE's FNN names them."""

    def __init__(self, widths: list[int]):
        super().__init__()
        layers = [nn.Linear(fan_in, fan_out) for fan_in, fan_out in itertools.pairwise(widths)]
        for layer in layers:
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.linears = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.linears[:-1]:
            x = torch.tanh(layer(x))
        return self.linears[-1](x)


class DeepONet(nn.Module):
    """Branch and trunk joined by an inner product, plus a scalar bias."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = Stack([len(SENSORS), 128, 128, 64])
        self.trunk = Stack([1, 128, 128, 64])
        self.b = nn.Parameter(torch.tensor(0.0))

    def forward(self, functions: Tensor, points: Tensor) -> Tensor:
        return self.branch(functions) @ torch.tanh(self.trunk(points)).T + self.b


def train(network: DeepONet, steps: int, batch: int = 256) -> torch.optim.Optimizer:
    """Adam on the mean squared error over fresh functions, learning rate decayed by a cosine."""
    points = SENSORS.float()[:, None]
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for step in range(steps):
        functions, solutions = (part.float() for part in random_fields(batch))
        optimiser.zero_grad()
        loss = nn.functional.mse_loss(network(functions, points), solutions)
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 2000 == 0:
            print(f"step {step:6d}  loss {loss.item():.3e}", flush=True)
    return optimiser


def main() -> None:
    setup(seed=0)
    network = DeepONet()
    optimiser = train(network, steps=30000)
    checkpoint = {"model_state_dict": network.state_dict(), "optimizer_state_dict": optimiser.state_dict()}
    torch.save(checkpoint, HERE / "deeponet.pt")
    field, exact = (part.float() for part in random_fields(128))
    points = SENSORS.float()[:, None]
    save_file({"branch": field, "trunk": points, "y": exact}, HERE / "deeponet_exact.safetensors")
    functions = {"mean": torch.zeros(len(SENSORS)), "factor": factor().float().contiguous(), "trunk": points}
    save_file(functions, HERE / "deeponet_functions.safetensors")
    with torch.no_grad():
        print(f"relative L2 error {relative_l2(network(field, points), exact):.2e}")


if __name__ == "__main__":
    main()
