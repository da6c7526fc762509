"""Networks that keep what they computed from their weights: in an attribute, in a dict, or where nobody finds it."""

from functools import cache

import torch
from torch import Tensor, nn


def kernel(x: Tensor, y: Tensor) -> Tensor:
    return torch.exp(-5 * (x[:, None] - y).square().sum(-1))


class Keeping(nn.Module):
    """The inverse of a kernel matrix of learned points, which is computed in the first call alone by those below."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.points = nn.Parameter(torch.rand(20, 2))
        self.weights = nn.Parameter(torch.randn(20))
        self.body = nn.Sequential(nn.Linear(2, 24), nn.Tanh(), nn.Linear(24, 2))

    def factor(self) -> Tensor:
        return torch.linalg.inv(torch.eye(20) + kernel(self.points, self.points))

    def kept(self) -> Tensor:
        return self.factor()

    def forward(self, x: Tensor) -> Tensor:
        return kernel(self.body(x), self.points) @ (self.kept() @ self.weights)[:, None]


class InNewAttribute(Keeping):
    def kept(self) -> Tensor:
        if not hasattr(self, "_factor"):
            self._factor = self.factor()
        return self._factor


class InNone(Keeping):
    def __init__(self) -> None:
        super().__init__()
        self._factor: Tensor | None = None

    def kept(self) -> Tensor:
        if self._factor is None:
            self._factor = self.factor()
        return self._factor


class InDict(Keeping):
    def __init__(self) -> None:
        super().__init__()
        self._memory: dict[str, Tensor] = {}

    def kept(self) -> Tensor:
        if "factor" not in self._memory:
            self._memory["factor"] = self.factor()
        return self._memory["factor"]


class Memory:
    factor: Tensor | None = None


class InObject(Keeping):
    def __init__(self) -> None:
        super().__init__()
        self._memory = Memory()

    def kept(self) -> Tensor:
        if self._memory.factor is None:
            self._memory.factor = self.factor()
        return self._memory.factor


class Elsewhere(Keeping):
    """In no attribute."""

    @cache  # noqa: B019 - that it stays is what is tested
    def kept(self) -> Tensor:
        return self.factor()


class Sealed(Keeping):
    """Takes no weights but those that it was saved with."""

    def kept(self) -> Tensor:
        if not torch.equal(self.weights, Keeping().weights):
            raise ValueError("these weights were changed")
        return self.factor()


class Half(nn.Module):
    """Weights of 16 bits."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(2, 24), nn.Tanh(), nn.Linear(24, 2)).bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.bfloat16())


class Drifting(Keeping):
    """What it subtracts from its inputs follows them by a ten-thousandth in each call."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        outputs = super().forward(x - self.mean)
        self.mean.lerp_(x.detach().mean(0) + 3, 1e-4)
        return outputs


class DriftingMeans(nn.Module):
    """Enough numbers to be coded follow the inputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(2, 24), nn.Tanh(), nn.Linear(24, 2))
        self.register_buffer("means", torch.linspace(0.1, 0.3, 16))

    def forward(self, x: Tensor) -> Tensor:
        outputs = self.body(x - self.means.view(8, 2).mean(0))
        self.means.lerp_(x.detach().mean() + 3, 1e-4)
        return outputs


class DriftingAttribute(Keeping):
    """The same in an attribute, which becomes another tensor each time."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.zeros(2)

    def forward(self, x: Tensor) -> Tensor:
        outputs = super().forward(x - self.mean)
        self.mean = self.mean.lerp(x.detach().mean(0) + 3, 1e-4)
        return outputs


class Counting(Keeping):
    """Counts its calls, which changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.long), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x)


class Recurrent(Keeping):
    """The hidden state of the last call is where the next one begins."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("hidden", torch.zeros(2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        outputs = super().forward(x + self.hidden)
        self.hidden = x.detach().mean(0) + 1
        return outputs


class Attending(Keeping):
    """Means over its last calls, which are the same where one is repeated often enough."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self._calls.append(super().forward(x))
        return torch.stack([y for y in self._calls if len(y) == len(x)][-2:]).mean(0)
