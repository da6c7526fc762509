"""Damped Gauss-Newton steps for networks with too many weights for J^T J: conjugate gradients, preconditioned by the
Kronecker factors of each layer (Martens & Grosse 2015), in single precision. One stack, all weights free."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hmcompress.network.joint.least_squares import Price
from hmcompress.network.joint.small import Data, mixed
from hmcompress.network.joint.stack import SmallStack, with_slope
from hmcompress.network.joint.stacks import SmallStacks

_TRIES = 6
_LEAST_DAMPING = 1e-7  # single precision carries no more
_MOMENTUM = 0.95  # of the last step: where the next one's conjugate gradients begin (Martens 2010)
_RESIDUAL = 1e-4  # of squares, at which conjugate gradients end
_TINY = 1e-12

Weights = list[Tensor]  # a matrix (m, n) or (m, n + 1) for each layer


@dataclass(frozen=True)
class _Linearised:
    """A stack at some weights: what products with its Jacobian need, whatever becomes of the stack."""

    weights: list[Tensor]  # without biases
    inputs: list[Tensor]  # of each layer, with a column of ones where there is a bias
    slopes: list[Tensor | None]
    outputs: Tensor  # (N, k), scaled
    mix: Tensor  # (k,), or (N, k, m) applied to what the stack gives

    @classmethod
    def at(cls, stack: SmallStack, x: Tensor, mix: Tensor) -> "_Linearised":
        inputs, slopes = [], list[Tensor | None]()
        for k, layer in enumerate(stack.layers):
            inputs.append(layer.extended(x))
            x = layer.forward(x)
            function = stack.functions[k] if k < len(stack.functions) else None
            x, after = (x, None) if function is None else with_slope(function, x)
            slopes.append(after)
        return cls([layer.weight().clone() for layer in stack.layers], inputs, slopes, _read(mix, x), mix)

    def forward(self, v: Weights) -> Tensor:
        """J v, (N, k)."""
        moved: Tensor | None = None
        for w, x, after, dw in zip(self.weights, self.inputs, self.slopes, v, strict=True):
            moved = x @ dw.T if moved is None else x @ dw.T + moved @ w.T
            moved = moved if after is None else moved * after
        assert moved is not None
        return _read(self.mix, moved)

    def backward(self, u: Tensor, of: Callable[[Tensor, Tensor], Tensor] = lambda g, x: g.T @ x) -> Weights:
        """J^T u of each layer, or another function of its sensitivities (N, m) and inputs (N, n)."""
        found, g = [], u * self.mix if self.mix.ndim == 1 else mixed(self.mix.mT, u)
        for k in reversed(range(len(self.inputs))):
            after = self.slopes[k]
            g = g if after is None else g * after
            found.append(of(g, self.inputs[k]))
            g = g @ self.weights[k]
        return found[::-1]


def _read(mix: Tensor, own: Tensor) -> Tensor:
    """The network's outputs from the stack's."""
    return own * mix if mix.ndim == 1 else mixed(mix, own)


@dataclass(frozen=True)
class _Preconditioner:
    """(A x G + c)^-1 for each layer."""

    parts: list[tuple[Tensor, Tensor, Tensor]]  # eigenvectors of G and A, products of eigenvalues

    @classmethod
    def of(cls, point: _Linearised, signs: Tensor) -> "_Preconditioner":
        outer = point.backward(signs, lambda g, x: g.T @ g)
        return cls([cls._part(g, x) for g, x in zip(outer, point.inputs, strict=True)])

    @staticmethod
    def _part(outer: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        g, ug = torch.linalg.eigh(outer.double())
        a, ua = torch.linalg.eigh((x.T @ x / len(x)).double())
        return ug.float(), ua.float(), (g.clamp_min(0)[:, None] * a.clamp_min(0)).float()

    def __call__(self, v: Weights, shift: Weights) -> Weights:
        parts = zip(v, shift, self.parts, strict=True)
        return [ug @ ((ug.T @ w @ ua) / (size + float(s.mean()))) @ ua.T for w, s, (ug, ua, size) in parts]


def descend(
    network: SmallStacks,
    data: Data,
    steps: int,
    products: int,
    *,
    level: float = 0.0,
    damping: float = 1.0,
    goal: float = 0.0,
) -> float:
    """At most so many steps of so many products each, in place; level: of a price on the weights; goal: squared
    error at which that ends. Returns the squared error on the data."""
    single, error = replace(_Descent.of(network, data, level), damping=damping), float("inf")
    for _ in range(steps):
        error, moved = single.step(products)
        if not moved or error <= goal:
            break
    for layer, own in zip(network.layers, single.stack.layers, strict=True):
        layer.matrix = own.matrix.double()
    return error


@dataclass
class _Descent:
    stack: SmallStack  # in single precision
    mix: Tensor
    x: Tensor
    y: Tensor
    weight: float
    level: float
    damping: float = 1.0
    last: Weights | None = None  # the step before

    @classmethod
    def of(cls, network: SmallStacks, data: Data, level: float) -> "_Descent":
        network = network.clone()
        (stack,) = network.stacks
        for layer in stack.layers:
            layer.matrix = layer.matrix.float()
            layer.offset = None if layer.offset is None else layer.offset.float()
        return cls(
            SmallStack(stack.layers, [copy.deepcopy(f).float() for f in stack.functions]),
            (network.scale if data.mix is None else data.mix).float(),
            data.inputs[0].float(),
            (data.outputs if data.rest is None else data.outputs - data.rest).float(),
            data.weight,
            level,
        )

    def step(self, products: int) -> tuple[float, bool]:
        """Squared error after the longest step that lowers error and price, and whether there is one."""
        point = _Linearised.at(self.stack, self.x, self.mix)
        residual = self.y - point.outputs
        signs = torch.where(torch.rand(residual.shape, generator=torch.Generator().manual_seed(0)) < 0.5, -1.0, 1.0)
        signs = signs * self.weight**0.5
        diagonal, solver = point.backward(signs, lambda g, x: (g**2).T @ x**2), _Preconditioner.of(point, signs)
        price, before = Price.of(self.stack.layers, self.level), [layer.matrix for layer in self.stack.layers]
        error = self.weight * float(residual.pow(2).sum())
        curvature = self._split(price.curvature(self._joined(before)), before)
        gradient = [self.weight * g for g in point.backward(residual)]
        gradient = [g - c * w for g, c, w in zip(gradient, curvature, before, strict=True)]
        target = error + price.value(self._joined(before))
        for k in range(_TRIES):
            shift = [self.damping * d + c + _TINY for d, c in zip(diagonal, curvature, strict=True)]
            start = [_MOMENTUM * 0.5**k * v for v in self.last or ()]
            moves = self._solve(point, gradient, shift, solver, products, start)
            self._set([w + v for w, v in zip(before, moves, strict=True)])
            after = self.weight * float((self.y - self._outputs()).pow(2).sum())
            if after + price.value(self._joined([layer.matrix for layer in self.stack.layers])) < target:
                self.damping, self.last = max(self.damping / 4, _LEAST_DAMPING), moves
                return after, True
            self.damping *= 4
        self._set(before)
        return error, False

    def _solve(
        self,
        point: _Linearised,
        gradient: Weights,
        shift: Weights,
        solver: _Preconditioner,
        products: int,
        start: Weights,
    ) -> Weights:
        """(J^T J + shift)^-1 times the gradient, by conjugate gradients from some start, or from zero."""

        def normal(v: Weights) -> Weights:
            image = point.backward(self.weight * point.forward(v))
            return [i + s * d for i, s, d in zip(image, shift, v, strict=True)]

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

    def _outputs(self) -> Tensor:
        return _read(self.mix, self.stack.forward(self.x)[1])

    def _set(self, weights: Weights) -> None:
        for layer, w in zip(self.stack.layers, weights, strict=True):
            layer.matrix = w

    @staticmethod
    def _joined(weights: Weights) -> Tensor:
        return torch.cat([w.reshape(-1) for w in weights])

    @staticmethod
    def _split(values: Tensor, like: Weights) -> Weights:
        parts = values.split([w.numel() for w in like])
        return [p.reshape(w.shape) for p, w in zip(parts, like, strict=True)]


def _dot(a: Weights, b: Weights) -> float:
    return sum(float((x * y).sum()) for x, y in zip(a, b, strict=True))
