"""Matrices, networks and files that the tests of running share."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from hmcompress import pipeline
from hmcompress.hmatrix import HMatrix, compress_matrix
from hmcompress.hmatrix.basics.bodies import Body
from hmcompress.hmatrix.tree.blocks import Block
from hmcompress.hmatrix.tree.order import NATURAL, Order
from hmcompress.hmatrix.tree.parts import LowRank, Parts, Remainder
from hmcompress.hmatrix.tree.tree import PlacedLeaf, TreeBody
from hmcompress.nn.linear import HLinear
from hmcompress.nn.rebuild import Ordered, RunningForm, from_dense, running_forms


def kernel(n: int = 512) -> Tensor:
    """1 / (|x - y| + 0.02), float32, on points that are denser at one end, so that no two blocks are equal."""
    x = (np.arange(n) / n) ** 1.2
    return torch.from_numpy((1 / (abs(x[:, None] - x) + 0.02)).astype(np.float32))


def low_rank(m: int, n: int) -> Tensor:
    """A matrix of rank 4, which is quickly compressed and has every form."""
    return torch.randn(m, 4) @ torch.randn(4, n) / n


def stored(w: Tensor, tol: float = 1e-4) -> HMatrix:
    """The matrix as a file holds it."""
    matrix = compress_matrix(w, tol)
    return HMatrix.from_payload(matrix.payload, (w.shape[0], w.shape[1]), w.dtype)


def held(body: Body, shape: tuple[int, int]) -> HMatrix:
    """The matrix that a file with this body would hold."""
    matrix = HMatrix(shape, torch.float32, b"")
    matrix.__dict__["body"] = body
    return matrix


def tree(w: Tensor, tol: float = 1e-5, rows: Order | None = None, columns: Order | None = None) -> TreeBody:
    """The matrix as a tree, whatever the codec would choose: integers on the diagonal, low-rank leaves beside it."""
    step = tol * float(w.abs().mean())
    leaves = (PlacedLeaf(block, _parts(block.of(w.double().numpy()) / step, near)) for block, near in _halved(*w.shape))
    return TreeBody((w.shape[0], w.shape[1]), step, tuple(leaves), rows or NATURAL, columns or NATURAL)


def _halved(m: int, n: int) -> Iterator[tuple[Block, bool]]:
    """Blocks that cover a matrix, and whether they are on its diagonal."""
    waiting = [Block(0, m, 0, n)]
    for block in waiting:
        if min(block.shape) < 64:
            yield block, True
            continue
        upper, above, below, lower = block.children()
        waiting += [upper, lower]
        yield from ((above, False), (below, False))


def _parts(x: np.ndarray, near: bool) -> Parts:
    """Of a block in steps."""
    if near:
        return (Remainder(np.rint(x).astype(np.int32)),)
    left, values, right = np.linalg.svd(x, full_matrices=False)
    rank = max(1, int((values > np.sqrt(min(x.shape))).sum()))
    return (LowRank(left[:, :rank] * values[:rank], right[:rank].T),)


def hierarchy(matrix: Ordered, tol: float, dtype: torch.dtype = torch.float32) -> RunningForm:
    """A matrix as an HLinear."""
    return next(form for form in running_forms(matrix, tol, dtype) if isinstance(form.module, HLinear))


def layer(w: Tensor, tol: float = 1e-5, bias: Tensor | None = None) -> HLinear:
    """The same of one that is given by its entries."""
    module = hierarchy(from_dense(w, bias), tol).module
    assert isinstance(module, HLinear)
    return module


def relative(a: Tensor, b: Tensor) -> float:
    """Relative Frobenius distance."""
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


class Surrogate(nn.Module):
    """An encoder, a wide operator in the middle, a head; the operator alone has structure."""

    def __init__(self, n: int = 512) -> None:
        super().__init__()
        self.encode = nn.Linear(8, n)
        self.operator = nn.Linear(n, n)
        self.head = nn.Sequential(nn.Linear(n, 16), nn.Tanh(), nn.Linear(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.operator(torch.tanh(self.encode(x)))))


def surrogate_file(folder: Path, tol: float = 1e-4, effort: str = "default") -> tuple[Path, Surrogate]:
    """A compressed Surrogate, and the original."""
    torch.manual_seed(0)
    model = Surrogate()
    with torch.no_grad():
        model.operator.weight.copy_(kernel())
    torch.save(model.state_dict(), folder / "surrogate.pt")
    pipeline.compress(folder / "surrogate.pt", folder / "surrogate.hmc.safetensors", tol=tol, effort=effort)
    return folder / "surrogate.hmc.safetensors", model


def dead(weight: Tensor, columns: list[int]) -> None:
    """Take some inputs of a weight out of use."""
    with torch.no_grad():
        weight[:, columns] = 0


def mlp_file(folder: Path, widths: tuple[int, ...] = (2, 40, 40, 1), zero: int = 25) -> tuple[Path, nn.Sequential]:
    """A compressed tanh network (weights metric, lossless small layers) whose hidden layers have `zero` dead neurons.

    The file's settings name the network, so that it can be built from the file.
    """
    torch.manual_seed(1)
    parts: list[nn.Module] = []
    for n, m in pairwise(widths):
        parts += [nn.Linear(n, m), nn.Tanh()]
    model = nn.Sequential(*parts[:-1])
    for linear in [p for p in model if isinstance(p, nn.Linear)][1:]:
        dead(linear.weight, list(range(zero)))
    torch.save(model.state_dict(), folder / "mlp.pt")
    out = folder / "mlp.hmc.safetensors"
    pipeline.compress(folder / "mlp.pt", out, tol=1e-4, network={"mlp": {"activation": "tanh"}})
    return out, model
