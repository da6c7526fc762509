"""Weights whose rows and their lengths are parameters apart come back as these are, and damage is one line."""

import pytest
import torch

from hmcompress.container.payload import decode_layer, normed
from hmcompress.errors import FormatError
from hmcompress.hmatrix import compress_matrix
from hmcompress.nn.rebuild import read as read_form

MATRIX = torch.randn(20, 33, generator=torch.Generator().manual_seed(0))


def payload(w: torch.Tensor = MATRIX, turned: bool = False) -> bytes:
    return normed(compress_matrix(w, 1e-3).payload, turned)


@pytest.mark.parametrize("lengths", [(20,), (20, 1), (1, 20)], ids=str)
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_rows_in_their_lengths_are_the_matrix(lengths, turned, dtype):
    shape = (33, 20) if turned else (20, 33)
    w, g = decode_layer(payload(MATRIX.to(dtype), turned), [shape, lengths], dtype)
    assert w.shape == shape and g.shape == lengths and w.dtype == g.dtype == dtype and w.is_contiguous()
    rows = (w.T if turned else w).double()
    found = rows * g.double().reshape(-1, 1) / rows.norm(dim=1, keepdim=True)
    assert (found - MATRIX).norm() <= max(1.01e-3, torch.finfo(dtype).eps) * MATRIX.norm()


def test_a_bias_is_the_last_column():
    w, g, b = decode_layer(payload(), [(20, 32), (20, 1), (1, 20)], torch.float32)
    assert b.shape == (1, 20) and (b.flatten() - MATRIX[:, -1]).norm() <= 2e-3 * MATRIX[:, -1].norm()
    assert torch.allclose(w.norm(dim=1), g.flatten())


def test_a_row_of_zeros_has_a_direction_and_no_length():
    matrix = MATRIX * (torch.arange(20) % 3 > 0)[:, None]
    w, g = decode_layer(payload(matrix), [(20, 33), (20, 1)], torch.float32)
    assert torch.equal(g.flatten() == 0, torch.arange(20) % 3 == 0) and w.norm(dim=1).min() > 0
    assert torch.isfinite(g * w / w.norm(dim=1, keepdim=True)).all()


@pytest.mark.parametrize(
    ("stored", "shapes", "line"),
    [
        (payload(), [(20, 33)], "no place for them"),
        (payload(), [(20, 3, 11), (20,)], "no place for them"),
        (payload(), [(0, 33), (0,)], "no place for them"),
        (payload(), [(20, 33), (33,)], "not those of 20 rows"),
        (payload(), [(20, 32), (20,), (32,)], "not those of 20 rows"),
        (payload()[:1] + b"\2" + payload()[2:], [(20, 33), (20,)], "damaged"),
        (normed(payload(), False), [(20, 33), (20,)], "unknown"),
        (payload()[:2], [(20, 33), (20,)], "empty"),
        (payload()[:40], [(20, 33), (20,)], "damaged"),
    ],
)
def test_damage_is_one_line(stored, shapes, line):
    with pytest.raises(FormatError, match=line):
        decode_layer(stored, shapes, torch.float32)


def test_it_has_no_form_that_runs():
    assert read_form(payload(), (20, 33), torch.float32, True) is None
