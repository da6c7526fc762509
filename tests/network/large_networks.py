"""Networks as neural operators are: wide spectral weights, layers that see many rows of a sample."""

import torch
from torch import Tensor, nn


class SpectralLayer(nn.Module):
    """Products of channels for each of 8 x 8 modes of a field; lower modes carry more."""

    def __init__(self, channels: int = 16, modes: int = 8) -> None:
        super().__init__()
        self.modes = modes
        self.weight = nn.Parameter(torch.randn(channels, channels, modes, modes, dtype=torch.cfloat) / channels)

    def forward(self, x: Tensor) -> Tensor:
        k, f = self.modes, torch.fft.rfft2(x)
        kept = torch.einsum("bixy,ioxy->boxy", f[..., :k, :k], self.weight)
        return torch.fft.irfft2(nn.functional.pad(kept, (0, f.shape[-1] - k, 0, f.shape[-2] - k)), x.shape[-2:])


class Operator(nn.Module):
    """A small Fourier neural operator on fields of 16 x 16."""

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.last = nn.Linear(1, 16), nn.Linear(16, 1)
        self.layers = nn.ModuleList([SpectralLayer(), SpectralLayer()])

    def forward(self, x: Tensor) -> Tensor:
        h = self.lift(x[..., None]).movedim(-1, 1)
        for layer in self.layers:
            h = h + torch.tanh(layer(h))
        return self.last(h.movedim(1, -1))[..., 0]


class Tokens(nn.Module):
    """A dense layer that sees 400 rows of each sample."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x[:, None] * torch.linspace(0.1, 1, 400)[:, None]).mean(1)


class Decoded(nn.Module):
    """A dense layer and what follows it."""

    def __init__(self) -> None:
        super().__init__()
        self.dense, self.after = nn.Linear(3, 16), nn.Conv1d(1, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.dense(x)[:, None])


def decoder() -> nn.Module:
    torch.manual_seed(0)
    return Decoded()


def operator() -> nn.Module:
    torch.manual_seed(0)
    return Operator()


def tokens() -> nn.Module:
    torch.manual_seed(0)
    return Tokens()
