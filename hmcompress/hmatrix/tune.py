"""The step of a matrix: as large as the measured error allows."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from hmcompress.coding.classes import ZERO_CLASS, class_of
from hmcompress.coding.general import general_promises
from hmcompress.coding.pool import LONG
from hmcompress.coding.thrift import THRIFT
from hmcompress.hmatrix.basics.measure import reference, relative_error
from hmcompress.hmatrix.basics.rounding import Rounder, finer_steps
from hmcompress.hmatrix.basics.scales import Scales
from hmcompress.hmatrix.basics.words import SHORT
from hmcompress.hmatrix.codecs import INTERPOLATED, TREE, TRELLIS
from hmcompress.hmatrix.hmatrix import HMatrix
from hmcompress.hmatrix.patterns import interpolated, trellis
from hmcompress.hmatrix.request import Candidate, Request
from hmcompress.hmatrix.tree import tree
from hmcompress.hmatrix.tree.basis import BASES
from hmcompress.hmatrix.tree.blocks import PLAIN_LEAF, Leaf, Plan, Split
from hmcompress.hmatrix.tree.encode import Drafts, PreparedLeaf, encode_leaves, prepare
from hmcompress.hmatrix.tree.parts import CodedLeaf, CodedRemainder

Array = np.ndarray
WholeCoder = interpolated.Interpolator | trellis.TrellisQuantizer  # of the matrix as a whole, without a tree
_AIM = 0.998  # of the tolerance: what the search for the step aims at
_LIKELY = 1.0  # standard deviations by which the first error of plain quantisation may miss its mean
ENOUGH = 0.99  # of the tolerance: an error above is close enough
_ENOUGH_FOR_TRELLIS = 0.996
_ENOUGH_FOR_SPARSE = 0.95  # a larger step gains no more than chance does
_PATTERN, _FINER_STEPS = 64, 2  # entries a byte from which integers follow a pattern; steps tried
_CLOSE = 1.15  # times a size that thrift may make up for
_TRIALS = 14
_RETRIES = 6
_SMALL = 1 << 14  # entries up to which payloads are compared, not prices
_AT_ONCE = 1 << 16  # entries that are compared
_LEAP = 5.0  # from one step to the next, at most
_APART = 1.03  # ratio of two steps from which their errors tell how it grows, not chance
_FLAT = 0.5  # power of the step by which the error grows, below which most of it does not come from rounding
_SAME = 1e-9  # relative difference of errors that are one: of 16-bit numbers they come in few sizes
_LOWEST = 2.0**-12  # of the first step: an error that is still too large there has other causes than rounding


def tune(request: Request, candidate: Candidate, step: float) -> HMatrix | None:
    """Code the matrix with the largest step whose measured error keeps the tolerance, or None."""
    is_plain = candidate.plan == PLAIN_LEAF
    start = step * _aim(request.w.numel()) if is_plain and request.norm == "fro" else step
    if _may_round(request) and _only_rounds(candidate.plan):
        return _tune_rounded(request, candidate, None if is_plain else _drafts(request, candidate, step), start)
    drafts = _drafts(request, candidate, step)
    step = search_step(request, partial(error_at, request, drafts, candidate), start, ENOUGH)
    return largest_within(request, partial(payload_at, request, drafts, candidate), step)


def _tune_rounded(request: Request, candidate: Candidate, known: Drafts | None, start: float) -> HMatrix | None:
    """As tune, where every entry is rounded by itself: the error at a step is known without coding anything.

    known: see payload_at. start: the first step that is tried.
    """
    rounder = Rounder(request.w)
    error = partial(_rounding_error, request, rounder)
    step = search_step(request, error, start, ENOUGH)
    step = next((coarser for coarser in rounder.coarser_steps(step) if error(coarser) <= request.tol), step)
    found = _rounded(request, candidate, rounder, step) if step and _is_quick(request, candidate) else None
    if found is not None:
        return found
    del rounder  # and the integers that it keeps
    payload = partial(payload_at, request, known, candidate)
    best = largest_within(request, payload, step)
    if best is None or best.nbytes * _PATTERN > request.w.numel():
        return best
    finer = finer_steps(step, _FINER_STEPS, 1)  # where rounding breaks a pattern is a matter of chance
    return _shorter(request, payload, finer, best)


def _drafts(request: Request, candidate: Candidate, step: float) -> Drafts:
    return Drafts(prepared_leaves(request, candidate, step), request.effort != "fast")


def prepared_leaves(request: Request, candidate: Candidate, step: float) -> list[PreparedLeaf]:
    """The leaves of the candidate's plan, with what they are coded from at about this step."""
    leaves = prepare(candidate.ordered(request.values), candidate.plan, step)
    if request.w.dtype in SHORT and candidate.is_plain:
        leaves = [replace(leaves[0], short=request.w)]
    return leaves


def _may_round(request: Request) -> bool:
    return request.norm != "spectral" and request.w.dtype != torch.float64


