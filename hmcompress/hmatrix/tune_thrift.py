"""The best form once more, entries rounded to the smaller of two integers, where rates are low: see coding.thrift."""

from functools import partial

from hmcompress.coding.thrift import THRIFT
from hmcompress.hmatrix.hmatrix import HMatrix
from hmcompress.hmatrix.request import Candidate, Request
from hmcompress.hmatrix.tree.encode import Drafts, Thrift
from hmcompress.hmatrix.tree.tree import TreeBody
from hmcompress.hmatrix.tune import ENOUGH, error_at, largest_within, payload_at, prepared_leaves, search_step

_FINER = 0.97  # of the step of nearest integers: what thrift begins with
Tuned = dict[Candidate, HMatrix | None]


def with_thrift(request: Request, tuned: Tuned) -> Tuned:
    """Forms of the matrix, the smallest of which is replaced where thrift makes it smaller still."""
    sizes = {candidate: matrix.nbytes for candidate, matrix in tuned.items() if matrix is not None}
    best = min(sizes, key=sizes.__getitem__, default=None)
    known = None if best is None else tuned[best]
    if best is None or known is None or not request.suits_thrift(known.nbytes):
        return tuned
    return tuned | {best: min([known, *_thrifty(request, best, known)], key=lambda matrix: matrix.nbytes)}


def _thrifty(request: Request, candidate: Candidate, known: HMatrix) -> list[HMatrix]:
    """The same form, its entries rounded to smaller integers at a finer step, under either kind of scales."""
    assert isinstance(known.body, TreeBody)
    step, found = _FINER * known.body.step, []
    known.forget_if_large()
    leaves = prepared_leaves(request, candidate, step)
    for modelled in (True, False):  # the integers are the same
        drafts = Drafts(leaves, True, Thrift(THRIFT, modelled))
        if modelled:
            step = search_step(request, partial(error_at, request, drafts, candidate), step, ENOUGH)
        found.append(largest_within(request, partial(payload_at, request, drafts, candidate), step))
    return [matrix for matrix in found if matrix is not None]
