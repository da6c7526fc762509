"""Networks as users bring them: convolutions, complex weights, layers called twice, changed inputs."""

from typing import Any

import torch
from torch import Tensor, nn


class Convolutions(nn.Module):
    """Down and up again; the inner layers have groups or are transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.middle = nn.Conv2d(1, 16, 3, 2, 1), nn.Conv2d(16, 32, 3, padding=1)
        self.up, self.last = nn.ConvTranspose2d(32, 16, 2, 2), nn.Conv2d(16, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.middle(torch.tanh(self.down(x))))
        return self.last(torch.tanh(self.up(x)))


class Spectral(nn.Module):
    """A Fourier layer with complex weights; its outputs are complex too."""

    def __init__(self) -> None:
        super().__init__()
        self.lift = nn.Linear(1, 16)
        self.modes = nn.Parameter(torch.randn(16, 16, 6, dtype=torch.cfloat) / 16)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.fft.rfft(torch.tanh(self.lift(x[..., None])).mT)[..., :6]
        return torch.einsum("bim,iom->bom", h, self.modes)


class InPlace(nn.Module):
    """Changes what it is given, and its own pre-activations."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.first, self.last, self.in_place = nn.Linear(2, 32), nn.Linear(32, 1), in_place

    def forward(self, x: Tensor) -> Tensor:
        x = x.mul_(0.5) if self.in_place else 0.5 * x
        return self.last(nn.functional.relu(self.first(x), inplace=self.in_place))


class Random(nn.Module):
    """Dropout that is never off."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(2, 32), nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(nn.functional.dropout(torch.tanh(self.first(x)), 0.2, training=True))


class WithoutGradients(nn.Module):
    """Runs under no_grad, as wrappers for inference do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.convolution, self.last = nn.Linear(2, 32), nn.Conv1d(1, 4, 3), nn.Linear(120, 1)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.convolution(torch.tanh(self.first(x))[:, None]).flatten(1))


class Repeated(nn.Module):
    """One layer called on inputs of two shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.last = nn.Linear(2, 32), nn.Linear(32, 32), nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        once = torch.tanh(self.again(h))
        return self.last(torch.tanh(self.again(torch.stack([once, h], 1))).sum(1))


def convolutions() -> nn.Module:
    torch.manual_seed(0)
    return Convolutions()


def spectral() -> nn.Module:
    torch.manual_seed(0)
    return Spectral()


def in_place() -> nn.Module:
    torch.manual_seed(0)
    return InPlace(True)


def out_of_place() -> nn.Module:
    torch.manual_seed(0)
    return InPlace(False)


def random() -> nn.Module:
    torch.manual_seed(0)
    return Random()


def without_gradients() -> nn.Module:
    torch.manual_seed(0)
    return WithoutGradients()


def repeated() -> nn.Module:
    torch.manual_seed(0)
    return Repeated()


class Talkative(nn.Module):
    """Prints, and puts more than tensors into its state dict."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 32)

    def state_dict(self, *args: Any, **options: Any) -> Any:
        return super().state_dict(*args, **options) | {"settings": {"width": 32}}

    def forward(self, x: Tensor) -> Tensor:
        print("shape", x.shape)
        return self.layer(x)


def talkative() -> nn.Module:
    print("building")
    return Talkative()


class Tokens(nn.Module):
    """An embedding with many rows, few of which occur in a small sample."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.last = nn.Embedding(800, 16), nn.Linear(16, 8)

    def forward(self, i: Tensor) -> Tensor:
        return self.last(torch.tanh(self.table(i)))


def tokens() -> nn.Module:
    torch.manual_seed(0)
    return Tokens()


class Residual(nn.Module):
    """Residual layers for each token, which see the mean of the others."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.head = nn.Linear(16, 64), nn.Linear(64, 10)
        self.up = nn.ModuleList(nn.Linear(64, 128) for _ in range(2))
        self.down = nn.ModuleList(nn.Linear(128, 64) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        for up, down in zip(self.up, self.down, strict=True):
            seen = nn.functional.layer_norm(x + x.mean(1, keepdim=True), x.shape[-1:])
            x = x + down(nn.functional.gelu(up(seen)))
        return self.head(x.mean(1))


class Masked(nn.Linear):
    """A dense layer with a mask on its weights, as autoregressive flows have them."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.register_buffer("mask", (torch.rand(outputs, inputs) < 0.6).float())

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight * self.mask, self.bias)


class Added(nn.Linear):
    """A dense layer with a low-rank addition."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.down, self.up = nn.Linear(inputs, 2, bias=False), nn.Linear(2, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.up(self.down(x))


def _stack_of(layer: type[nn.Linear]) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(layer(2, 32), nn.Tanh(), layer(32, 32), nn.Tanh(), nn.Linear(32, 1))


class Modes(nn.Module):
    """Coefficients by a small network, of twelve fixed smooth modes on a mesh."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 12))
        x = torch.linspace(0, 1, 400)
        waves = torch.arange(1, 13)[:, None] * torch.pi * x
        self.register_buffer("modes", torch.sin(waves) * torch.exp(-x) + 0.2 * torch.cos(0.7 * waves))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) @ self.modes


def modes() -> nn.Module:
    torch.manual_seed(0)
    return Modes()


def masked() -> nn.Module:
    return _stack_of(Masked)


def added() -> nn.Module:
    return _stack_of(Added)


def doubled() -> nn.Module:
    """Changes what a dense layer gives with a hook, and another one's forward."""
    net = _stack_of(nn.Linear)
    net[0].register_forward_hook(lambda module, args, output: 2 * output)
    net[2].forward = lambda x: 2 * nn.functional.linear(x, net[2].weight, net[2].bias)
    return net


class OneDict(nn.Module):
    """A batch in one argument."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 20)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.layer(torch.cat([batch["a"], batch["b"]], -1))


def one_dict() -> nn.Module:
    return OneDict()