def _only_rounds(plan: Plan) -> bool:
    """Whether every entry is rounded by itself, so that only the step says what errors there are."""
    if isinstance(plan, Split):
        return all(map(_only_rounds, plan.children))
    return isinstance(plan, Leaf) and plan.remainder and not plan.rank and BASES[plan.basis].keeps_entries


def _is_quick(request: Request, candidate: Candidate) -> bool:
    """Whether plain integers are coded under one scale, with nothing else to try."""
    if candidate.plan != PLAIN_LEAF or request.effort == "max" or request.w.numel() <= _SMALL:
        return False
    return not (request.options.scales and candidate.scaled)


def _rounding_error(request: Request, rounder: Rounder, step: float) -> float:
    return rounder.errors(step)[request.norm == "max"] / request.size


def _rounded(request: Request, candidate: Candidate, rounder: Rounder, step: float) -> HMatrix | None:
    """The matrix as plain integers at this step, or None where that does not serve."""
    norm, largest = rounder.errors(step)
    size = request.size if request.norm == "fro" else reference(request.w, "fro")
    scale = int(class_of(size / math.sqrt(request.w.numel()) / step))
    if not math.isfinite(norm) or scale <= ZERO_CLASS:  # too large for 32 bits, or hardly any is not zero
        return None
    q = rounder.integers(step).reshape(request.w.shape)
    payload = _encoded([CodedLeaf((CodedRemainder(q, Scales(scale)),))], candidate, step, request.effort)
    matrix = request.matrix(payload)
    decoded = matrix.body.integers() if isinstance(matrix.body, tree.TreeBody) else None
    if decoded is None or not _equal(decoded, q):
        return None
    return matrix.with_error((largest if request.norm == "max" else norm) / request.size, largest)  # what rounding made


def _aim(entries: int) -> float:
    """The error to begin with, over the tolerance: uniform errors make it certain for many entries, not for few."""
    return 1 - _LIKELY * math.sqrt(0.2 / entries) if entries >= LONG else 1.0


