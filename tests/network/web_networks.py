"""Networks of the user's own whose layers are no chains: sums, gates, graphs; each a factory of its own."""

import torch
from torch import Tensor, nn


class Residual(nn.Module):
    """A skip connection around each hidden layer, functions in the code."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(2, 16), nn.Linear(16, 1)
        self.blocks = nn.ModuleList(nn.Linear(16, 16) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.first(x))
        for block in self.blocks:
            y = y + torch.sin(2 * block(y))
        return self.last(y)


class Gated(nn.Module):
    """Two encodings of the inputs, mixed by every hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.u, self.v, self.first = (nn.Linear(2, 16) for _ in range(3))
        self.hidden, self.last = nn.Linear(16, 16), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        z = torch.sigmoid(self.hidden(torch.tanh(self.first(x))))
        return self.last(torch.tanh(self.u(x)) * z + torch.tanh(self.v(x)) * (1 - z))


class Beside(nn.Module):
    """Hidden neurons and inputs side by side, read in a fixed order."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(2, 16), nn.Linear(18, 8), nn.Linear(26, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([x, torch.relu(self.first(x))], 1)
        return self.last(torch.cat([y, torch.tanh(self.second(y))], 1))


class Fused(nn.Module):
    """Values, gates and shifts are parts of one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.hidden, self.last = nn.Linear(2, 48), nn.Linear(16, 16), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        value, gate, shift = self.first(x).chunk(3, -1)
        y = torch.tanh(value) * torch.sigmoid(gate)
        return self.last(torch.tanh(self.hidden(y)) + y * torch.sin(shift))


class Conditioned(nn.Module):
    """Factors of two layers' neurons are halves of what a third one gives."""

    def __init__(self) -> None:
        super().__init__()
        self.factors, self.first = nn.Linear(2, 32), nn.Linear(2, 16)
        self.hidden, self.last = nn.Linear(16, 16), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.factors(x).chunk(2, -1)
        return self.last(torch.tanh(self.hidden(torch.tanh(self.first(x)) * first)) * second)


class Fixed(Residual):
    """Its width stands in the code."""

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.first(x)).view(-1, 4, 4).reshape(-1, 16)
        return self.last(y + torch.sin(self.blocks[1](torch.sin(self.blocks[0](y)))))


class Named(Residual):
    """Each neuron has a factor of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.factors = nn.Parameter(1 + torch.arange(16.0) / 16)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.first(x)) * self.factors
        return self.last(y + torch.sin(self.blocks[1](torch.sin(self.blocks[0](y)))))


class Scaled(Residual):
    """Vectors of a number for each neuron: a slope, a factor, four of a normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.slope, self.norm = nn.PReLU(16), nn.BatchNorm1d(16)
        self.scale = nn.Parameter(1 + torch.arange(16.0) / 16)
        with torch.no_grad():
            for k, t in enumerate((self.slope.weight, *self.norm.parameters(), *self.norm.buffers())):
                if t.ndim:
                    t += (k + torch.arange(16)) / 32

    def forward(self, x: Tensor) -> Tensor:
        y = self.slope(self.first(x))
        z = self.scale * torch.sin(self.norm(self.blocks[0](y)))
        return self.last(y + torch.sin(self.blocks[1](z)))


class Ring(nn.Module):
    """Messages along a ring of five nodes of three numbers each."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.message, self.last = nn.Linear(3, 16), nn.Linear(32, 16), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.first(x.reshape(-1, 5, 3)))
        y = y + torch.tanh(self.message(torch.cat([y, y.roll(1, 1)], -1)))
        return self.last(y).squeeze(-1)


class Attending(nn.Module):
    """Each of twenty points looks at all others."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.message, self.last = nn.Linear(1, 16), nn.Linear(16, 16), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x.reshape(-1, 20, 1)
        y = torch.tanh(self.first(x))
        y = y + torch.tanh(self.message(torch.softmax(x @ x.mT, -1) @ y))
        return self.last(y.mean(1))


class Normalised(Residual):
    """Each neuron depends on all others."""

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.layer_norm(torch.tanh(self.first(x)), (16,))
        return self.last(y + torch.tanh(self.blocks[1](y + torch.tanh(self.blocks[0](y)))))


class Detached(Residual):
    """Outputs whose gradients are not those of the function."""

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.first(x))
        y = y.detach() + torch.sin(self.blocks[1](torch.sin(self.blocks[0](y))))
        return self.last(y)


class Forces(nn.Module):
    """Minus the gradient of an energy with a skip connection, which its own forward takes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(2, 16), nn.Linear(16, 16), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x if x.requires_grad else x.clone().requires_grad_()
            y = torch.tanh(self.first(x))
            energy = self.last(y + torch.tanh(self.second(y)))
            return -torch.autograd.grad(energy.sum(), x, create_graph=True)[0]


class Velocity(Forces):
    """A flow from its stream function, and its pressure; whoever calls it must keep gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = x if x.requires_grad else x.clone().requires_grad_()
        y = self.last(torch.tanh(self.second(torch.tanh(self.first(x)))))
        slopes = torch.autograd.grad(y[:, 0].sum(), x, create_graph=True)[0]
        return torch.stack([slopes[:, 1], -slopes[:, 0], y[:, 1]], 1)


