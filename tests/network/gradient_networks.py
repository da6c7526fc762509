"""Networks that take gradients in their own forward, average over the batch, end the program or leave their domain."""

import sys

import torch
from torch import Tensor, nn


class Energy(nn.Module):
    """A learned energy H; what a network of it returns is the flow that H makes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.energy = nn.Sequential(nn.Linear(2, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 1))

    def turned(self, gradient: Tensor) -> Tensor:
        return torch.cat([gradient[:, 1:], -gradient[:, :1]], 1)


class Hamiltonian(Energy):
    """As in papers: gradients are on while it is trained, so it does not switch them on."""

    def forward(self, z: Tensor) -> Tensor:
        z = z.requires_grad_(True)
        return self.turned(torch.autograd.grad(self.energy(z).sum(), z, create_graph=True)[0])


class Enabled(Energy):
    """The same, with gradients switched on."""

    def forward(self, z: Tensor) -> Tensor:
        with torch.enable_grad():
            z = z if z.requires_grad else z.clone().requires_grad_(True)
            return self.turned(torch.autograd.grad(self.energy(z).sum(), z, create_graph=True)[0])


class Detached(Energy):
    """The same in a form in which torch's tangents vanish without a word."""

    def forward(self, z: Tensor) -> Tensor:
        with torch.enable_grad():
            z = z.detach()
            z.requires_grad = True
            return self.turned(torch.autograd.grad(self.energy(z).sum(), z)[0])


class Functional(Energy):
    """The same by transforms, in which layers see one sample of a batch that they do not know of."""

    def forward(self, z: Tensor) -> Tensor:
        return self.turned(torch.func.vmap(torch.func.grad(lambda x: self.energy(x).squeeze()))(z))


class Average(Energy):
    """One row for all samples."""

    def forward(self, z: Tensor) -> Tensor:
        return self.energy(z).mean(0, keepdim=True)


class Rows(Energy):
    """Three rows for each sample, and a number of the whole batch beside them."""

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        y = self.energy(z)
        return torch.cat([y, y**2, z[:, :1] * y]), y.mean()


class Exits(Energy):
    def forward(self, z: Tensor) -> Tensor:
        sys.exit(3)


class Logarithm(Energy):
    """Of positive numbers alone."""

    def forward(self, z: Tensor) -> Tensor:
        return self.energy(z.log())


class Strict(Logarithm):
    """The same with a check of its own."""

    def forward(self, z: Tensor) -> Tensor:
        if bool((z <= 0).any()):
            raise ValueError("concentrations are positive")
        return super().forward(z)


class Distances(nn.Module):
    """Between eight points each sample is turned to: a root of zero from each to itself, whose gradients are nan."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.last = nn.Linear(2, 48), nn.Linear(48, 24), nn.Linear(64, 16)

    def forward(self, z: Tensor) -> Tensor:
        points = self.second(torch.tanh(self.first(z))).unflatten(1, (8, 3))
        return self.last(self.root((points[:, :, None] - points[:, None]).square().sum(3)).flatten(1))

    def root(self, squares: Tensor) -> Tensor:
        return squares.sqrt()


class RoundedDistances(Distances):
    """The same with finite gradients."""

    def root(self, squares: Tensor) -> Tensor:
        return squares.clamp(min=1e-12).sqrt()


class DistancesOfWeights(RoundedDistances):
    """Roots of zero between the columns of a weight that no sample reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.scales = nn.Parameter(torch.randn(64, 64).sin())

    def forward(self, z: Tensor) -> Tensor:
        squares = (self.scales[:, None] - self.scales[None]).square().mean(2)
        return super().forward(z) * (1 + self.own_root(squares).mean())

    def own_root(self, squares: Tensor) -> Tensor:
        return squares.sqrt()


class RoundedDistancesOfWeights(DistancesOfWeights):
    """The same with finite gradients."""

    def own_root(self, squares: Tensor) -> Tensor:
        return squares.clamp(min=1e-12).sqrt()
