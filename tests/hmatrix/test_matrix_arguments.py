"""compress_matrix says in one line what it cannot take, and takes what is a matrix in any form."""

import numpy as np
import pytest
import torch

from hmcompress.errors import SettingsError
from hmcompress.hmatrix import compress_matrix

W = torch.randn(32, 24, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("values", "got"),
    [
        (None, "NoneType"),
        ("text", "str"),
        (np.array([[1, "a"]], dtype=object), "object"),
        (W[0], r"\(24,\) of torch.float32"),
        (W.int(), r"\(32, 24\) of torch.int32"),
        (compress_matrix(W, 1e-1), "HMatrix"),
    ],
)
def test_what_is_no_matrix_is_named(values, got):
    with pytest.raises(SettingsError, match=rf"takes a matrix \(m, n\) of 16 to 64 bit floats, got {got}$"):
        compress_matrix(values)


@pytest.mark.parametrize("options", [{"tol": "x"}, {"tol": True}, {"grid": "x"}, {"grid": (8.0, 4.0)}, {"grid": (8,)}])
def test_options_of_a_wrong_kind_are_named(options):
    (name,) = options
    with pytest.raises(SettingsError, match=f"^{name} is "):
        compress_matrix(W, **options)


def test_a_tolerance_may_be_a_number_of_any_library():
    sizes = {compress_matrix(W, tol).nbytes for tol in (2.0**-7, np.float32(2.0**-7), torch.tensor(2.0**-7))}
    assert len(sizes) == 1


def test_a_part_of_conjugate_numbers_is_a_matrix():
    z = torch.view_as_complex(torch.randn(32, 24, 2, generator=torch.Generator().manual_seed(1)))
    part = z.conj().imag  # a view that torch negates when it is read
    assert torch.equal(compress_matrix(part, 1e-2).to_dense(), compress_matrix(-z.imag, 1e-2).to_dense())
