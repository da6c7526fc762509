"""Empirical neural tangent kernel of the dense layers: the network's behaviour in further training.

Rows are pairs of a point and one output (outputs take turns). By layers, K = sum (g g'^T) * (x x'^T + 1), from inputs
x and sensitivities g of each layer alone: positive semi-definite by construction.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hmcompress.errors import NetworkError
from hmcompress.network.model.inputs import Points
from hmcompress.network.model.network import DenseLayer, Network, joined, own_tensors, replaced

_RATE = 0.2
_ROWS, _WORK = 256, 1e11  # of the rate limit, at least; multiplications above which it has fewer than are given


class NoGradients(NetworkError):
    """The module runs without gradients, or something in it has none."""


@dataclass(frozen=True)
class Kernel:
    """A kernel (rows, rows) in float64."""

    k: Tensor

    def error(self, other: "Kernel") -> float:
        """Relative Frobenius error of `other` against this one; inf where it is not finite."""
        error = float((other.k - self.k).norm() / self.k.norm().clamp_min(1e-300))
        return error if math.isfinite(error) else math.inf

    def alignment(self, other: "Kernel") -> float:
        """Cosine of the angle between two kernels."""
        return float((self.k * other.k).sum() / (self.k.norm() * other.k.norm()).clamp_min(1e-300))

    def trace_ratio(self, other: "Kernel") -> float:
        return float(other.k.trace() / self.k.trace().clamp_min(1e-300))

    def spectrum(self) -> Tensor:
        """Eigenvalues, largest first."""
        return torch.linalg.eigvalsh((self.k + self.k.T) / 2).flip(0)


def tangent_kernel(
    network: Network,
    points: Points,
    tensors: Mapping[str, Tensor] | None = None,
    scales: Mapping[str, float] | None = None,
) -> Kernel:
    """The kernel on `points`, one row each; `scales` multiplies the gradient of each layer by a factor."""
    network = network.paired()
    total = torch.zeros(len(points), len(points), dtype=torch.float64)
    for layer, x, g in _layers(network, points, tensors):
        factor = 1.0 if scales is None else scales[layer.weight] ** 2
        has_bias = network.linear(layer).bias is not None
        total += factor * _of_layer(x.double(), g.double(), has_bias, len(points))
    return Kernel(total)


def _layers(
    network: Network, points: Points, tensors: Mapping[str, Tensor] | None
) -> list[tuple[DenseLayer, Tensor, Tensor]]:
    """Input and sensitivity of every layer in all of its calls, row by row. Raises NoGradients."""
    seen: list[tuple[DenseLayer, Tensor, Tensor]] = []

    def note(layer: DenseLayer, x: Tensor, z: Tensor) -> Tensor:
        probe = torch.zeros_like(z.detach(), requires_grad=True)
        seen.append((layer, x.detach().clone(), probe))  # what follows may change it
        return z + probe

    with replaced(network, note), torch.enable_grad():
        outputs = network.call(points.tensors, tensors)
    if not seen:  # all weights are tied to others
        return []
    turns = torch.arange(len(outputs)) % outputs.shape[1]
    value = outputs.gather(1, turns[:, None]).sum()
    if not value.requires_grad:
        raise NoGradients(
            "the network gives no gradients by its weights (torch.no_grad, or an operation without a derivative), so "
            "it has no tangent kernel: leave ntk off"
        )
    gradients = torch.autograd.grad(value, [probe for _, _, probe in seen], allow_unused=True)
    found: dict[DenseLayer, tuple[list[Tensor], list[Tensor]]] = {}
    for (layer, x, probe), g in zip(seen, gradients, strict=True):
        xs, gs = found.setdefault(layer, ([], []))
        xs.append(x)
        gs.append(torch.zeros_like(probe) if g is None else g)
    return [(layer, joined(xs), joined(gs)) for layer, (xs, gs) in found.items()]


def _of_layer(x: Tensor, g: Tensor, bias: bool, rows: int) -> Tensor:
    if x.ndim == 2 and len(x) == rows:
        return (g @ g.T) * (x @ x.T + (1.0 if bias else 0.0))
    x, g = x.reshape(rows, -1, x.shape[-1]), g.reshape(rows, -1, g.shape[-1])
    gradients = torch.einsum("rtm,rtd->rmd", g, x).reshape(rows, -1)
    kernel = gradients @ gradients.T
    summed = g.sum(1)
    return kernel + summed @ summed.T if bias else kernel


@dataclass(frozen=True)
class RateLimit:
    """What the function itself needs, by its linearisation, whatever the tolerance.

    Reverse water-filling on the spectrum of J J^T / rows, J the Jacobian of the outputs by the weights of each layer in
    units of their root mean square: sum of 0.5 log2(eigenvalue / level) over those above the level.
    """

    variances: Tensor  # (rows,), largest first
    square: Tensor  # of an output, in the mean

    @classmethod
    def of(cls, network: Network, points: Points) -> "RateLimit":
        """On some points, fewer where products of all numbers of large layers take long. Nothing is known, and no byte
        asked for, of a network without gradients."""
        try:
            points = points.take(slice(0, _affordable(network, points)))
        except NoGradients:
            return cls(torch.zeros(1), torch.ones(()))
        scales = {layer.weight: float(network.matrix(layer).pow(2).mean().sqrt()) for layer in network.layers}
        values = tangent_kernel(network, points, None, scales).spectrum().clamp_min(0) / len(points)
        return cls(values, network.paired().run(points.tensors).double().pow(2).mean())

    def nbytes(self, tol: float) -> float:
        """At a relative error of tol."""
        return water_filling_bits(self.variances, float(tol**2 * self.square)) / 8


def _affordable(network: Network, points: Points) -> int:
    """Rows whose gradients are multiplied in the time: those of layers that see several rows of a sample."""
    network, two = network.paired(), points.take(slice(0, 2))
    layers = (layer for layer, x, _ in _layers(network, two, None) if x.numel() > 2 * x.shape[-1])
    numbers = sum(math.prod(network.shape(layer)) for layer in layers)
    return max(math.isqrt(int(_WORK / max(numbers, 1))), _ROWS)


def water_filling_bits(variances: Tensor, distortion: float) -> float:
    """Rate of independent Gaussians at a total squared error: reverse water-filling. variances (n,), descending."""
    if float(variances.sum()) <= distortion:
        return 0.0
    tails = variances.sum() - variances.cumsum(0)
    counts = torch.arange(1, len(variances) + 1)
    levels = (distortion - tails) / counts  # the level if the first `count` are active
    active = (levels > 0) & (levels <= variances)
    level = float(levels[active][-1]) if active.any() else float(variances[0])
    return float(0.5 * torch.log2((variances / level).clamp_min(1.0)).sum())


def training_curves(
    network: Network, points: Points, steps: int, tensors: Mapping[str, Tensor], kernel: Kernel
) -> tuple[list[float], list[float]]:
    """Losses of the original and of the compressed network under the same gradient descent.

    Full batch, towards the original's outputs plus a smooth function of the same size. The step is a fifth of 1 / the
    largest eigenvalue of the original's kernel: with larger ones any two networks part, however near their kernels.
    """
    network = network.paired()
    target = _new_target(points, network.run(points.tensors))
    rate = _RATE / float(kernel.spectrum()[0])
    return _descend(network, points, {}, target, rate, steps), _descend(network, points, tensors, target, rate, steps)


def _new_target(points: Points, outputs: Tensor) -> Tensor:
    x = points.tensors[-1].reshape(len(points), -1).to(outputs.dtype)
    x = (x - x.mean(0)) / x.std(0).clamp_min(1e-12)
    wave = torch.sin(x.sum(1, keepdim=True) / x.shape[1] ** 0.5)
    return outputs + outputs.pow(2).mean().sqrt() * wave / wave.pow(2).mean().sqrt().clamp_min(1e-12)


def _descend(
    network: Network, points: Points, tensors: Mapping[str, Tensor], target: Tensor, rate: float, steps: int
) -> list[float]:
    own, tensors = own_tensors(network.module), network.with_tied(tensors)
    state = {name: tensors.get(name, own[place]).detach().to(network.dtype) for name, place in network.places.items()}
    trained = [n for layer in network.layers for n in (layer.weight, layer.bias) if n is not None]
    losses = []
    for _ in range(steps):
        leaves = {n: state[n].requires_grad_(True) for n in trained}
        with torch.enable_grad():
            outputs = network.call(points.tensors, state | leaves)
            turns = torch.arange(len(outputs)) % outputs.shape[1]
            loss = 0.5 * (outputs - target).gather(1, turns[:, None]).pow(2).sum()
        gradients = torch.autograd.grad(loss, list(leaves.values()))
        state |= {n: (p - rate * g).detach() for (n, p), g in zip(leaves.items(), gradients, strict=True)}
        losses.append(loss.item())
    return losses
