"""Claims about sums over axes: those that are products with a matrix are read as such, and no others."""

from typing import Any

import pytest
import torch
from torch import Tensor

from hmcompress.network.model.contractions import contractions

X, W = (torch.randn(*shape, generator=torch.Generator().manual_seed(0)) for shape in ((3, 5, 4, 2), (5, 7)))
ROWS, SQUARE = X[..., 0, 0], X[:, :3, 0, 0]


def read(name: str, *args: Any, **named: Any) -> list[Tensor]:
    """What each reading of a call computes, as products with W."""
    found = []
    for c in contractions(name, args, named):
        z = c.x.permute(c.order) @ (c.w if c.columns else c.w.T)
        found.append(z.movedim(-1, c.axis))
    return found


@pytest.mark.parametrize(
    ("name", "args", "named"),
    [
        ("einsum", ("bi,io->bo", ROWS, W), {}),
        ("einsum", ("bi,oi", ROWS, W.T), {}),
        ("einsum", ("io, b i ... -> ...o b", W, X), {}),
        ("einsum", ("binm,io->mnbo", [X, W]), {}),
        ("einsum", ("...inm,io->...onm", X, W), {}),
        ("einsum", ("b...i,i...o", ROWS, W), {}),
        ("tensordot", (ROWS, W), {"dims": 1}),
        ("tensordot", (X, W), {"dims": ([1], [0])}),
        ("tensordot", (W, X), {"dims": ([-2], [-3])}),
    ],
)
def test_a_sum_over_one_axis_of_a_matrix_is_a_product_with_it(name: str, args: Any, named: Any) -> None:
    first, *_ = read(name, *args, **named)
    torch.testing.assert_close(first, getattr(torch, name)(*args, **named))


@pytest.mark.parametrize(
    ("name", "args", "named"),
    [
        ("einsum", ("binm,io->bno", X, W), {}),
        ("einsum", ("bi,io->bio", ROWS, W), {}),
        ("einsum", ("bi,io->b", ROWS, W), {}),
        ("einsum", ("ii,io->io", SQUARE, SQUARE), {}),
        ("einsum", ("bi,ij,jk->bk", ROWS, W, W.T), {}),
        ("einsum", ("ii->i", SQUARE), {}),
        ("tensordot", (W, W), {}),
        ("tensordot", (ROWS, W), {"dims": torch.tensor([[1], [0]])}),
        ("matmul", (ROWS, W), {}),
    ],
)
def test_other_sums_are_none(name: str, args: Any, named: Any) -> None:
    assert not read(name, *args, **named)


def test_a_sum_written_with_lists_of_axes_is_left_to_torch() -> None:
    x, w = torch.ones(2), torch.ones(2, 3)
    assert not list(contractions("einsum", (x, [0], w, [0, 1]), {})) and not list(contractions("einsum", (x, [0]), {}))
