"""Discrete Green's-function operator of -u'' = f, u(0) = u(1) = 0, on 1024 interior points, fitted from data.

The operator W (1024 x 1024, u = W f) is not computed from the equation but learned: 4096 white forcings, their
solutions with 0.16 % of measurement noise, least squares. The noise that the fit leaves in W (9e-4 of its Frobenius
norm) is part of the sample: it is what a compressor of real, learned operators meets.

Training time: a few seconds on one core.
"""

import torch
from torch import Tensor
from training import fit_operator, relative_l2, save_reference, save_weights, setup, sine_series

POINTS = 1024
PAIRS = 4096
NOISE = 5.1e-6  # standard deviation of the measured u, whose own rms is 3.3e-3


def grid() -> Tensor:
    """Interior points i / (n + 1), float64."""
    return torch.arange(1, POINTS + 1, dtype=torch.float64) / (POINTS + 1)


def greens_function() -> Tensor:
    """Exact inverse of the second-difference matrix: h min(x, y) (1 - max(x, y)), float64."""
    x = grid()
    return torch.minimum(x[:, None], x) * (1 - torch.maximum(x[:, None], x)) / (POINTS + 1)


def main() -> None:
    setup(seed=0)
    exact = greens_function()
    forcing = torch.randn(PAIRS, POINTS, dtype=torch.float64)
    solution = forcing @ exact.T
    weight = fit_operator(forcing, solution + NOISE * torch.randn_like(solution))
    save_weights({"weight": weight}, "greens")
    smooth = sine_series(grid(), samples=64, terms=48)
    reference = save_reference("greens", smooth, smooth.float().double() @ exact.T)
    print(f"relative Frobenius error of W {relative_l2(weight, exact):.2e}")
    print(f"relative L2 error {relative_l2(reference['x'] @ weight.float().T, reference['y']):.2e}")


if __name__ == "__main__":
    main()
