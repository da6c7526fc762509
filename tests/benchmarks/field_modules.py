"""Surrogates that write fields: `OMP_NUM_THREADS=1 python tests/benchmarks/field_modules.py [NAME]...` trains each and
prints the bytes of all layers at two tolerances beside the best of the other compressors."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import torch
import yaml
from torch import Tensor, nn

import hmcompress.network.stages as stages
from hmcompress.checkpoint import open_checkpoint
from hmcompress.network import compress_network
from hmcompress.pipeline import compare
from hmcompress.settings.config import load_settings

TOLERANCES = (1e-1, 1e-2)
STEPS, BATCH, RATE = 6000, 256, 2e-3


def on_a_line(points: int) -> Callable[[Tensor], Tensor]:
    """A wave that decays, and a front that moves: three parameters."""

    def field(p: Tensor) -> Tensor:
        x, (a, b, c) = torch.linspace(0, 1, points), p.T[:, :, None]
        return torch.sin(3 * a * x + b) * torch.exp(-2 * (c + 1) * x) + 0.3 * torch.tanh(8 * (x - 0.5 - 0.3 * a))

    return field


def on_a_mesh(channels: int, height: int, width: int) -> Callable[[Tensor], Tensor]:
    """A bump that moves, and waves: four parameters."""

    def field(p: Tensor) -> Tensor:
        x, y = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)
        a, b, c, d = p.T[:, :, None, None]
        bump = torch.exp(-((x - 0.5 - 0.3 * a).square() + (y - 0.5 - 0.3 * b).square()) * (4 + 2 * c))
        return torch.stack([bump, torch.sin(3 * x + a) * torch.cos(2 * y * (1 + 0.3 * d))][:channels], 1).flatten(1)

    return field


class Residual(nn.Module):
    """Blocks whose outputs are added to what they read."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(inputs, width), nn.Linear(width, outputs)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(3))

    def forward(self, p: Tensor) -> Tensor:
        h = torch.tanh(self.first(p))
        for block in self.blocks:
            h = h + torch.tanh(block(h))
        return self.last(h)


class Gated(nn.Module):
    """Layers that mix two encodings of the parameters by gates."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        self.u, self.v, self.first = (nn.Linear(inputs, width) for _ in range(3))
        self.gates, self.last = nn.ModuleList(nn.Linear(width, width) for _ in range(2)), nn.Linear(width, outputs)

    def forward(self, p: Tensor) -> Tensor:
        u, v, h = (torch.tanh(layer(p)) for layer in (self.u, self.v, self.first))
        for gate in self.gates:
            z = torch.tanh(gate(h))
            h = z * u + (1 - z) * v
        return self.last(h)


def residual() -> nn.Module:
    return Residual(4, 96, 1024)


def gated() -> nn.Module:
    return Gated(4, 96, 1024)


@dataclass(frozen=True)
class Case:
    """A field, and the network that learns it: a stack of these widths, or what a function of this module builds."""

    field: Callable[[Tensor], Tensor]
    widths: tuple[int, ...]
    factory: str = ""

    @property
    def network(self) -> dict[str, Any]:
        own = f"{Path(__file__).resolve()}:{self.factory}"
        return {"factory": own} if self.factory else {"mlp": {"activation": "tanh"}}

    def built(self) -> nn.Module:
        return globals()[self.factory]() if self.factory else _stack(self.widths)


CASES = {
    "line of 64 points": Case(on_a_line(64), (3, 64, 64, 64, 64)),
    "line of 256 points": Case(on_a_line(256), (3, 64, 64, 64, 256)),
    "mesh of 32 x 32": Case(on_a_mesh(1, 32, 32), (4, 96, 96, 1024)),
    "2 fields on 24 x 40": Case(on_a_mesh(2, 24, 40), (4, 96, 96, 1920)),
    "mesh of 72 x 72": Case(on_a_mesh(1, 72, 72), (4, 96, 96, 5184)),
    "residual, mesh of 32 x 32": Case(on_a_mesh(1, 32, 32), (4,), "residual"),
    "gated, mesh of 32 x 32": Case(on_a_mesh(1, 32, 32), (4,), "gated"),
}


def _stack(widths: tuple[int, ...]) -> nn.Module:
    layers: list[nn.Module] = []
    for n, m in pairwise(widths):
        layers += [nn.Linear(n, m), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def trained(case: Case) -> nn.Module:
    torch.manual_seed(0)
    module = case.built()
    optimizer = torch.optim.Adam(module.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        p = 2 * torch.rand(BATCH, case.widths[0]) - 1
        optimizer.zero_grad()
        (module(p) - case.field(p)).square().mean().backward()
        optimizer.step()
        schedule.step()
    return module


def row(name: str, source: Path, given: dict[str, Any], tol: float) -> str:
    settings = load_settings(None, given | {"tol": tol})
    start = time.process_time()
    result = compress_network(open_checkpoint(source), settings)
    seconds = time.process_time() - start
    with mock.patch.object(stages, "origins_of", lambda problem: ()):
        alone = compress_network(open_checkpoint(source), settings)
    found, other = (sum(len(layer.payload) for layer in x.layers) for x in (result, alone))
    config = source.with_suffix(".yaml")
    config.write_text(yaml.safe_dump(given | {"effort": "fast"}))  # of ours alone
    totals = [t for t in compare(source, [tol], config=config).totals if t.method not in ("hmatrix", "lossless")]
    best = min(t.bytes for t in totals if t.error is not None)
    fp32 = sum(4 * t.numel() for t in torch.load(source).values())
    return f"| {name} | {tol:g} | {fp32} | {best} | {other} | {found} | {result.record.error:.1e} | {seconds:.0f} |"


def main() -> None:
    for name in sys.argv[1:] or CASES:
        with TemporaryDirectory() as folder:
            source, inputs = Path(folder) / "model.pt", CASES[name].widths[0]
            torch.save(trained(CASES[name]).state_dict(), source)
            given = {
                "metric": "outputs",
                "ntk": False,
                "network": CASES[name].network,
                "calibration": {"domain": {f"p{k}": [-1, 1] for k in range(inputs)}, "samples": 2048},
            }
            for tol in TOLERANCES:
                print(row(name, source, given, tol), flush=True)


if __name__ == "__main__":
    main()
