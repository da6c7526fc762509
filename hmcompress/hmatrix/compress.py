"""compress_matrix: a matrix and a tolerance in, an HMatrix with its measured error out.

The smallest of several forms stays. `_untiled` is the search of one matrix: candidates with their prices, each at the
largest step that keeps the tolerance, then coders of the matrix as a whole. It is asked for the matrix as it stands
and, where parts resemble each other, for the one whose rows these parts are; where lines are copies of others, for the
matrix of those that are none. Beside it stand short lists of values, 16-bit numbers cut short, and what is exact.
"""

import math
from dataclasses import replace
from functools import partial

import numpy as np
from torch import Tensor

from hmcompress.coding.sample import some_of
from hmcompress.hmatrix.arguments import check, matrix_of
from hmcompress.hmatrix.arrangement import are_alike, some_channels, tilings
from hmcompress.hmatrix.basics.measure import Norm, reference
from hmcompress.hmatrix.basics.surroundings import in_one_thread, undisturbed
from hmcompress.hmatrix.candidates import candidates
from hmcompress.hmatrix.codecs import LISTED, TILED
from hmcompress.hmatrix.hmatrix import HMatrix
from hmcompress.hmatrix.largest import smallest_of_any
from hmcompress.hmatrix.lossless_guess import lossless_is_larger
from hmcompress.hmatrix.patterns.copied import DIAGONALS, ROWS
from hmcompress.hmatrix.patterns.find_copies import find_copies
from hmcompress.hmatrix.patterns.listed import find_lists
from hmcompress.hmatrix.patterns.tiles import Tile, find_tile, to_tiles
from hmcompress.hmatrix.patterns.tiles import encode as encode_tiled
from hmcompress.hmatrix.request import Candidate, Request, first_step, zero_payload
from hmcompress.hmatrix.screen import Structure, find_structure
from hmcompress.hmatrix.tree.blocks import PLAIN_LEAF
from hmcompress.hmatrix.tune import tune, tune_interpolated, tune_trellis
from hmcompress.hmatrix.tune_copies import tune_copies
from hmcompress.hmatrix.tune_digits import tune_digits
from hmcompress.hmatrix.tune_short import tune_short_floats
from hmcompress.hmatrix.tune_sinusoids import tune_sinusoids
from hmcompress.hmatrix.tune_thrift import with_thrift

Array = np.ndarray
_PLAIN = Candidate(PLAIN_LEAF)
_LEAST_GRID, _LARGEST_GRID = 32, 1 << 24  # points along a side; entries, each of which takes 16 bytes meanwhile
_TRELLIS_ENTRIES = 1 << 10
_TRELLIS_GAIN = 0.25  # bits an entry that a trellis saves at most
_NO_LATTICE = 512  # entries a byte: of a lattice, the numbers alone hardly take less
_FEW_BYTES, _FEW_ENTRIES = 160, 512  # of a form beside which no other is worth a search; entries a byte of one
_MANY, _NEARLY = 1 << 16, 1.01  # entries of a convolution, some of whose channels tell how its kernels lie best
_SOME = 1 << 14  # entries among which values are counted
_LIST_SHARES, _MOST_TOL = (1.0, 0.9, 0.7, 0.4), 0.9  # of the error that values may have if all occur equally often
_CLEARLY = 0.95
_LIKE = 0.1  # of a step: by how much copies may differ
_SQUARES = (1e-12, 1e15)  # sizes of matrices in which squares neither overflow nor vanish
_FAR = (0.1, 0.7)  # of those as plain integers: what takes less has found more than copies; the same of diagonals


@undisturbed
@in_one_thread
def compress_matrix(
    w: Tensor | Array,
    tol: float = 1e-3,
    norm: Norm = "fro",
    *,
    effort: str = "default",
    grid: tuple[int, int] | None = None,
    kernel: int = 1,
) -> HMatrix:
    """Compress a matrix so that its relative error, measured on the decoded values, is at most `tol`.

    w: (m, n), float64 to float16 or bfloat16. norm: fro (relative Frobenius), spectral (relative 2-norm) or max
    (largest absolute error over largest absolute weight). grid: side lengths (h, w) of the grid whose points the rows
    are, row-major. kernel: entries of a convolution's kernel, by which the columns (in * kernel) are grouped.
    Raises SettingsError for arguments that make no sense. Where no lossy form is smaller, or no step meets the
    tolerance in the stored dtype, the matrix is stored without loss.
    """
    w = matrix_of(w)
    check(w, tol, norm, effort, grid, kernel)
    w = w.cpu()
    request = Request(w, float(tol), norm, effort, reference(w, norm) if w.numel() else 0.0)
    return request.tiny() or smallest_of_any(request, partial(_smallest_form, grid=grid, kernel=kernel))


