"""Claims about sums over axes: those that are products with a matrix are read as such, and no others."""

from typing import Any

import pytest
import torch
from torch import Tensor

from hmcompress.network.model.contractions import contractions

X, W = (torch.randn(*shape, generator=torch.Generator().manual_seed(0)) for shape in ((3, 5, 4, 2), (5, 7)))
STACK, HEADS = (torch.randn(*shape, generator=torch.Generator().manual_seed(1)) for shape in ((2, 5, 7), (5, 4, 2, 7)))
ROWS, SQUARE = X[..., 0, 0], X[:, :3, 0, 0]


def read(name: str, *args: Any, **named: Any) -> list[Tensor]:
    """What each reading of a call computes, as products with W."""
    found = []
    for c in contractions(name, args, named):
        weights = [c.w] if c.along is None else c.w.unbind()
        parts = [x @ (w if c.columns else w.T) for x, w in zip(c.inputs, weights, strict=True)]
        if c.axis is None:
            parts = [z.unflatten(-1, c.sizes).permute(c.order) for z in parts]
        else:
            parts = [z.movedim(-1, c.axis) for z in parts]
        found.append(parts[0] if c.along is None else torch.stack(parts, c.along))
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
        ("einsum", ("bi,eio->beo", ROWS, STACK), {}),
        ("einsum", ("ebi,eio->bo", X.permute(3, 2, 0, 1)[:, 0], STACK), {}),
        ("einsum", ("ebi,eio->ebo", X.permute(3, 2, 0, 1)[:, 0], STACK), {}),
        ("einsum", ("ebmi,eoi->obem", X.permute(3, 2, 0, 1), STACK.mT), {}),
        ("einsum", ("bi,ioe->boe", ROWS, STACK.movedim(0, -1)), {}),
        ("einsum", ("bi,ioe->beo", ROWS, STACK.movedim(0, -1)), {}),
        ("einsum", ("binm,inmo->bo", X, HEADS), {}),
        ("einsum", ("bmni,onmi->bo", X.permute(0, 3, 2, 1), HEADS.permute(3, 1, 2, 0)), {}),
        ("tensordot", (X, HEADS), {"dims": 3}),
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
        ("einsum", ("bi,eio->bo", ROWS, STACK), {}),
        ("einsum", ("bi,ei->be", ROWS[:, :1], W.T), {}),
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
