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
