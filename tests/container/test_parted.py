"""Parameters that hold several matrices come back as these are, and damage is one line."""

import pytest
import torch

from hmcompress.container.payload import decode_layer, parted
from hmcompress.errors import FormatError
from hmcompress.hmatrix import compress_matrix
from hmcompress.nn.rebuild import read as read_form

MATRICES = torch.randn(3, 20, 33, generator=torch.Generator().manual_seed(0))


def payload(matrices: torch.Tensor = MATRICES, turned: bool = True) -> bytes:
    return parted([compress_matrix(w, 1e-3).payload for w in matrices], matrices.shape[1], turned)


@pytest.mark.parametrize("bias", [(3, 20), (3, 1, 20), (60,)], ids=str)
@pytest.mark.parametrize("turned", [False, True])
def test_weights_and_biases_come_back_in_their_shapes(bias, turned):
    shape = (3, 32, 20) if turned else (3, 20, 32)
    w, b = decode_layer(payload(turned=turned), [shape, bias], torch.float32)
    assert w.shape == shape and b.shape == bias and w.is_contiguous()
    found = torch.cat([w.mT if turned else w, b.reshape(3, 20, 1)], 2)
    assert 0.9e-3 < (found - MATRICES).norm() / MATRICES.norm() <= 1e-3


@pytest.mark.parametrize("shape", [(60, 33), (3, 4, 5, 33), (15, 4, 33), (1980,)], ids=str)
def test_matrices_follow_each_other_in_any_shape(shape):
    (w,) = decode_layer(payload(turned=False), [shape], torch.float32)
    assert w.shape == shape and (w.reshape(3, 20, 33) - MATRICES).norm() <= 1e-3 * MATRICES.norm()


def test_one_that_comes_again_is_stored_once():
    again = payload(MATRICES[[0, 1, 0]])
    assert len(again) < len(payload(MATRICES[:2])) + 5
    (w,) = decode_layer(again, [(3, 33, 20)], torch.float32)
    assert torch.equal(w[0], w[2])


@pytest.mark.parametrize(
    ("stored", "shapes", "line"),
    [
        (payload(), [(2, 32, 20)], "does not consist of 3 matrices of 20 rows"),
        (payload(), [(0, 32, 20)], "does not consist"),
        (payload(), [(3, 32, 20), (20,)], "not that of 3 x 20 rows"),
        (payload() + b"x", [(3, 33, 20)], "follow the last slice"),
        (payload()[:3], [(3, 33, 20)], "damaged"),
        (parted([payload()] * 2, 60, False), [(2, 60, 33)], "unknown"),
        (bytes([17, 0, 20]), [(3, 33, 20)], "does not consist of 0 matrices"),
        (bytes([17, 6, 0]), [(3, 33, 20)], "matrices of 0 rows"),
    ],
)
def test_damage_is_one_line(stored, shapes, line):
    with pytest.raises(FormatError, match=line):
        decode_layer(stored, shapes, torch.float32)


def test_complex_parameters_have_none():
    with pytest.raises(FormatError, match="does not consist"):
        decode_layer(payload(), [(3, 33, 20)], torch.complex64)


def test_it_has_no_form_that_runs():
    assert read_form(payload(), (60, 33), torch.float32, True) is None
