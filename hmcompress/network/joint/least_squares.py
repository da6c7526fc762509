"""Damped Gauss-Newton steps (Levenberg and Marquardt) for a small network, with a price on the size of its weights."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hmcompress.network.joint.small import Data, Layer, SmallNetwork

_TRIES = 8
_PATIENCE = 5  # steps in a row that gain little, after which it ends
_TINY = 1e-13
_SHARE = 0.2  # of a layer's root mean square, at which a weight costs little


@dataclass(frozen=True)
class Price:
    """level * log(1 + w^2 / size^2), summed over the weights: twice the distortion of a coefficient for each nat that
    its integer takes, so that squared error plus price is what an entropy-coded network minimises."""

    level: float
    sizes: Tensor  # (P,) of the free weights

    @classmethod
    def of(cls, layers: Sequence[Layer], level: float) -> "Price":
        """Sizes are a share of each layer's root mean square."""
        free = [layer.matrix[layer.live] for layer in layers]
        sizes = [torch.full_like(w, _SHARE * float(w.pow(2).mean().sqrt()) if len(w) else 1.0) for w in free]
        return cls(level, torch.cat(sizes).clamp_min(_TINY))

    def value(self, theta: Tensor) -> float:
        return float(self.level * torch.log1p((theta / self.sizes).pow(2)).sum())

    def curvature(self, theta: Tensor) -> Tensor:
        """Of the parabola that touches the price and lies above it, halved."""
        return self.level / (theta.pow(2) + self.sizes.pow(2))


def minimise(
    network: SmallNetwork,
    data: Data,
    steps: int,
    price: Price | None = None,
    *,
    damping: float = 1e-3,
    goal: float = 0.0,
    gain: float = 1e-3,
    coarse: bool = False,
) -> tuple[float, int]:
    """Minimise the squared error plus the price over the free weights, in place.

    Stops at `goal`, or where some steps in a row gain less than a share `gain`. `coarse`: J^T J in single precision,
    which only shortens steps. Returns the squared error, and the steps taken.
    """
    if not network.weights():
        return network.error(data), 0
    idle, taken, error = 0, 0, float("inf")
    while taken < steps and idle < _PATIENCE:
        taken += 1
        theta = network.theta()
        gram, gradient, error = network.normal(data, coarse)
        if price is None and error <= goal:
            break
        before = error + (price.value(theta) if price else 0.0)
        if price is not None:
            curvature = price.curvature(theta)
            gradient = gradient - curvature * theta
            gram.diagonal().add_(curvature)
        objective = _Objective(network, data, price)
        after, damping = _step(objective, theta, gram, gradient, before, damping)
        if after >= before:
            network.set_theta(theta)
            break
        idle = idle + 1 if after > (1 - gain) * before else 0
        error = after - (price.value(network.theta()) if price else 0.0)
    return error, taken


@dataclass(frozen=True)
class _Objective:
    """Squared error plus price."""

    network: SmallNetwork
    data: Data
    price: Price | None

    def at(self, theta: Tensor) -> float:
        """With these weights, which then are the network's."""
        self.network.set_theta(theta)
        return self.network.error(self.data) + (self.price.value(theta) if self.price else 0.0)


def _step(
    objective: _Objective, theta: Tensor, gram: Tensor, gradient: Tensor, before: float, damping: float
) -> tuple[float, float]:
    """The objective after the longest step that lowers it, and the damping for the next one."""
    diagonal = gram.diagonal().clone()
    least = 1e-14 * float(diagonal.max())
    after = float("inf")
    for _ in range(_TRIES):
        damped = gram.clone()
        damped.diagonal().add_(damping * diagonal + least)
        factor, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            after = objective.at(theta + torch.cholesky_solve(gradient[:, None], factor)[:, 0])
            if after < before:
                return after, max(damping / 5, _TINY)
        damping = max(4 * damping, 1e-12)
    return after, damping
