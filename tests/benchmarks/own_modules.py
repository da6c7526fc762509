"""Trained samples in modules of the user's own: `python tests/benchmarks/own_modules.py [NAME]...` prints the bytes of
all layers at 1e-2, with the joint stage of the chains that are found in a module and without it."""

import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import hmcompress.network.stages as stages
from hmcompress.checkpoint import open_checkpoint
from hmcompress.network import compress_network
from hmcompress.settings.config import load_settings

SAMPLES = Path(__file__).resolve().parents[2] / "sample_models"
BOX = {"domain": {"x": [-1, 1], "t": [0, 1]}, "samples": 4096}


def stack(*sizes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n, m in pairwise(sizes):
        layers += [nn.Linear(n, m), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


class Plain(nn.Module):
    """As most are written."""

    def __init__(self) -> None:
        super().__init__()
        self.net = stack(2, 128, 128, 128, 128, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Condition(Plain):
    """With initial and boundary conditions, and an argument for each coordinate."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return -torch.sin(torch.pi * x) + t * (1 - x.square()) * self.net(torch.cat([x, t], 1))


class Positive(Plain):
    """With a function of the output."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.softplus(2 * self.net(x))


class Written(nn.Module):
    """With its products written out, of parameters (inputs, outputs) and (1, outputs)."""

    def __init__(self) -> None:
        super().__init__()
        sizes = 2, 128, 128, 128, 128, 1
        self.weights = nn.ParameterList(torch.zeros(n, m) for n, m in pairwise(sizes))
        self.biases = nn.ParameterList(torch.zeros(1, m) for m in sizes[1:])

    def forward(self, x: Tensor) -> Tensor:
        for k, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.add(torch.matmul(torch.tanh(x) if k else x, w), b)
        return x


class Normed(Plain):
    """With the lengths of rows apart, as weight normalisation keeps them."""

    def __init__(self) -> None:
        super().__init__()
        for layer in self.net:
            if isinstance(layer, nn.Linear):
                weight_norm(layer)


class Stacked(nn.Module):
    """Two networks side by side in parameters of both, (2, inputs, outputs) and (2, 1, outputs)."""

    def __init__(self) -> None:
        super().__init__()
        sizes = 2, 128, 128, 128, 128, 1
        self.weights = nn.ParameterList(torch.zeros(2, n, m) for n, m in pairwise(sizes))
        self.biases = nn.ParameterList(torch.zeros(2, 1, m) for m in sizes[1:])

    def forward(self, x: Tensor) -> Tensor:
        x = x.expand(2, -1, -1)
        for k, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(b, torch.tanh(x) if k else x, w)
        return x[..., 0].T


class Two(nn.Module):
    """Two networks."""

    def __init__(self) -> None:
        super().__init__()
        self.u, self.v = stack(2, 128, 128, 128, 128, 1), stack(2, 128, 128, 128, 128, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"u": self.u(x), "v": 2 * self.v(x) + 1}


def weights(sample: str, prefix: str = "net.") -> dict[str, Tensor]:
    state = torch.load(SAMPLES / f"{sample}.pt", weights_only=True, map_location="cpu")
    return {prefix + name.removeprefix("net."): t for name, t in state.items() if isinstance(t, Tensor)}


def written(sample: str) -> dict[str, Tensor]:
    """Weights and biases in lists, as they stand in x W + b."""
    given = weights(sample).values()
    matrices, vectors = ([t for t in given if t.ndim == axes] for axes in (2, 1))
    return {f"weights.{k}": t.T.contiguous() for k, t in enumerate(matrices)} | {
        f"biases.{k}": t[None] for k, t in enumerate(vectors)
    }


def normed(sample: str) -> dict[str, Tensor]:
    """Rows, and their lengths."""
    found = dict[str, Tensor]()
    for name, t in weights(sample).items():
        path, _, part = name.rpartition(".")
        if part == "weight":
            found[f"{path}.parametrizations.weight.original0"] = t.norm(dim=1, keepdim=True)
            found[f"{path}.parametrizations.weight.original1"] = t
        else:
            found[name] = t
    return found


def stacked(*samples: str) -> dict[str, Tensor]:
    parts = [written(sample) for sample in samples]
    return {name: torch.stack([part[name] for part in parts]) for name in parts[0]}


CASES: dict[str, Callable[[], dict[str, Tensor]]] = {
    "Plain": lambda: weights("burgers"),
    "Written": lambda: written("burgers"),
    "Condition": lambda: weights("burgers"),
    "Positive": lambda: weights("burgers"),
    "Normed": lambda: normed("burgers"),
    "Stacked": lambda: stacked("burgers", "allen_cahn"),
    "Two": lambda: weights("burgers", "u.") | weights("allen_cahn", "v."),
}


def layer_bytes(name: str, folder: Path) -> int:
    torch.save(CASES[name](), folder / "model.pt")
    given: dict[str, Any] = {"tol": 1e-2, "metric": "outputs", "calibration": BOX}
    settings = load_settings(None, given | {"network": {"factory": f"{Path(__file__).resolve()}:{name}"}})
    result = compress_network(open_checkpoint(folder / "model.pt"), settings)
    return sum(len(layer.payload) for layer in result.layers)


if __name__ == "__main__":
    for name in sys.argv[1:] or CASES:
        with TemporaryDirectory() as folder:
            found = layer_bytes(name, Path(folder))
            with mock.patch.object(stages, "origins_of", lambda problem: ()):
                print(f"{name}: {found} B, layer after layer {layer_bytes(name, Path(folder))} B")
