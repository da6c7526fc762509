"""Damped Gauss-Newton steps for networks with too many weights for J^T J: conjugate gradients, preconditioned by the
Kronecker factors of each layer (Martens & Grosse 2015), in single precision. Weights that are not free stay."""

import math
from collections.abc import Callable, Sequence
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

    def shifted(self, shift: Weights) -> Callable[[Weights], Weights]:
        """With a mean of these numbers as c of each layer."""
        sizes = [size + float(s.mean()) for (_, _, size), s in zip(self.parts, shift, strict=True)]
        parts = [(ug, ug.T, ua, ua.T, size) for (ug, ua, _), size in zip(self.parts, sizes, strict=True)]
        return lambda v: [ug @ ((gu @ w @ ua) / size) @ au for w, (ug, gu, ua, au, size) in zip(v, parts, strict=True)]


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
    tick: Callable[[float], None] = lambda share: None,
) -> float:
    """At most so many steps of so many products each, in place; level: of a price on the weights; goal: squared
    error at which that ends; far: one above which it also ends where it hardly falls; tick: told which share of the
    steps is done. Returns the squared error on the data. Raises NetworkError where it does not run so."""
    single, errors = in_single(network, data), [math.inf]
    descent = _Descent(single, data.weight, level, damping)
    for _ in range(steps):
        error, moved = descent.step(products)
        errors.append(error)
        tick((len(errors) - 1) / steps)
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
        joined = _Joined.of(before)
        error = self.weight * float(residual.pow(2).sum())
        curvature = joined.split(price.curvature(joined(before)))
        gradient = [self.weight * g for g in point.backward(residual)]
        gradient = [f * (g - c * w) for f, g, c, w in zip(free, gradient, curvature, before, strict=True)]
        target = error + price.value(joined(before))
        for k in range(_TRIES):
            shift = [self.damping * d + c + _TINY for d, c in zip(diagonal, curvature, strict=True)]
            start = [_MOMENTUM * 0.5**k * v for v in self.last or ()]
            moves = self._solve(point, gradient, shift, solver, products, start)
            self._set([w + v for w, v in zip(before, moves, strict=True)])
            after = self.weight * float((self.network.wanted - self.network.outputs()).pow(2).sum())
            if after + price.value(joined([layer.matrix for layer in layers])) < target:
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
        joined, inverse = _Joined.of(gradient), solver.shifted(shift)
        free, along_shift = joined(solver.free), joined(shift)

        def normal(v: Tensor) -> Tensor:
            image = joined(point.backward(self.weight * point.forward(joined.split(v))))
            return free * (image + along_shift * v)

        def solved(r: Tensor) -> Tensor:
            return free * joined(inverse(joined.split(r)))

        b = joined(gradient)
        x = joined(start) if start else torch.zeros_like(b)
        r = b - normal(x) if start else b
        z = solved(r)
        direction, size = z, joined.dot(r, z)
        enough = _RESIDUAL * size
        for _ in range(products):
            image = normal(direction)
            along = size / max(joined.dot(direction, image), 1e-300)
            x, r = x + along * direction, r - along * image
            z = solved(r)
            size, last = joined.dot(r, z), size
            if size < enough:
                break
            direction = z + size / last * direction
        return joined.split(x)

    def _set(self, weights: Weights) -> None:
        for layer, w in zip(self.network.layers, weights, strict=True):
            layer.matrix = w


def _price_of_all(layers: Sequence[Layer], level: float) -> Price:
    """With a size for the others too, which are zero and cost nothing."""
    price = Price.of(layers, level)
    sizes = [torch.ones_like(layer.matrix) for layer in layers]
    begin = 0
    for layer, size in zip(layers, sizes, strict=True):
        size.masked_scatter_(layer.live, price.sizes[begin:])
        begin += int(layer.live.sum())
    return replace(price, sizes=torch.cat([size.reshape(-1) for size in sizes]))


@dataclass(frozen=True)
class _Joined:
    """Matrices one after another in a single vector: some long operations instead of many short ones."""

    shapes: list[torch.Size]
    sizes: list[int]

    @classmethod
    def of(cls, like: Weights) -> "_Joined":
        return cls([w.shape for w in like], [w.numel() for w in like])

    def __call__(self, weights: Weights) -> Tensor:
        return torch.cat([w.reshape(-1) for w in weights])

    def split(self, v: Tensor) -> Weights:
        return [part.view(shape) for part, shape in zip(v.split(self.sizes), self.shapes, strict=True)]

    def dot(self, a: Tensor, b: Tensor) -> float:
        """Summed matrix by matrix, as single precision carries no more."""
        return sum(float(part.sum()) for part in (a * b).split(self.sizes))
