"""A matrix without loss: masks, which are no matter of precision."""

from torch import Tensor

from hmcompress.hmatrix.basics.measure import Norm, reference
from hmcompress.hmatrix.basics.surroundings import in_one_thread, undisturbed
from hmcompress.hmatrix.compress import compress_matrix
from hmcompress.hmatrix.hmatrix import HMatrix
from hmcompress.hmatrix.request import Request

_NO_ERROR = 1e-9  # a tolerance that few forms keep, of those that have an error
_FEW_BYTES = 160  # of a form beside which no other is worth a search


@undisturbed
@in_one_thread
def keep_matrix(w: Tensor, norm: Norm = "fro", *, effort: str = "default", kernel: int = 1) -> HMatrix:
    """A matrix (m, n) without loss, where that takes many bytes by the smallest of all forms that have no error."""
    plain = Request(w, _NO_ERROR, norm, effort, reference(w, norm)).exact()
    if plain.nbytes <= _FEW_BYTES:
        return plain
    found = compress_matrix(w, _NO_ERROR, norm, effort=effort, kernel=kernel)
    return found if found.error == 0 and found.nbytes < plain.nbytes else plain
