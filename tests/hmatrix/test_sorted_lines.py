"""Claims about what prices do not see: sorted lines as differences."""

import numpy as np
import torch
from hmatrix_matrices import noise

from hmcompress.coding.lossless import pcodec_encode
from hmcompress.hmatrix import compress_matrix
from hmcompress.hmatrix.basics.measure import reference
from hmcompress.hmatrix.request import Request, first_step


def rounded(w: torch.Tensor, tol: float) -> np.ndarray:
    return np.rint(w.numpy() / first_step(Request(w, tol, "fro", "default", reference(w, "fro")))).astype(np.int32)


def test_tables_of_quantiles_cost_no_more_than_their_differences_by_pcodec():
    w = torch.from_numpy(np.sort(noise(256, 512), axis=1)).float()
    found = compress_matrix(w, 1e-4)
    assert found.error <= 1e-4
    assert found.nbytes < 1.01 * len(pcodec_encode(rounded(w, 1e-4).reshape(-1), 12))
