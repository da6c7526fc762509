"""What the training scripts share: plain networks, points, Adam, operators and files."""

import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

HERE = Path(__file__).parent
Activation = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]


def tanh(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """tanh with its first and second derivative."""
    y = torch.tanh(z)
    slope = 1 - y * y
    return y, slope, -2 * y * slope


def sin(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """sin with its first and second derivative."""
    y = torch.sin(z)
    return y, torch.cos(z), -y


class Sine(nn.Module):
    """sin as a module, for nn.Sequential."""

    def forward(self, z: Tensor) -> Tensor:
        return torch.sin(z)


class Network(nn.Module):
    """Multilayer perceptron whose state dict reads net.0.weight, net.0.bias, net.2.weight, ..."""

    def __init__(self, widths: Sequence[int], activation: Callable[[], nn.Module] = nn.Tanh):
        super().__init__()
        layers: list[nn.Module] = []
        for fan_in, fan_out in itertools.pairwise(widths):
            layer = nn.Linear(fan_in, fan_out)
            nn.init.xavier_normal_(layer.weight)
            layers += [layer, activation()]
        self.net = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def linears(self) -> list[nn.Linear]:
        return [layer for layer in self.net if isinstance(layer, nn.Linear)]


def sobol(count: int, low: Sequence[float], high: Sequence[float]) -> Tensor:
    """`count` scrambled Sobol points of the box, float64, shape (count, d)."""
    seed = int(torch.randint(2**31, ()))
    unit = torch.quasirandom.SobolEngine(len(low), scramble=True, seed=seed).draw(count, dtype=torch.float64)
    lower = torch.tensor(low, dtype=torch.float64)
    return lower + unit * (torch.tensor(high, dtype=torch.float64) - lower)


def adaptive(candidates: Tensor, weight: Tensor, count: int, power: float = 1.0) -> Tensor:
    """Residual-adaptive choice: `count` candidates drawn with probability ~ w^power / mean + 1 (Wu et al. 2023)."""
    score = weight.abs() ** power
    return candidates[torch.multinomial(score / score.mean() + 1, count, replacement=False)]


def adam(network: nn.Module, loss: Callable[[], Tensor], steps: int, rate: float = 2e-3, log: int = 200) -> None:
    """Adam with cosine decay from `rate` to a hundredth of it."""
    optimiser = torch.optim.Adam(network.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps, eta_min=rate / 100)
    start = time.perf_counter()
    for step in range(steps):
        optimiser.zero_grad()
        value = loss()
        value.backward()
        optimiser.step()
        schedule.step()
        if step % log == 0:
            print(f"adam {step:6d}  {time.perf_counter() - start:6.1f} s  loss {value.item():.3e}", flush=True)


def relative_l2(value: Tensor, exact: Tensor) -> float:
    """Relative L2 error over everything, in float64."""
    exact = exact.double()
    return ((value.double() - exact).norm() / exact.norm()).item()


def error_of(network: nn.Module, reference: dict[str, Tensor]) -> float:
    """Relative L2 error of the network, evaluated in its own dtype, on the reference points."""
    dtype = next(network.parameters()).dtype
    with torch.no_grad():
        return relative_l2(network(reference["x"].to(dtype)), reference["y"])


def save_reference(name: str, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Write <name>_exact.safetensors (x: inputs, y: exact solution, float32) beside the scripts."""
    reference = {"x": x.float().contiguous(), "y": y.float().contiguous()}
    save_file(reference, HERE / f"{name}_exact.safetensors")
    return reference


def load_reference(name: str) -> dict[str, Tensor]:
    """Read back what save_reference wrote."""
    return load_file(HERE / f"{name}_exact.safetensors")


def setup(seed: int) -> None:
    """One seed and one thread, so that a second run takes the same path."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)


def save_weights(state: dict[str, Tensor], name: str) -> None:
    """Write a float32 state dict to <name>.pt beside the scripts."""
    torch.save({key: value.detach().float().contiguous() for key, value in state.items()}, HERE / f"{name}.pt")


def fit_operator(inputs: Tensor, outputs: Tensor) -> Tensor:
    """Least-squares W (m, n) with outputs ~ inputs W^T, from the normal equations in float64."""
    factor = torch.linalg.cholesky(inputs.T @ inputs)
    return torch.cholesky_solve(inputs.T @ outputs, factor).T


def sine_series(x: Tensor, samples: int, terms: int) -> Tensor:
    """Random smooth functions (samples, N): sums of sin(k pi x) whose coefficients decay like k^-2 beyond k = 4."""
    k = torch.arange(1, terms + 1, dtype=torch.float64)
    amplitude = torch.randn(samples, terms, dtype=torch.float64) / (1 + (k / 4) ** 2)
    return amplitude @ torch.sin(torch.pi * k[:, None] * x)
