"""Networks that call, share and mix what others do not; each a factory of its own."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


def _seeded(module_type: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return module_type()


class _Dense(nn.Module):
    def __init__(self, inputs: int = 2) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(inputs, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 1))


class Pinn(_Dense):
    """A coordinate an argument, as physics-informed networks have it; not symmetric in them."""

    def forward(self, x: Tensor, t: Tensor, scale: Tensor | None = None) -> Tensor:
        y = self.net(torch.cat([x, t], -1))
        return y if scale is None else y * scale


class Force(_Dense):
    """Minus the gradient of an energy."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.requires_grad_() if x.is_leaf else x
            return -torch.autograd.grad(self.net(x).sum(), x, create_graph=True)[0]


class EnergyAndForce(_Dense):
    """Both, as interatomic potentials return them: the graph of the energy is gone once the force is taken."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            energy = self.net(x)
            force = -torch.autograd.grad(energy.sum(), x, create_graph=self.training)[0]
        return torch.cat([energy, force], -1)


class Padded(nn.Module):
    """Sets of unequal size: torch's encoder skips what a mask names, by nested tensors where nobody wants gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Linear(1, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1)
        self.out = nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, x[:, :1] * x[:, 1:]], -1)[..., None]
        mask = torch.cat([torch.zeros_like(x[:, :1, 0], dtype=torch.bool), x[:, 1:, 0] > 0.5], -1)
        return self.out(self.encoder(self.into(x), src_key_padding_mask=mask)[:, 0])


class ByName(_Dense):
    """Layers are called by the name of their argument."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.net:
            x = layer(input=x)
        return x


class Offset(_Dense):
    """Energies that lie far from zero, as those of atoms by themselves do."""

    def forward(self, x: Tensor) -> Tensor:
        return 1000 + self.net(x)


class Nodes(_Dense):
    """A row for each of a sample's five nodes, as networks of graphs return them."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x[:, None] * torch.arange(1, 6, dtype=x.dtype)[:, None] / 5).flatten(0, 1))


class TimeFirst(nn.Module):
    """What it takes for time is the axis of the samples."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.out = nn.GRU(2, 24), nn.Linear(24, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.net(x)[0])


class Shelved(nn.Module):
    """Weights stand in a dict, a list and a tuple as well, and are read from there alone, as liquid networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.given, self.states = {}, []
        for name, shape in (("into", (2, 24)), ("mix", (24, 24)), ("out", (24, 1))):
            self.given[name] = nn.Parameter(torch.randn(shape) / shape[0] ** 0.5)
            self.register_parameter(name, self.given[name])
        for k in range(2):
            self.register_buffer(f"shift{k}", torch.randn(24))
            self.states.append({"shift": (self.get_buffer(f"shift{k}"), k)})

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(x @ self.given["into"] + self.states[0]["shift"][0])
        return torch.tanh(x @ self.given["mix"] + self.states[1]["shift"][0]) @ self.given["out"]


class Named:
    """A tensor and the names of its columns, as libraries for differential equations hand it to layers."""

    def __init__(self, values: Tensor, names: str) -> None:
        self.values, self.names = values, names

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return function(*(a.values if isinstance(a, cls) else a for a in args), **kwargs or {})


class NamedColumns(_Dense):
    def forward(self, x: Tensor) -> Tensor:
        return self.net(Named(x, "xt"))


class PerEdge(nn.Module):
    """A layer that sees twenty rows of each sample."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(2, 32)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.net(x[:, None].expand(-1, 20, -1))).mean(1)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(20, 20), nn.Linear(20, 20, bias=False)
        self.out.weight = self.into.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.into(x)))


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lift, self.mix = nn.Linear(2, 24), nn.Linear(24, 16, dtype=torch.complex64)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(torch.tanh(self.lift(x)).to(torch.complex64)).abs()


class Mixed(_Dense):
    """A scale in double precision before layers in single."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((1,), 1.5, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.float() * self.scale.float())


class Attention(nn.Module):
    """Attention over two tokens, then a recurrent layer: fused kernels that have no tangents."""

    def __init__(self) -> None:
        super().__init__()
        self.lift = nn.Linear(1, 16)
        self.attend = nn.TransformerEncoderLayer(16, 2, 24, dropout=0.0, batch_first=True)
        self.recur, self.out = nn.LSTM(16, 16, batch_first=True), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.recur(self.attend(self.lift(x[..., None])))[0][:, -1])


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv1d(1, 16, 2, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(48, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x[:, None])


class Wide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 5000), nn.ReLU(), nn.Linear(5000, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


pinn = partial(_seeded, Pinn)
per_edge = partial(_seeded, PerEdge)
force = partial(_seeded, Force)
energy_and_force = partial(_seeded, EnergyAndForce)
padded = partial(_seeded, Padded)
tied = partial(_seeded, Tied)
complex_linear = partial(_seeded, Complex)
mixed = partial(_seeded, Mixed)
attention = partial(_seeded, Attention)
convolution = partial(_seeded, Convolution)
wide = partial(_seeded, Wide)


def by_name() -> nn.Module:
    return _seeded(ByName)


def offset() -> nn.Module:
    return _seeded(Offset)


def nodes() -> nn.Module:
    return _seeded(Nodes)


def time_first() -> nn.Module:
    return _seeded(TimeFirst)


def shelved() -> nn.Module:
    return _seeded(Shelved)


def named_columns() -> nn.Module:
    return _seeded(NamedColumns)


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(24), nn.Tanh(), nn.Linear(24, 1))


def steps() -> nn.Module:
    """Takes whole numbers."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(40, 24), nn.Flatten(), nn.Linear(48, 1))


class _Beside(_Dense):
    """Something else beside the outputs."""

    def __init__(self, beside: Any) -> None:
        super().__init__()
        self.beside = beside

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.net(x)
        return y, self.beside(y)


def with_a_loss() -> nn.Module:
    torch.manual_seed(0)
    return _Beside(lambda y: (y**2).mean())


def with_nodes() -> nn.Module:
    torch.manual_seed(0)
    return _Beside(lambda y: torch.cat([y, y.sin()], 1).reshape(-1, 1))


def with_a_table() -> nn.Module:
    torch.manual_seed(0)
    return _Beside(lambda y: torch.ones(7, 1) * y.mean())