def _smallest_form(request: Request, grid: tuple[int, int] | None, kernel: int, first: int = ROWS) -> HMatrix:
    """The smallest form, lossy or not; first: the first arrangement in which lines may be copies of others."""
    w = request.w
    if w.numel() == 0 or not math.isfinite(request.size):
        return request.exact()
    best = _lossy(request, grid, kernel, first)
    if best is not None and lossless_is_larger(w, best.nbytes):
        return best
    if best is not None:
        best.forget()
    plain = request.exact(math.inf if best is None else best.nbytes)
    return best if best is not None and best.nbytes < plain.nbytes else plain


def _lossy(request: Request, grid: tuple[int, int] | None, kernel: int, first: int) -> HMatrix | None:
    waves, is_sure = tune_sinusoids(request) or (None, False)
    if is_sure:
        return waves
    best = min(filter(None, (_arranged(request, grid, kernel), waves)), key=lambda matrix: matrix.nbytes, default=None)
    if best is not None and best.nbytes * _NO_LATTICE <= request.w.numel():
        return best
    others = (_lattice_or_lists(request, best), _copied(request, kernel, best, first), tune_digits(request))
    found = (matrix for matrix in (best, *others) if matrix is not None)
    return tune_short_floats(request, min(found, key=lambda matrix: matrix.nbytes, default=None))


def _copied(request: Request, kernel: int, best: HMatrix | None, first: int) -> HMatrix | None:
    """The matrix as those of its lines that are no copies of others, where some are, to the tolerance."""
    step = first_step(request)
    if request.effort == "fast" or request.size == 0 or not _is_step(step, request):
        return None
    bits = 8 * (request.w.nbytes if best is None else best.nbytes) / request.w.numel()
    unit = 1.0 if _SQUARES[0] < request.size < _SQUARES[1] else request.size
    w = request.w if unit == 1.0 else request.w.double() / unit
    copies = find_copies(w, kernel, _LIKE * step / unit, bits, first)
    if copies is None:
        return None
    plain = _FAR[copies.arrangement >= DIAGONALS] * _plain_guess(request, step) * float(copies.stored.mean())
    if bits * w.numel() < 8 * plain:
        return None
    if best is not None:
        best.forget_if_large()
    return tune_copies(request, copies, kernel, _smallest_form)


def _arranged(request: Request, grid: tuple[int, int] | None, kernel: int) -> HMatrix | None:
    """The smallest lossy form, the kernels of a convolution in any arrangement."""
    tiles, plain = tilings(request, kernel), True
    if tiles and request.w.numel() > _MANY:
        tiles, plain = _promising(tiles, some_channels(request, kernel), kernel)
    best = _smallest(request, grid) if plain else None
    for tile in tiles:
        best = _in_tiles(request, tile, best)
    return _smallest(request, grid) if best is None and not plain else best


def _promising(tiles: list[Tile], some: Request, kernel: int) -> tuple[list[Tile], bool]:
    """The tiles that serve some of the channels about best, and whether none does about as well."""
    known = _smallest(some, None)
    found = [_in_tiles(some, tile, known) for tile in tilings(some, kernel)]
    better = [(m.nbytes, tile) for m, tile in zip(found, tiles, strict=False) if m is not None and m is not known]
    limit = _NEARLY * min((size for size, _ in better), default=math.inf)
    if known is not None:
        limit = min(limit, _NEARLY * known.nbytes)
    return [tile for size, tile in sorted(better) if size <= limit], known is None or known.nbytes <= limit


def _in_tiles(request: Request, tile: Tile, best: HMatrix | None) -> HMatrix | None:
    """`best`, or the smaller form of the matrix whose rows are the tiles of this one."""
    rearranged, step = replace(request, w=to_tiles(request.w, tile)), first_step(request)
    if not _is_step(step, request):
        return best
    structure = find_structure(rearranged.w, step, request.effort == "max")
    noise = best is not None and tile[0] == 1 and not are_alike(request.w, tile[1])  # some channels have told otherwise
    if structure.is_nothing() or noise:
        return best
    inner = _untiled(rearranged, None, step, structure)
    if inner is None or (best is not None and inner.nbytes >= best.nbytes):
        return best
    inner.forget()  # the layer may be large
    found = request.measured(bytes([TILED]) + encode_tiled(inner.payload, tile))
    return found if best is None or found.nbytes < best.nbytes else best


def _smallest(request: Request, grid: tuple[int, int] | None) -> HMatrix | None:
    """The smallest lossy form that keeps the bound, or None."""
    if request.size == 0:
        return request.measured(zero_payload(request.w.numel()))
    step = first_step(request)
    if not _is_step(step, request):
        return None
    structure = find_structure(request.w, step, request.effort == "max") if request.effort != "fast" else None
    best = _untiled(request, grid, step, structure)
    searched = structure is not None and structure.is_global(request.effort) and request.norm != "spectral"
    return _tiled(request, best) if searched else best


def _is_step(step: float, request: Request) -> bool:
    """Whether a step can be stored, which is as float32, and is one to round to."""
    with np.errstate(over="ignore"):
        return request.rounds and bool(0 < np.float32(step) < math.inf)


