"""Networks whose dense layers' weights are made from other tensors, or changed on the way; each a factory."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, weight_norm

Change = Callable[[nn.Linear], nn.Module]


def _with(change: Change) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        change(nn.Linear(2, 32)), nn.Tanh(), change(nn.Linear(32, 32)), nn.Tanh(), change(nn.Linear(32, 2))
    )


def normed() -> nn.Module:
    """g v / |v|, row by row: no row of v may be zero."""
    return _with(parametrizations.weight_norm)


def normed_by_hooks() -> nn.Module:
    return _with(weight_norm)


def spectrally_normed() -> nn.Module:
    return _with(parametrizations.spectral_norm).eval()


class Refusing(nn.Module):
    """Raises for what is not finite, as distributions do; its first weight is divided by its rows' sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Parameter(torch.randn(32, 2)), nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.last(torch.tanh(x @ (self.first / self.first.norm(dim=1, keepdim=True)).T))
        if not torch.isfinite(y).all():
            raise ValueError("expected finite values")
        return y


def refusing() -> nn.Module:
    torch.manual_seed(0)
    return Refusing()
