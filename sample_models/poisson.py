"""Solution operator of the 2-D Poisson equation, learned on a 32 x 32 grid whose points come in no order.

-u_xx - u_yy = f on the unit square, u = 0 on its boundary. The operator W (1024 x 1024, u = W f) is the least-squares
fit of 4096 white forcings and their solutions, measured with noise. The points are listed in a random order, so rows
and columns of W are shuffled, as they are for a point cloud: any structure must be found, it does not lie in the
order. poisson_points.safetensors holds their coordinates in that order, poisson_forcings.safetensors the random field
that forcings are drawn from.

Training time: a few seconds on one core.
"""

import torch
from safetensors.torch import save_file
from torch import Tensor
from training import HERE, fit_operator, relative_l2, save_reference, save_weights, setup

SIDE = 32
PAIRS = 4096
KEPT = 60  # modes of the random field that is stored
NOISE = 3.2e-6  # standard deviation of the measured u, whose own rms is 2.1e-3
MODES = torch.arange(1, SIDE + 1, dtype=torch.float64)


def shuffled_points() -> Tensor:
    """Interior grid points (1024, 2) in a random order, float64."""
    line = MODES / (SIDE + 1)
    return torch.cartesian_prod(line, line)[torch.randperm(SIDE**2)]


def eigenfunctions(points: Tensor) -> Tensor:
    """sin(k pi x) sin(l pi y) at the points for all k, l up to 32: (1024 points, 1024 modes)."""
    along_x, along_y = (torch.sin(torch.pi * points[:, axis, None] * MODES) for axis in (0, 1))
    return (along_x[:, :, None] * along_y[:, None, :]).reshape(len(points), -1)


def solution_operator(modes: Tensor) -> Tensor:
    """Exact solution operator for right-hand sides made of these modes, float64."""
    eigenvalues = torch.pi**2 * (MODES[:, None] ** 2 + MODES**2).reshape(-1)
    return (modes / eigenvalues) @ modes.T * (2 / (SIDE + 1)) ** 2


def forcing_field(modes: Tensor) -> Tensor:
    """Factor L (1024 points, 1024 modes) of random smooth right-hand sides L z: they decay beyond wave number 3."""
    wave = (MODES[:, None] ** 2 + MODES**2).reshape(-1)
    return modes / (1 + wave / 9) ** 3


def save_forcings(factor: Tensor) -> None:
    """Write the random field's mean and the largest columns of its factor, of which the rest is 0.4 %."""
    largest = factor.norm(dim=0).argsort(descending=True)[:KEPT]
    field = {"mean": torch.zeros(SIDE**2), "factor": factor[:, largest].half().contiguous()}
    save_file(field, HERE / "poisson_forcings.safetensors")


def main() -> None:
    setup(seed=0)
    points = shuffled_points()
    modes = eigenfunctions(points)
    exact = solution_operator(modes)
    forcing = torch.randn(PAIRS, SIDE**2, dtype=torch.float64)
    solution = forcing @ exact.T
    weight = fit_operator(forcing, solution + NOISE * torch.randn_like(solution))
    save_weights({"weight": weight}, "poisson")
    field = forcing_field(modes)
    save_forcings(field)
    x = (torch.randn(48, SIDE**2, dtype=torch.float64) @ field.T).float()
    y = x.double() @ exact.T
    save_file({"points": points.float()}, HERE / "poisson_points.safetensors")
    reference = save_reference("poisson", x, y)
    print(f"relative Frobenius error of W {relative_l2(weight, exact):.2e}")
    print(f"relative L2 error {relative_l2(reference['x'] @ weight.float().T, reference['y']):.2e}")


if __name__ == "__main__":
    main()
