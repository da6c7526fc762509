"""Allen-Cahn PINN, 2-[128]*4-1, tanh: u_t = 1e-4 u_xx + 5 u - 5 u^3 on x in [-1, 1], t in [0, 1].

u(x, 0) = x^2 cos(pi x), periodic. Inputs are (x, t). The solution is even, so periodicity asks that u_x vanish at
both walls, which is how it is imposed. Time marches: training starts on t < 0.1 and the interval grows, because a
PINN that sees all times at once settles on a wrong branch. Only the equation and these conditions are trained on; the
reference (Fourier in space, integrating-factor Runge-Kutta in time) serves to measure the error.

Training time: 6 minutes on one idle core. Relative L2 error 8e-4.
"""

import math
from functools import partial

import numpy as np
import torch
from gauss_newton import GaussNewton, Jet, taylor
from torch import Tensor
from training import Network, adam, adaptive, error_of, save_reference, save_weights, setup, sobol, tanh

DIFFUSION, REACTION = 1e-4, 5.0
SCHEDULE = [(0.1 * k, 600) for k in range(1, 10)] + [(1.0, 600)] * 12 + [(1.0, 900)] * 30  # horizon, interior points
CONDITIONS = 200  # points on the initial line; a quarter of that on the walls


def initial(x: Tensor) -> Tensor:
    return x**2 * torch.cos(math.pi * x)


def solve(modes: int = 1024, steps: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """Times (steps + 1,) and Fourier coefficients in x (steps + 1, modes / 2 + 1), by integrating-factor RK4."""
    x = -1 + 2 * np.arange(modes) / modes
    dt = 1 / steps
    wave = np.pi * np.arange(modes // 2 + 1)
    linear = REACTION - DIFFUSION * wave**2
    half = np.exp(linear * dt / 2)

    def cubic(spectrum: np.ndarray) -> np.ndarray:
        return -REACTION * np.fft.rfft(np.fft.irfft(spectrum) ** 3)

    spectra = [np.fft.rfft(x**2 * np.cos(np.pi * x))]
    for _ in range(steps):
        u = spectra[-1]
        k1 = cubic(u)
        k2 = cubic(half * (u + dt / 2 * k1))
        k3 = cubic(half * u + dt / 2 * k2)
        k4 = cubic(half * (half * u + dt * k3))
        spectra.append(half * half * (u + dt / 6 * k1) + half * dt / 3 * (k2 + k3) + dt / 6 * k4)
    return np.linspace(0, 1, steps + 1), np.stack(spectra) / modes


def reference_points(count: int) -> tuple[Tensor, Tensor]:
    """Points (count, 2) whose times lie on the solver's steps, and the solution there (count, 1)."""
    points = sobol(count, [-1, 0], [1, 1])
    times, spectra = solve()
    index = (points[:, 1] * (len(times) - 1)).round().long()
    points[:, 1] = index / (len(times) - 1)
    points = points.float()
    wave = np.arange(spectra.shape[1])
    weight = np.where((wave == 0) | (wave == wave[-1]), 1, 2)
    phase = np.exp(1j * np.pi * (points[:, :1].double().numpy() + 1) * wave)
    value = (weight * spectra[index.numpy()] * phase).real.sum(1, keepdims=True)
    return points, torch.from_numpy(value)


def equation(jet: Jet) -> Tensor:
    """PDE residual (N,)."""
    u = jet.value
    return jet.gradient[1] - DIFFUSION * jet.laplacian - REACTION * (u - u**3)


def residuals(points: Tensor, interior: int, network: Network) -> tuple[Tensor, Jet]:
    """Residuals at `interior` points of the equation, then of the initial and boundary conditions; and the jet."""
    jet = taylor(network, points, [0], tanh)
    start = slice(interior, interior + CONDITIONS)
    parts = (
        equation(jet)[:interior],
        10 * (jet.value[start] - initial(points[start, 0])),
        0.1 * jet.gradient[0, interior + CONDITIONS :],  # weak: the walls meet in a kink at t = 0
    )
    return torch.cat([part / math.sqrt(len(part)) for part in parts]), jet


def draw(network: Network, interior: int, horizon: float) -> Tensor:
    """Fresh points with t below the horizon: half uniform, half where the residual is large; initial line; walls."""
    candidates = sobol(8192, [-1, 0], [1, horizon])
    with torch.no_grad():
        score = equation(taylor(network, candidates, [0], tanh))
    start = sobol(CONDITIONS, [-1, 0], [1, 0])
    walls = sobol(CONDITIONS // 4, [-1, 0], [1, horizon])
    walls[:, 0] = walls[:, 0].sign()
    half = interior // 2
    return torch.cat([candidates[:half], adaptive(candidates[half:], score[half:], interior - half), start, walls])


def main() -> None:
    setup(seed=0)
    reference = save_reference("allen_cahn", *reference_points(2048))
    network = Network([2, 128, 128, 128, 128, 1]).double()
    horizon, interior = SCHEDULE[0]
    problem = partial(residuals, draw(network, interior, horizon), interior)
    adam(network, lambda: problem(network)[0].square().sum(), steps=200, rate=1e-3)
    optimiser = GaussNewton(network)
    for horizon, interior in SCHEDULE:
        problem = partial(residuals, draw(network, interior, horizon), interior)
        for _ in range(6):
            optimiser.step(problem)
        optimiser.report(f"t < {horizon:.1f}, relative L2 error over all t {error_of(network, reference):.2e}")
        save_weights(network.state_dict(), "allen_cahn")
    print(f"relative L2 error {error_of(network.float(), reference):.2e}")


if __name__ == "__main__":
    main()