def _untiled(
    request: Request, grid: tuple[int, int] | None, step: float, structure: Structure | None
) -> HMatrix | None:
    """The smallest lossy form of the matrix as it stands."""
    smooth = structure is not None and structure.is_smooth() and _may_be_grid(request.w)
    along_grid = tune_interpolated(request, step, request.w.nbytes, sparse=True) if smooth else None
    known = 8.0 * along_grid.nbytes if along_grid is not None else math.inf
    worth = _worth(step, request, grid, structure, known)
    tuned = _tuned(request, worth, step)
    untried = all(candidate.plan != _PLAIN.plan for candidate in tuned)
    least = min((m.nbytes for m in tuned.values() if m is not None), default=math.inf)
    if untried and _plain_guess(request, step) < least:  # or low-rank parts alone are too coarse at any step
        tuned |= _tuned(request, [_PLAIN], step)
    found = [m for m in tuned.values() if m is not None]
    if smooth and along_grid is None:
        along_grid = tune_interpolated(request, step, min((m.nbytes for m in found), default=request.w.nbytes))
    found += [along_grid] if along_grid is not None else []
    if _suits_trellis(request, tuned.get(_PLAIN), found):
        along_trellis = tune_trellis(request, step)
        found += [along_trellis] if along_trellis is not None else []
    return min(found, key=lambda m: m.nbytes, default=None)


def _tuned(request: Request, worth: list[Candidate], step: float) -> dict[Candidate, HMatrix | None]:
    """The payload of each candidate, None where no step keeps the bound."""
    tuned: dict[Candidate, HMatrix | None] = {}
    for candidate in dict.fromkeys(worth):
        for matrix in filter(None, tuned.values()):
            matrix.forget_if_large()
        tuned[candidate] = tune(request, candidate, step)
    return with_thrift(request, tuned)


def _lattice_or_lists(request: Request, best: HMatrix | None) -> HMatrix | None:
    """The matrix as values that it takes, of each line where that is clearly shorter: mostly without loss elsewise."""
    lattice, listed = request.lattice(), _listed(request, math.inf if best is None else best.nbytes)
    if lattice is None or listed is None:
        return lattice or listed
    return listed if listed.nbytes < _CLEARLY * lattice.nbytes else lattice


def _listed(request: Request, size: float) -> HMatrix | None:
    """The matrix as lists of values of its rows or columns, where these are few and less than `size` bytes likely."""
    lists = find_lists(request.w) if request.effort != "fast" and request.norm != "spectral" else None
    if lists is None:
        return None
    places = lists.places(request.effort)
    if len(places) + lists.least(first_step(request)) > size:
        return None
    inner = replace(request, w=lists.values, size=reference(lists.values, request.norm))
    rms = inner.size / math.sqrt(inner.w.numel() / request.w.numel()) if request.norm == "fro" else inner.size
    for share in _LIST_SHARES if rms > 0 else ():
        inner = replace(inner, tol=min(share * request.tol * request.size / rms, _MOST_TOL))
        payload = min((m.payload for m in (_smallest(inner, None), inner.exact()) if m is not None), key=len)
        found = request.measured(bytes([LISTED]) + lists.head().section(payload).raw(places).getvalue())
        if found.error <= request.tol:
            return found
    return None


def _tiled(request: Request, best: HMatrix | None) -> HMatrix | None:
    """`best`, or the matrix whose rows are the tiles of this one where tiles are much the same and that is smaller."""
    large = best is None or best.nbytes > max(_FEW_BYTES, request.w.numel() // _FEW_ENTRIES)
    tile = find_tile(request.w) if large else None
    return best if tile is None else _in_tiles(request, tile, best)


def _worth(
    step: float, request: Request, grid: tuple[int, int] | None, structure: Structure | None, known: float
) -> list[Candidate]:
    """What is worth coding where `known` bits are reached; at max what default would code too: prices may mislead."""
    found = candidates(step, request, grid, structure, known)
    if request.effort == "max":
        usual = candidates(step, replace(request, effort="default"), grid, structure, known)
        found += [replace(candidate, scaled=True) for candidate in usual]
    return list(dict.fromkeys(found))


def _plain_guess(request: Request, step: float) -> float:
    """Bytes of plain integers, guessed low from the entropy of some: prices of trees know no mixtures of scales."""
    some = some_of(request.w.numel(), _SOME)
    _, counts = np.unique(np.rint(request.values.reshape(-1)[some] / step), return_counts=True)
    return request.w.numel() / 8 * float(np.sum(counts * np.log2(len(some) / counts))) / len(some)


def _may_be_grid(w: Tensor) -> bool:
    return min(w.shape) >= _LEAST_GRID and w.numel() <= _LARGEST_GRID


def _suits_trellis(request: Request, plain: HMatrix | None, found: list[HMatrix]) -> bool:
    """Whether the trellis is worth its time: where plain quantisation is about the best there is."""
    if request.effort != "max" or request.norm == "max" or plain is None or request.w.numel() < _TRELLIS_ENTRIES:
        return False
    return plain.nbytes - _TRELLIS_GAIN * request.w.numel() / 8 < min(m.nbytes for m in found)