class InPlace(Residual):
    """A function that overwrites what a layer gives."""

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu_(self.first(x))
        return self.last(y + torch.tanh(self.blocks[1](torch.relu_(self.blocks[0](y)))))


class Solved(nn.Module):
    """Four steps of Heun's method along a learned flow."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(2, 16), nn.Linear(16, 16), nn.Linear(16, 2)

    def flow(self, y: Tensor) -> Tensor:
        return self.last(torch.tanh(self.second(torch.tanh(self.first(y)))))

    def forward(self, y: Tensor) -> Tensor:
        for _ in range(4):
            slope = self.flow(y)
            y = y + (slope + self.flow(y + slope / 4)) / 8
        return y


class Recurrent(nn.Module):
    """A cell written by hand: what it keeps of before comes first, which is nothing at first."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.now, self.last = nn.Linear(16, 48), nn.Linear(3, 48), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), self.before.in_features)
        for now in x.reshape(-1, 5, 3).unbind(1):
            value, gate, out = (self.before(state) + self.now(now)).chunk(3, -1)
            state = state + torch.sigmoid(gate) * (torch.tanh(value) - state) * torch.sigmoid(out)
        return self.last(state)


class Apart(nn.Module):
    """How far two points are from each other, by what one network makes of each."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(1, 16), nn.Linear(16, 16), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = (torch.tanh(self.second(torch.tanh(self.first(part)))) for part in x.split(1, 1))
        return self.last((a - b).abs())


class Deep(nn.Module):
    """The same block four times."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.block, self.last = nn.Linear(2, 16), nn.Linear(16, 16), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.first(x))
        for _ in range(4):
            y = y + torch.tanh(self.block(y)) / 2
        return self.last(y)


class Aliased(Residual):
    """The same block four times, which has four names."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([self.blocks[0]] * 4)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.first(x))
        for block in self.blocks:
            y = y + torch.tanh(block(y)) / 2
        return self.last(y)


class Rounds(nn.Module):
    """Three rounds of the same messages along a ring, each to both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.message, self.last = nn.Linear(3, 16), nn.Linear(32, 16), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.first(x.reshape(-1, 5, 3)))
        for _ in range(3):
            y = y + sum(torch.tanh(self.message(torch.cat([y, y.roll(side, 1)], -1))) for side in (1, -1)) / 2
        return self.last(y).squeeze(-1)


class Shared(Forces):
    """Minus the gradient of an energy that calls a layer three times."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x if x.requires_grad else x.clone().requires_grad_()
            y = torch.tanh(self.first(x))
            for _ in range(3):
                y = y + torch.tanh(self.second(y)) / 2
            return -torch.autograd.grad(self.last(y).sum(), x, create_graph=True)[0]


class Overwriting(Deep):
    """Each block adds to what it has read."""

    def forward(self, x: Tensor) -> Tensor:
        y = torch.sin(self.first(x))
        for _ in range(3):
            y += torch.sin(self.block(y))
        return self.last(y)


class Counting(Deep):
    """How often its layer is called depends on what it gives."""

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.first(x))
        for _ in range(2 + int(y.square().sum(1).max())):
            y = y + torch.tanh(self.block(y)) / 8
        return self.last(y)


class Towers(Residual):
    """The product of what two networks give, summed."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.other, self.last = nn.Linear(1, 16), nn.Linear(1, 16), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.first(x[:, :1]))
        y = self.last(y + torch.sin(self.blocks[0](y)))
        z = torch.tanh(self.other(x[:, 1:]))
        return (y * self.blocks[1](z)).sum(1, keepdim=True)


class Heads(nn.Module):
    """Two heads of attention over five points, queries, keys and values of one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.all, self.out, self.last = (
            nn.Linear(3, 16),
            nn.Linear(16, 48),
            nn.Linear(16, 16),
            nn.Linear(16, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.first(x.reshape(-1, 5, 3)))
        q, k, v = (t.reshape(-1, 5, 2, 8).transpose(1, 2) for t in self.all(y).chunk(3, -1))
        found = torch.softmax(q @ k.mT, -1) @ v
        return self.last((y + self.out(found.transpose(1, 2).reshape(-1, 5, 16))).mean(1))


class Norm(Residual):
    """A normalisation before each layer along a skip connection, which ties all neurons."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(16) for _ in range(2))
        with torch.no_grad():
            for k, t in enumerate(self.norms.parameters()):
                t += (k + torch.arange(16)) / 32

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        y = y + self.blocks[1](torch.tanh(self.blocks[0](self.norms[0](y))))
        return self.last(self.norms[1](y))


class Distance(nn.Module):
    """How far two points are from each other in what one network makes of each."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(1, 16), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        a, b = (self.last(torch.tanh(self.first(part))) for part in x.split(1, 1))
        return (a - b).square().sum(1, keepdim=True).sqrt()
