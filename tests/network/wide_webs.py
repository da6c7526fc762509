"""Modules with skip connections or gates that write fields, and what may follow their last layers."""

import torch
from field_networks import MESH, POINTS, field_state
from torch import Tensor, nn


class Wide(nn.Module):
    """A block beside a skip connection, and a last layer that writes the field."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.block, self.last = nn.Linear(2, 32), nn.Linear(32, 32), nn.Linear(32, POINTS)

    def hidden(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        return h + torch.tanh(self.block(h))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.hidden(x))


class OnMesh(Wide):
    """Outputs in units of their own, in the shape of the mesh."""

    def forward(self, x: Tensor) -> Tensor:
        return (5 - 2 * self.last(self.hidden(x))).reshape(-1, *MESH)


class Gated(Wide):
    """The block mixes two encodings of the inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(2, 32)

    def hidden(self, x: Tensor) -> Tensor:
        h, z = torch.tanh(self.first(x)), torch.tanh(self.other(x))
        gate = torch.sigmoid(self.block(h))
        return gate * h + (1 - gate) * z


class Positive(Wide):
    """A function follows that is not linear."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.softplus(super().forward(x))


class Skipping(Wide):
    """A constant field that a neuron scales is added."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.hidden(x)
        return self.last(h) + h[:, :1]


class Kept(Wide):
    """It runs at its own width alone."""

    def hidden(self, x: Tensor) -> Tensor:
        h = super().hidden(x)
        return h + torch.zeros(32).to(h)


def filled(module: nn.Module) -> nn.Module:
    """With weights that a few neurons can stand for."""
    torch.manual_seed(0)
    state, given = module.state_dict(), field_state()
    for name, t in state.items():
        state[name] = torch.randn(t.shape) * (1.5 / t.shape[-1] ** 0.5 if t.ndim == 2 else 0.3)
    module.load_state_dict(state | {f"last.{name}": given[f"net.4.{name}"] for name in ("weight", "bias")})
    return module.eval()
