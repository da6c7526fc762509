"""Burgers PINN, 2-[128]*4-1, tanh: u_t + u u_x = (0.01 / pi) u_xx on x in [-1, 1], t in [0, 1].

u(x, 0) = -sin(pi x), u(-1, t) = u(1, t) = 0. Inputs are (x, t). Only the equation and these conditions are trained on;
the exact solution (Cole-Hopf) serves to measure the error. The viscosity starts ten times larger and is lowered as the
training goes, since the shock of the last one is hard to find from nothing.

Training time: 2 minutes on one idle core. Relative L2 error 1.3e-3.
"""

import math
from functools import partial

import torch
from gauss_newton import GaussNewton, Jet, taylor
from torch import Tensor
from training import Network, adam, adaptive, error_of, save_reference, save_weights, setup, sobol, tanh

VISCOSITY = 0.01 / math.pi
CONTINUATION = (10, 6, 4, 2.5, 1.6, 1.2)
CONDITIONS = 120  # points on the initial line; a third of that on the walls


def cole_hopf(points: Tensor, nodes: int = 8001) -> Tensor:
    """Exact solution (N, 1) at points (x, t), by the trapezoidal rule on the Cole-Hopf integrals, in float64."""
    x, t = points.double().T.unsqueeze(-1)
    y = torch.linspace(-2.5, 2.5, nodes, dtype=torch.float64)
    exponent = -((x - y) ** 2) / (4 * VISCOSITY * t) - torch.cos(math.pi * y) / (2 * math.pi * VISCOSITY)
    return (torch.softmax(exponent, dim=1) * (x - y) / t).sum(1, keepdim=True)


def equation(jet: Jet, viscosity: float) -> Tensor:
    """PDE residual (N,), damped where u is steep so that the shock does not drown the rest."""
    u_x, u_t = jet.gradient
    return (u_t + jet.value * u_x - viscosity * jet.laplacian) / (1 + 0.1 * u_x.detach().abs())


def residuals(points: Tensor, interior: int, viscosity: float, network: Network) -> tuple[Tensor, Jet]:
    """Residuals at `interior` points of the equation, then of the initial and boundary conditions; and the jet."""
    jet = taylor(network, points, [0], tanh)
    start = slice(interior, interior + CONDITIONS)
    walls = slice(interior + CONDITIONS, None)
    parts = (
        equation(jet, viscosity)[:interior],
        math.sqrt(10) * (jet.value[start] + torch.sin(math.pi * points[start, 0])),
        math.sqrt(10) * jet.value[walls],
    )
    return torch.cat([part / math.sqrt(len(part)) for part in parts]), jet


def draw(network: Network, interior: int, viscosity: float) -> Tensor:
    """Fresh points, interior, then initial line, then walls, each in mirror pairs because the solution is odd in x.

    Half of the interior is uniform, half lies where the residual is large.
    """
    candidates = sobol(8192, [-1, 0], [1, 1])
    with torch.no_grad():
        score = equation(taylor(network, candidates, [0], tanh), viscosity)
    uniform = interior // 4
    picked = adaptive(candidates[uniform:], score[uniform:], interior // 2 - uniform)
    start = sobol(CONDITIONS // 2, [0, 0], [1, 0])
    walls = sobol(CONDITIONS // 6, [1, 0], [1, 1])
    mirror = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    groups = (torch.cat([candidates[:uniform], picked]), start, walls)
    return torch.cat([side for group in groups for side in (group, group * mirror)])


def warm_up(network: Network, interior: int, steps: int) -> None:
    """Adam at the largest viscosity."""
    viscosity = CONTINUATION[0] * VISCOSITY
    problem = partial(residuals, draw(network, interior, viscosity), interior, viscosity)
    adam(network, lambda: problem(network)[0].square().sum(), steps, rate=1e-3)


def main() -> None:
    setup(seed=0)
    points = sobol(2048, [-1, 0], [1, 1]).float()
    reference = save_reference("burgers", points, cole_hopf(points))
    network = Network([2, 128, 128, 128, 128, 1]).double()
    warm_up(network, interior=600, steps=300)
    optimiser = GaussNewton(network)
    for factor, interior in [(f, 600) for f in CONTINUATION] + [(1.0, 800)] * 4 + [(1.0, 1000)] * 8:
        problem = partial(residuals, draw(network, interior, factor * VISCOSITY), interior, factor * VISCOSITY)
        for _ in range(6):
            optimiser.step(problem)
        optimiser.report(f"viscosity x {factor:g}, relative L2 error {error_of(network, reference):.2e}")
        save_weights(network.state_dict(), "burgers")
    print(f"relative L2 error {error_of(network.float(), reference):.2e}")


if __name__ == "__main__":
    main()
