"""Weights that two parameters make, rows and lengths or one and a factor, come back as these; damage is one line."""

import pytest
import torch

from hmcompress.container.payload import decode_layer, of_two, parted, turned
from hmcompress.errors import FormatError
from hmcompress.hmatrix import compress_matrix
from hmcompress.nn.rebuild import read as read_form

MATRIX = torch.randn(20, 33, generator=torch.Generator().manual_seed(0))


def payload(w: torch.Tensor = MATRIX, turned: bool = False) -> bytes:
    return of_two(compress_matrix(w, 1e-3).payload, turned, False)


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


@pytest.mark.parametrize("factor", [(20, 33), (20,), (20, 1), (1,), ()], ids=str)
@pytest.mark.parametrize("turned", [False, True])
def test_a_factor_is_ones_beside_the_weight(factor, turned):
    stored, shape = of_two(compress_matrix(MATRIX, 1e-3).payload, turned, True), (33, 20) if turned else (20, 33)
    w, ones = decode_layer(stored, [shape, factor], torch.float32)
    assert w.shape == shape and torch.equal(ones, torch.ones(factor))
    assert ((w.T if turned else w) - MATRIX).norm() <= 1e-3 * MATRIX.norm()


def test_a_weight_of_more_axes_has_a_factor_and_a_bias():
    stored = of_two(compress_matrix(MATRIX, 1e-3).payload, False, True)
    w, ones, b = decode_layer(stored, [(20, 4, 8), (20, 4), (20,)], torch.float32)
    assert torch.equal(ones, torch.ones(20, 4))
    assert (torch.cat([w.flatten(1), b[:, None]], 1) - MATRIX).norm() <= 1e-3 * MATRIX.norm()


@pytest.mark.parametrize(
    ("stored", "shapes", "line"),
    [
        (payload(), [(20, 33)], "no second one"),
        (payload(), [(20, 3, 11), (20,)], "no numbers for 20 rows"),
        (payload(), [(0, 33), (0,)], "no second one"),
        (payload(), [(20, 33), (33,)], "no numbers for 20 rows"),
        (payload(), [(20, 32), (20,), (32,)], "no numbers for 20 rows"),
        (payload()[:1] + b"\4" + payload()[2:], [(20, 33), (20,)], "damaged"),
        (of_two(payload(), False, False), [(20, 33), (20,)], "unknown"),
        (of_two(payload()[2:], True, True), [(11, 3, 20), (11, 3)], "no numbers"),
        (of_two(payload()[2:], False, True), [(20, 33), (20, 34)], "no numbers"),
        (of_two(payload()[2:], False, True), [(20, 32), (20,), (32,)], "no numbers"),
        (payload()[2:], [(20, 32), (20,), (20,)], "3 tensors that no two"),
        (parted([payload()[2:]], 20, False), [(20, 31), (20,), (20,)], "3 tensors that no two"),
        (turned(payload()[2:]), [(31, 20), (20,), (20,)], "3 tensors that no two"),
        (payload()[:1], [(20, 33), (20,)], "no second one"),
        (payload()[:2], [(20, 33), (20,)], "empty"),
        (payload()[:40], [(20, 33), (20,)], "damaged"),
    ],
)
def test_damage_is_one_line(stored, shapes, line):
    with pytest.raises(FormatError, match=line):
        decode_layer(stored, shapes, torch.float32)


def test_it_has_no_form_that_runs():
    assert read_form(payload(), (20, 33), torch.float32, True) is None
