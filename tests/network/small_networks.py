"""Small networks for tests: smooth functions that a few neurons carry, so that there is something to compress."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hmcompress.checkpoint import Checkpoint, open_checkpoint
from hmcompress.container.payload import decode_layer
from hmcompress.network import NetworkResult
from hmcompress.settings.config import Settings, load_settings

BOX = {"x": [-1, 1], "t": [0, 1]}


def stack(sizes: Sequence[int], seed: int = 0, gain: float = 1.5) -> dict[str, Tensor]:
    """State dict of a dense stack, named as in nn.Sequential(Linear, act, Linear, ...)."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for k, (n, m) in enumerate(itertools.pairwise(sizes)):
        state[f"net.{2 * k}.weight"] = gain * torch.randn(m, n, generator=generator) / n**0.5
        state[f"net.{2 * k}.bias"] = 0.3 * torch.randn(m, generator=generator)
    return state


def forward(state: dict[str, Tensor], x: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
    """The network of `stack`, in float64, written out."""
    weights = [name for name in state if name.endswith("weight")]
    for k, name in enumerate(weights):
        x = x @ state[name].double().T + state[name.replace("weight", "bias")].double()
        x = activation(x) if k + 1 < len(weights) else x
    return x


def saved(folder: Path, state: Any) -> Checkpoint:
    """The state dict as a checkpoint on disk."""
    torch.save(state, folder / "model.pt")
    return open_checkpoint(folder / "model.pt")


def layer_bytes(result: NetworkResult) -> int:
    return sum(len(layer.payload) for layer in result.layers)


def decoded(result: NetworkResult) -> dict[str, Tensor]:
    tensors = {}
    for layer in result.layers:
        tensors |= dict(zip(layer.row.tensors, decode_layer(layer.payload, layer.shapes, layer.dtype), strict=True))
    return tensors


def outputs_settings(**changes: Any) -> Settings:
    """Settings of the outputs metric with few samples; `calibration` adds to what is there."""
    given = changes.pop("calibration", {})
    calibration = {"samples": 512, "held_out": 512, **({} if "inputs" in given else {"domain": BOX}), **given}
    base = {
        "metric": "outputs",
        "effort": "fast",
        "tol": 1e-2,
        "network": {"mlp": {"activation": "tanh"}},
        "ntk": False,
    }
    return load_settings(None, {**base, "calibration": calibration, **changes})


class Mixed(nn.Module):
    """Embedding, attention, convolution and dense layers: not all of them can be weighted."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30, 16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.feed = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.convolution = nn.Conv1d(16, 16, 3)
        self.head = nn.Linear(16, 3)

    def forward(self, i: Tensor) -> Tensor:
        x = self.embedding(i)
        x = x + self.attention(x, x, x)[0]
        x = x + self.feed(x)
        return self.head(self.convolution(x.transpose(1, 2)).mean(-1))


def build_mixed() -> nn.Module:
    torch.manual_seed(0)
    return Mixed()


def build_broken() -> nn.Module:
    raise ValueError("no weights today")


class Idle(nn.Module):
    """A network that ignores one of its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Linear(2, 16), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


def build_idle() -> nn.Module:
    torch.manual_seed(0)
    return Idle()


class IdleBlocks(nn.Module):
    """The same with a block of convolutions, never trained."""

    def __init__(self) -> None:
        super().__init__()
        block = nn.Sequential(nn.Conv1d(16, 16, 3, bias=False), nn.BatchNorm1d(16), nn.Conv1d(16, 4, 3))
        self.blocks = nn.ModuleDict({"used": nn.Linear(2, 16), "idle": block})

    def forward(self, x: Tensor) -> Any:
        return self.blocks["used"](x)


def build_idle_blocks() -> nn.Module:
    torch.manual_seed(0)
    return IdleBlocks()


def check_jacobian(network: Any, data: Any) -> None:
    """J^T J and J^T r of a small network against differences."""
    gram, gradient, _ = network.normal(data)
    theta, step = network.theta(), 1e-6
    columns = []
    for k in range(len(theta)):
        moved = theta.clone()
        moved[k] += step
        network.set_theta(moved)
        columns.append(network.outputs(data).reshape(-1))
    network.set_theta(theta)
    jacobian = (torch.stack(columns, 1) - network.outputs(data).reshape(-1, 1)) / step
    residual = network.residual(data).reshape(-1)
    for found, expected in ((gram, jacobian.T @ jacobian), (gradient, jacobian.T @ residual)):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
