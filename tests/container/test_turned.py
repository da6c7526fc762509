"""Layers whose parameters are transposes come back as these are, and damage is one line."""

import pytest
import torch

from hmcompress.container.payload import decode_layer, turned
from hmcompress.errors import FormatError
from hmcompress.hmatrix import compress_matrix
from hmcompress.nn.rebuild import read as read_form

MATRIX = torch.randn(20, 33, generator=torch.Generator().manual_seed(0))


def payload(w: torch.Tensor = MATRIX) -> bytes:
    return turned(compress_matrix(w, 1e-3).payload)


@pytest.mark.parametrize("bias", [(20,), (1, 20), (20, 1), (1, 1, 20)], ids=str)
def test_weight_and_bias_come_back_in_their_shapes(bias):
    w, b = decode_layer(payload(), [(32, 20), bias], torch.float32)
    assert w.shape == (32, 20) and b.shape == bias and w.is_contiguous()
    found = torch.cat([w.T, b.reshape(-1, 1)], 1)
    assert 0.9e-3 < (found - MATRIX).norm() / MATRIX.norm() <= 1e-3


def test_a_weight_comes_back_alone():
    (w,) = decode_layer(payload(), [(33, 20)], torch.float32)
    assert (w.T - MATRIX).norm() <= 1e-3 * MATRIX.norm()


@pytest.mark.parametrize("shape", [(1, 24), (1, 1, 24), (1, 24, 1)], ids=str)
def test_a_row_by_itself_comes_back_in_its_shape(shape):
    column = torch.randn(24, 1, generator=torch.Generator().manual_seed(1))
    (row,) = decode_layer(payload(column), [shape], torch.float32)
    assert row.shape == shape and (row.flatten() - column[:, 0]).norm() <= 1e-3 * column.norm()


@pytest.mark.parametrize(
    ("stored", "shapes", "line"),
    [
        (payload(), [(3, 16, 20)], "no matrix"),
        (payload(), [(33,)], "no matrix"),
        (payload(), [(32, 20), (32,)], "not that of 20 rows"),
        (payload()[1:], [(20, 32), (32,)], "not that of 20 rows"),
        (turned(payload()), [(20, 33)], "no matrix"),
        (payload()[:1], [(33, 20)], "empty"),
        (payload()[:40], [(33, 20)], "damaged"),
    ],
)
def test_damage_is_one_line(stored, shapes, line):
    with pytest.raises(FormatError, match=line):
        decode_layer(stored, shapes, torch.float32)


def test_it_has_no_form_that_runs():
    assert read_form(payload(), (20, 33), torch.float32, True) is None
