"""The best form once more, entries rounded to the smaller of two integers, where rates are low: see coding.thrift."""

from functools import partial

from hmcompress.coding.thrift import THRIFT
from hmcompress.hmatrix.hmatrix import HMatrix
from hmcompress.hmatrix.request import Candidate, Request
from hmcompress.hmatrix.tree.encode import Drafts, Thrift
from hmcompress.hmatrix.tree.tree import TreeBody
from hmcompress.hmatrix.tune import ENOUGH, error_at, largest_within, payload_at, prepared_leaves, search_step

_FINER = 0.97  # of the step of nearest integers: what thrift begins with
_EITHER = 2.8  # bits an entry below which either kind of scales may be the shorter one by more than chance
Tuned = dict[Candidate, HMatrix | None]


def with_thrift(request: Request, tuned: Tuned) -> Tuned:
    """Forms of the matrix, the smallest of which is replaced where thrift makes it smaller still."""
    sizes = {candidate: matrix.nbytes for candidate, matrix in tuned.items() if matrix is not None}
    best = min(sizes, key=sizes.__getitem__, default=None)
    known = None if best is None else tuned[best]
    if best is None or known is None or not request.suits_thrift(known.nbytes):
        return tuned
    thrifty = _thrifty(request, best, known)
    return tuned | {best: known if thrifty is None or thrifty.nbytes >= known.nbytes else thrifty}


def _thrifty(request: Request, candidate: Candidate, known: HMatrix) -> HMatrix | None:
    """The same form, its entries rounded to smaller integers at a finer step; at low rates under either kind of scales,
    which the integers do not depend on."""
    assert isinstance(known.body, TreeBody)
    step = _FINER * known.body.step
    known.forget_if_large()
    leaves = prepared_leaves(request, candidate, step)
    modelled, other = (Drafts(leaves, True, Thrift(THRIFT, kind)) for kind in (True, False))
    kinds = [modelled, other] if request.rate(known.nbytes) < _EITHER else [modelled]

    def payload(step: float) -> bytes:
        return min((payload_at(request, drafts, candidate, step) for drafts in kinds), key=len)

    step = search_step(request, partial(error_at, request, modelled, candidate), step, ENOUGH)
    return largest_within(request, payload, step)