def _equal(a: Array, b: Array) -> bool:
    """Whether two matrices (m, n) are the same, some rows at a time: a large one is not compared by as large a mask."""
    rows = max(1, _AT_ONCE // max(a.shape[1], 1))
    return a.shape == b.shape and all(np.array_equal(a[i : i + rows], b[i : i + rows]) for i in range(0, len(a), rows))


def tune_trellis(request: Request, step: float) -> HMatrix | None:
    """As tune, along a trellis; `step` is the one that plain quantisation would need."""
    quantizer = trellis.TrellisQuantizer(request.values, request.w.dtype)
    return _whole(request, TRELLIS, quantizer, step / trellis.FINER * _AIM, _ENOUGH_FOR_TRELLIS)[1]


def tune_interpolated(request: Request, step: float, size: int, sparse: bool = False) -> HMatrix | None:
    """As tune, every point predicted from its neighbours, where that may stay below `size` bytes.

    sparse: only where nearly all of the matrix follows from its neighbours.
    """
    coder = interpolated.interpolator(request.values, request.w.dtype, step, size)
    if coder is None or (sparse and not coder.is_sparse):
        return None
    enough = _ENOUGH_FOR_SPARSE if coder.is_sparse else ENOUGH
    step, best = _whole(request, INTERPOLATED, coder, step, enough)
    if best is None:
        return None
    best = _shorter(request, partial(_payload_of, INTERPOLATED, coder), coder.finer_steps(step), best)
    if best.nbytes > _CLOSE * size or not request.suits_thrift(best.nbytes):
        return best
    thrifty = _whole(request, INTERPOLATED, replace(coder, thrift=THRIFT), step, enough)[1]
    return thrifty if thrifty is not None and thrifty.nbytes < best.nbytes else best


def _whole(request: Request, codec: int, coder: WholeCoder, step: float, enough: float) -> tuple[float, HMatrix | None]:
    """The step that the search from `step` ends at, and the matrix there."""
    step = search_step(request, partial(_error_of, request, coder), step, enough)
    return step, largest_within(request, partial(_payload_of, codec, coder), step)


def _shorter(request: Request, payload: Callable[[float], bytes | None], steps: list[float], best: HMatrix) -> HMatrix:
    """The shortest of `best` and what these steps give, where they keep the tolerance too."""
    for step in filter(None, np.array(steps, np.float32).tolist()):  # none that float32 takes for 0
        best.forget_if_large()
        data = payload(step)
        if data is not None and len(data) < best.nbytes:
            matrix = request.measured(data)
            best = matrix if matrix.error <= request.tol else best
    return best


def _error_of(request: Request, coder: WholeCoder, step: float) -> float:
    decoded = coder.decoded(step)
    return math.inf if decoded is None else relative_error(request.w, [decoded], request.norm, request.size)[0]


def _payload_of(codec: int, coder: WholeCoder, step: float) -> bytes | None:
    body = coder.encode(step)
    return None if body is None else bytes([codec]) + body


def largest_within(request: Request, payload: Callable[[float], bytes | None], step: float) -> HMatrix | None:
    """The matrix at `step`, or at the largest step a little below that keeps the tolerance, or None."""
    for _ in range(_RETRIES):
        step = float(np.float32(step))
        data = payload(step) if step else None
        if data is None:
            return None
        matrix = request.measured(data)
        if matrix.error <= request.tol:
            return matrix
        step *= 0.9985 * request.tol / matrix.error
    return None


def payload_at(request: Request, known: Drafts | None, candidate: Candidate, step: float) -> bytes:
    """The candidate's payload at this step.

    known: the leaves that hold factors; without any, all is made and let go again: it may take much memory.
    """
    data = _smaller_payload(request, known or _drafts(request, candidate, step), candidate, step)
    if known is None:
        request.forget()
    return data


def _smaller_payload(request: Request, drafts: Drafts, candidate: Candidate, step: float) -> bytes:
    scales = request.options.scales and candidate.scaled
    options = replace(request.options, alone=len(drafts) == 1, scales=scales)
    leaves = encode_leaves(drafts.at(step), options)
    pruned = options.alone and leaves[0].has_scales and _is_pruned(leaves[0])
    if not (options.alone and leaves[0].has_scales and (pruned or request.w.numel() <= _SMALL)):
        del drafts
        request.forget()
        return _encoded(leaves, candidate, step, request.effort)
    best = _encoded(leaves, candidate, step, request.effort, pruned)
    # A general coder may find what prices do not see, and needs no scales.
    plain = encode_leaves(drafts.at(step), replace(options, scales=False))
    integers = [p.q for p in plain[0].parts if isinstance(p, CodedRemainder)]
    if request.effort == "max" or pruned or any(general_promises(q, len(best)) for q in integers):
        return min(best, _encoded(plain, candidate, step, request.effort), key=len)
    return best


def _is_pruned(leaf: CodedLeaf) -> bool:
    """Whether most integers are zero: scales then follow the places of the others, and are not to be trusted."""
    integers = [p.q for p in leaf.parts if isinstance(p, CodedRemainder)]
    return all(2 * np.count_nonzero(q) < q.size for q in integers)


def _encoded(leaves: list[CodedLeaf], candidate: Candidate, step: float, effort: str, general: bool = True) -> bytes:
    return bytes([TREE]) + tree.encode(candidate.plan, leaves, step, candidate.rows, candidate.columns, effort, general)


def search_step(request: Request, error: Callable[[float], float], step: float, enough: float) -> float:
    """The best step found, or 0. The error grows with the step, but at low rates not smoothly."""
    low, high, best = 0.0, math.inf, 0.0  # low keeps the bound, high breaks it
    lowest, before, now = step * _LOWEST, (0.0, 0.0), (0.0, 0.0)
    for trial in range(2 * _TRIALS):
        step = float(np.float32(step))
        if not lowest < step < math.inf:
            break
        before, now = now, (step, error(step) / request.tol)
        if now[1] <= 1:
            low = best = max(best, step)
            if now[1] >= enough:
                break
        else:
            high = min(high, step)
        if trial + 1 == _TRIALS and (best > 0 or not _stands_still(before, now)):
            break
        step = _next(before, now, low, high)
        if trial + 1 >= _TRIALS and best == 0:
            step = min(step, now[0] * max((now[0] / before[0]) ** 2, 1 / _LEAP))
    return best


def _stands_still(before: tuple[float, float], now: tuple[float, float]) -> bool:
    """Whether the error is the one of a larger step, as that of 16-bit numbers may be for many steps."""
    return now[0] < before[0] and abs(now[1] - before[1]) <= _SAME * now[1]


def error_at(request: Request, drafts: Drafts, candidate: Candidate, step: float) -> float:
    """The relative error of the leaves as they are rounded at this step."""
    parts = [leaf.decode() for leaf in encode_leaves(drafts.at(step), request.options, final=False)]
    shape = (request.w.shape[0], request.w.shape[1])
    wide = request.w.dtype == torch.float64
    leaves = tree.place(candidate.plan, parts, shape)
    body = tree.TreeBody(shape, step, leaves, candidate.rows, candidate.columns, wide)
    return relative_error(request.w, [body.to_dense().to(request.w.dtype)], request.norm, request.size)[0]


def _next(before: tuple[float, float], now: tuple[float, float], low: float, high: float) -> float:
    """The step at which the error would be right; where that leaves the known bracket, its middle.

    An error is proportional to the step, but where low rank leaves most of it at any step: then squares of both grow
    along a line, which two trials (step, error over the tolerance) that hold tell.
    """
    (step, ratio), square = now, (now[0] * _AIM / max(now[1], 1e-9)) ** 2
    far = before[0] > 0 and step > _APART * before[0] and high == math.inf
    if far and before[1] < ratio < before[1] * (step / before[0]) ** _FLAT:
        slope = (ratio**2 - before[1] ** 2) / (step**2 - before[0] ** 2)
        square = step**2 + (_AIM**2 - ratio**2) / slope
    guess = min(max(math.sqrt(square), step / _LEAP), step * _LEAP)
    if low > 0 and high < math.inf and not low * 1.0005 < guess < high * 0.9995:
        return math.sqrt(low * high)
    return guess
