"""Networks many of whose numbers stand in vectors; each a factory of its own."""

import torch
from torch import Tensor, nn


class Normalised(nn.Module):
    """Statistics, scales and shifts of batch normalisation, and a vector that nothing reads."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(2, 64), nn.BatchNorm1d(64), nn.Tanh(), nn.Linear(64, 32), nn.LayerNorm(32), nn.Linear(32, 1)
        )
        self.register_buffer("unread", torch.linspace(1, 2, 40))
        self.register_buffer("few", torch.rand(7) + 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) * self.few.prod()


def normalised() -> nn.Module:
    torch.manual_seed(0)
    module = Normalised()
    for norm in (module.net[1], module.net[4]):
        for vector in (norm.weight, norm.bias):
            nn.init.uniform_(vector, 0.5, 1.5)
    module.net[1].running_mean.normal_()
    module.net[1].running_var.uniform_(0.1, 1)
    return module.eval()


def archived() -> torch.jit.ScriptModule:
    return torch.jit.trace(normalised(), torch.rand(8, 2))
