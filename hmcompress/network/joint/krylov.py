"""Damped Gauss-Newton steps for networks with too many weights for J^T J: conjugate gradients, preconditioned by the
Kronecker factors of each layer (Martens & Grosse 2015), in single precision. Weights that are not free stay."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hmcompress.network.joint.least_squares import Price
from hmcompress.network.joint.linearised import Linearised, Single, Weights, in_single
from hmcompress.network.joint.small import Data, Layer, SmallNetwork

_TRIES = 6
_MORE = 4.0  # times the damping at the first failure, and that times as much at each further one
_LEAST_DAMPING = 1e-7  # single precision carries no more
_MOMENTUM = 0.95  # of the last step: where the next one's conjugate gradients begin (Martens 2010)
_RESIDUAL = 1e-4  # of squares, at which conjugate gradients end
_STANDS, _WHILE = 0.8, 8  # share of the squared error that many steps before, above which it hardly falls
_TINY = 1e-12


@dataclass(frozen=True)
class _Preconditioner:
    """(A x G + c)^-1 for each layer, among the free weights."""

    parts: list[tuple[Tensor, Tensor, Tensor]]  # eigenvectors of G and A, products of eigenvalues
    free: Weights  # ones and zeros

    @classmethod
    def of(cls, sent: list[Tensor], inputs: list[Tensor], free: Weights) -> "_Preconditioner":
        return cls([cls._part(g.T @ g, x) for g, x in zip(sent, inputs, strict=True)], free)

    @staticmethod
    def _part(outer: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        g, ug = torch.linalg.eigh(outer.double())
        a, ua = torch.linalg.eigh((x.T @ x / len(x)).double())
        return ug.float(), ua.float(), (g.clamp_min(0)[:, None] * a.clamp_min(0)).float()

    def __call__(self, v: Weights, shift: Weights) -> Weights:
        parts = zip(v, shift, self.parts, self.free, strict=True)
        return [f * (ug @ ((ug.T @ w @ ua) / (size + float(s.mean()))) @ ua.T) for w, s, (ug, ua, size), f in parts]


def descend(
    network: SmallNetwork,
    data: Data,
    steps: int,
    products: int,
    *,
    level: float = 0.0,
    damping: float = 1.0,
    goal: float = 0.0,
    far: float = math.inf,
) -> float:
    """At most so many steps of so many products each, in place; level: of a price on the weights; goal: squared
    error at which that ends; far: one above which it also ends where it hardly falls. Returns the squared error on the
    data. Raises NetworkError where it does not run so."""
    single, errors = in_single(network, data), [math.inf]
    descent = _Descent(single, data.weight, level, damping)
    for _ in range(steps):
        error, moved = descent.step(products)
        errors.append(error)
        if not moved or error <= goal or error > max(far, _STANDS * min(errors[:-_WHILE], default=math.inf)):
            break
    for layer, own in zip(network.layers, single.layers, strict=True):
        layer.matrix = own.matrix.double()
    return errors[-1]


@dataclass
class _Descent:
    network: Single
    weight: float  # of squared errors
    level: float
    damping: float
    last: Weights | None = None  # the step before

    def step(self, products: int) -> tuple[float, bool]:
        """Squared error after the longest step that lowers error and price, and whether there is one."""
        point, layers = self.network.linearised(), self.network.layers
        residual = self.network.wanted - point.outputs
        signs = torch.where(torch.rand(residual.shape, generator=torch.Generator().manual_seed(0)) < 0.5, -1.0, 1.0)
        sent = point.sensitivities(signs * self.weight**0.5)
        free = [layer.live.float() for layer in layers]
        solver = _Preconditioner.of(sent, point.inputs, free)
        diagonal = [(g**2).T @ x**2 for g, x in zip(sent, point.inputs, strict=True)]
        price, before = _price_of_all(layers, self.level), [layer.matrix for layer in layers]
        error = self.weight * float(residual.pow(2).sum())
        curvature = self._split(price.curvature(self._joined(before)), before)
        gradient = [self.weight * g for g in point.backward(residual)]
        gradient = [f * (g - c * w) for f, g, c, w in zip(free, gradient, curvature, before, strict=True)]
        target = error + price.value(self._joined(before))
        for k in range(_TRIES):
            shift = [self.damping * d + c + _TINY for d, c in zip(diagonal, curvature, strict=True)]
            start = [_MOMENTUM * 0.5**k * v for v in self.last or ()]
            moves = self._solve(point, gradient, shift, solver, products, start)
            self._set([w + v for w, v in zip(before, moves, strict=True)])
            after = self.weight * float((self.network.wanted - self.network.outputs()).pow(2).sum())
            if after + price.value(self._joined([layer.matrix for layer in layers])) < target:
                self.damping, self.last = max(self.damping / _MORE, _LEAST_DAMPING), moves
                return after, True
            self.damping *= _MORE ** (k + 1)
        self._set(before)
        return error, False

    def _solve(
        self,
        point: Linearised,
        gradient: Weights,
        shift: Weights,
        solver: _Preconditioner,
        products: int,
        start: Weights,
    ) -> Weights:
        """(J^T J + shift)^-1 times the gradient, by conjugate gradients from some start, or from zero."""

        def normal(v: Weights) -> Weights:
            image = point.backward(self.weight * point.forward(v))
            return [f * (i + s * d) for f, i, s, d in zip(solver.free, image, shift, v, strict=True)]

        x = start or [torch.zeros_like(g) for g in gradient]
        r = [g - i for g, i in zip(gradient, normal(x), strict=True)] if start else gradient
        z = solver(r, shift)
        direction, size = z, _dot(r, z)
        enough = _RESIDUAL * size
        for _ in range(products):
            image = normal(direction)
            along = size / max(_dot(direction, image), 1e-300)
            x = [a + along * d for a, d in zip(x, direction, strict=True)]
            r = [a - along * i for a, i in zip(r, image, strict=True)]
            z = solver(r, shift)
            size, last = _dot(r, z), size
            if size < enough:
                break
            direction = [a + size / last * d for a, d in zip(z, direction, strict=True)]
        return x

    def _set(self, weights: Weights) -> None:
        for layer, w in zip(self.network.layers, weights, strict=True):
            layer.matrix = w

    @staticmethod
    def _joined(weights: Weights) -> Tensor:
        return torch.cat([w.reshape(-1) for w in weights])

    @staticmethod
    def _split(values: Tensor, like: Weights) -> Weights:
        parts = values.split([w.numel() for w in like])
        return [p.reshape(w.shape) for p, w in zip(parts, like, strict=True)]


def _price_of_all(layers: Sequence[Layer], level: float) -> Price:
    """With a size for the others too, which are zero and cost nothing."""
    price = Price.of(layers, level)
    sizes = [torch.ones_like(layer.matrix) for layer in layers]
    begin = 0
    for layer, size in zip(layers, sizes, strict=True):
        size.masked_scatter_(layer.live, price.sizes[begin:])
        begin += int(layer.live.sum())
    return replace(price, sizes=torch.cat([size.reshape(-1) for size in sizes]))


def _dot(a: Weights, b: Weights) -> float:
    return sum(float((x * y).sum()) for x, y in zip(a, b, strict=True))
