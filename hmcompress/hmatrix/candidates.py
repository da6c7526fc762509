"""What is worth coding: plain quantisation, better leaves, trees, orders, each with its price."""

from dataclasses import replace

import numpy as np

from hmcompress.coding.classes import class_of
from hmcompress.coding.diagonals import promising
from hmcompress.coding.general import histogram_promises, repeats
from hmcompress.coding.pool import LONG
from hmcompress.coding.pool_shapes import price_pool
from hmcompress.coding.sample import some_of
from hmcompress.errors import SettingsError
from hmcompress.hmatrix.basics import price
from hmcompress.hmatrix.likeness import like_lines
from hmcompress.hmatrix.request import Candidate, Request
from hmcompress.hmatrix.screen import LEAST_LOOK, Structure, find_structure, has_few_directions
from hmcompress.hmatrix.seriation import cluster_points, principal_order
from hmcompress.hmatrix.tree.basis import BASES
from hmcompress.hmatrix.tree.blocks import PLAIN_LEAF, Leaf, Plan, Split, splits
from hmcompress.hmatrix.tree.order import NATURAL, Order, morton_order
from hmcompress.hmatrix.tree.partition import plan_matrix, sparse_leaves, whole_leaves
from hmcompress.hmatrix.tree.reweighted import best_reweighted_leaf

Array = np.ndarray
_HOPELESS = 8.0  # times the best price: what costs more is not coded; at low rates prices are off by up to 5
# The same from so many entries on, where the best takes _FINE bits an entry: such prices are right.
_WORSE = {"default": ((1 << 15, 1.012), (1 << 12, 1.05)), "max": ((1 << 16, 1.02),)}
_FINE = 3.0
_SLACK = 1 << 14  # bits
_SPARSE_MAY_SHRINK = 48.0  # how much less than its price a form may take where nearly all of it turns out to be zero
_FEW = 1 << 14  # entries up to which plain quantisation is coded whatever its price: coders find what prices do not see
_WHOLE = 1 << 23  # entries up to which leaves that cover the whole matrix are tried
_ORDERED = 1 << 25  # entries up to which other orders are tried: each takes a copy
_BAND, _SOME = 128, 1 << 13  # rows and entries looked at
_REWEIGHTED_SPIKE = 0.03
_COARSE_CLUSTER, _CLUSTER = 32, 4  # rows or columns that a coarse order, and a fine one, leave together
_HINT = 0.6  # of the structure that a fine order must bring into place: what a coarse one must
_ALIKE = 2.0  # times the bits of other places: what a pattern of places may make up for
Priced = tuple[float, Candidate]


def candidates(
    step: float,
    request: Request,
    grid: tuple[int, int] | None,
    structure: Structure | None,
    known: float = np.inf,
) -> list[Candidate]:
    """Plain quantisation and, where a cheap look found structure, what may be smaller.

    known: bits of a form in which nearly all is zero, where there is one.
    """
    plain = Candidate(PLAIN_LEAF)
    if structure is None:
        return [plain, *_quick(step, request)]
    searched = structure.is_global(request.effort) or grid is not None
    alike = like_lines(request.values, step) if searched or structure.has_like_lines() else []
    if not (searched or alike):
        quick = request.effort == "default" and request.w.numel() >= LONG
        return [replace(plain, scaled=structure.is_scaled() or not quick)]
    found = _searched(step, request, [_grid_order(request.values.shape, grid)] if grid else [], alike, structure, known)
    return list(dict.fromkeys(found))


def _quick(step: float, request: Request) -> list[Candidate]:
    """Leaves with a low-rank part, one for the whole matrix unless it is large, where that clearly pays."""
    if not has_few_directions(request.w, step):
        return []
    values = request.values
    if values.size > _WHOLE:
        plan, _ = plan_matrix(values, step, smooth=False, repeats=False)
    else:
        plan, _ = min(whole_leaves(values / values.dtype.type(step), smooth=False), key=lambda pair: pair[1])
    return [Candidate(_filled(plan) if request.norm == "max" else plan)] if plan != PLAIN_LEAF else []


def _searched(
    step: float,
    request: Request,
    named: list[tuple[Order, Order]],
    alike: list[tuple[Order, Order]],
    structure: Structure,
    known: float,
) -> list[Candidate]:
    """Leaves and trees that are worth coding; also in orders that are named, or bring like lines together."""
    values = request.values
    leaves: list[tuple[Leaf, float]] = []
    in_steps = values / values.dtype.type(step) if values.size <= _WHOLE else None
    if in_steps is not None:
        leaves = whole_leaves(in_steps, structure.may_be_smooth(request.effort))
    found = _trees(values, step, structure, request, named + alike, leaves[-1] if leaves else None)
    found += _leaves(values, step, leaves, structure, request)
    sure = (price for price, c in found if not _is_reweighted(c) and (c.rows, c.columns) not in alike)
    best = min(sure, default=np.inf)  # differences of like lines may cost more than their price: others stay
    limit = min(_limit(best, values.size, request.effort), _SPARSE_MAY_SHRINK * known + values.size / 32 + _SLACK)
    worth = [candidate for price, candidate in found if price <= limit]
    if in_steps is not None:
        smooth = structure.is_smooth() or structure.waves > 0
        small = min(values.shape) < LEAST_LOOK  # which a look tells little about
        worth += _concentrated(in_steps, best, request) if smooth or small else []
        worth += _differing(in_steps, best) if smooth else []
    few = values.size <= (_WHOLE if structure.repeats else _FEW)
    if known == np.inf:
        plain = not worth or few or _coders_may_find_more(in_steps, best)
    else:
        plain = in_steps is not None and _follows_diagonals(np.rint(_band(in_steps)[0]).astype(np.int64))
    if plain:
        worth.append(Candidate(PLAIN_LEAF))
    return worth


def _concentrated(in_steps: Array, best: float, request: Request) -> list[Candidate]:
    """Leaves in bases where few entries matter: a model of smooth shapes asks far too high a price for those."""
    leaves = sparse_leaves(in_steps)
    most = _ALIKE * min(bits for _, bits in leaves)
    return [Candidate(leaf) for leaf, bits in leaves if bits < best and bits <= most and _serves(leaf, request.norm)]


def _differing(in_steps: Array, best: float) -> list[Candidate]:
    """One leaf of differences whose histogram promises less than `best` bits: where they are of many sizes, as in
    sorted lines, prices take them for dear."""
    band, share = _band(in_steps)
    bases = [b for b, basis in enumerate(BASES) if basis.difference]
    likely = best * share * band.size / in_steps.size / 8
    found = [b for b in bases if histogram_promises(BASES[b].integers(band).reshape(-1).astype(np.int64), likely)]
    return [Candidate(Leaf(remainder=True, basis=b)) for b in found]


def _band(in_steps: Array) -> tuple[Array, float]:
    """Rows in the middle, and how much less they take than all, an entry."""
    first = max(0, (len(in_steps) - _BAND) // 2)
    band = in_steps[first : first + _BAND]
    return band, _share(band, in_steps)


def _coders_may_find_more(in_steps: Array | None, best: float) -> bool:
    """Whether the entries (m, n), in steps, may cost less than `best` bits as they are, where prices see no reason:
    many are zero, they mix small and large ones or repeat, along diagonals or anywhere."""
    if in_steps is None:
        return False
    some, share = _band(in_steps)
    band = np.rint(some).astype(np.int64)
    likely = best * share * band.size / in_steps.size
    found = _follows_diagonals(band) or histogram_promises(band.reshape(-1), likely / 8)
    return found or repeats(band, likely / 8)


def _follows_diagonals(band: Array) -> bool:
    return any(True for _ in promising(band))


def _share(band: Array, whole: Array) -> float:
    """How much less some rows take than all, an entry, where prices think of these as Gaussian and of one size."""
    some = band.reshape(-1)[some_of(band.size, _SOME)]
    rms = np.sqrt([np.vdot(x, x) / x.size for x in (some, whole)])
    gaussian = float(price.bits(rms[1:])[0]) * some.size
    return min(1.0, price_pool(some, class_of(rms[:1])) / gaussian) if gaussian > 0 else 1.0


def _is_reweighted(candidate: Candidate) -> bool:
    """Whether the price is for one scale an entry, and no measure for the others."""
    return isinstance(candidate.plan, Leaf) and candidate.plan.reweighted


def _limit(best: float, size: int, effort: str) -> float:
    """The price, in bits, above which nothing is coded, where the best one is known."""
    if best > _FINE * size:
        for least, worse in _WORSE[effort]:
            if size >= least:
                return worse * best
    return _HOPELESS * best + _SLACK


def _leaves(
    values: Array, step: float, leaves: list[tuple[Leaf, float]], structure: Structure, request: Request
) -> list[Priced]:
    """One leaf for the whole matrix."""
    if leaves and structure.spike > _REWEIGHTED_SPIKE:
        reweighted = best_reweighted_leaf(values / values.dtype.type(step), leaves[1][1])
        leaves = [*leaves, reweighted] if reweighted is not None else leaves
    return [(price, Candidate(leaf if _serves(leaf, request.norm) else _filled(leaf))) for leaf, price in leaves]


def _serves(leaf: Leaf, norm: str) -> bool:
    """Whether a leaf can keep a bound on every entry, where one is asked for."""
    return norm != "max" or (leaf.remainder and BASES[leaf.basis].keeps_entries)


def _trees(
    values: Array,
    step: float,
    structure: Structure,
    request: Request,
    orders: list[tuple[Order, Order]],
    whole: tuple[Leaf, float] | None,
) -> list[Priced]:
    """The best tree in the order as stored, in those of rows and columns that are given, and in one by clusters."""
    found = []
    if structure.is_local(request.effort) and any(splits(*values.shape)):
        found.append(_tree(values, step, NATURAL, NATURAL, structure, request, whole))
    may_be_shuffled = structure.may_be_shuffled(request.effort) and values.size <= _ORDERED
    for rows, columns in orders + (_clustered(values, step, structure) if may_be_shuffled else []):
        ordered = columns.apply(rows.apply(values, 0), 1)
        found.append(_tree(ordered, step, rows, columns, find_structure(ordered, step), request))
    return found


def _tree(
    ordered: Array,
    step: float,
    rows: Order,
    columns: Order,
    structure: Structure,
    request: Request,
    whole: tuple[Leaf, float] | None = None,
) -> Priced:
    patience = 2 if request.effort == "max" else 1
    plan, price = plan_matrix(
        ordered, step, structure.may_be_smooth(request.effort), structure.repeats, patience, whole
    )
    side = 8.0 * sum(len(o.permutation) for o in (rows, columns) if o.permutation is not None and o.grid is None)
    return price + side, Candidate(_filled(plan) if request.norm == "max" else plan, rows, columns)


def _grid_order(shape: tuple[int, ...], grid: tuple[int, int]) -> tuple[Order, Order]:
    """Rows, columns or both along the curve: whichever have as many entries as the grid has points."""
    curve, size = morton_order(*grid), grid[0] * grid[1]
    rows, columns = (curve if n == size else NATURAL for n in shape)
    if rows.permutation is None and columns.permutation is None:
        raise SettingsError(f"grid {grid[0]} x {grid[1]} has {size} points, the layer is {shape[0]} x {shape[1]}")
    return rows, columns


def _clustered(values: Array, step: float, structure: Structure) -> list[tuple[Order, Order]]:
    """Like rows and like columns together, where that brings structure into place."""
    if min(values.shape) < LEAST_LOOK:  # nothing is known of what another order brings into place
        return []
    points = cluster_points(values / step)
    for smallest, share in ((_COARSE_CLUSTER, _HINT), (_CLUSTER, 1.0)):  # most matrices show it at a coarse look
        rows, columns = (Order(principal_order(p, smallest)) for p in points)
        ordered = find_structure(columns.apply(rows.apply(values, 0), 1), step)
        if not structure.is_plainer_than(ordered, share):
            return []
    return [(rows, columns)]


def _filled(plan: Plan) -> Plan:
    """The same tree with a remainder on every leaf, so that no entry is left to a truncated tail."""
    if isinstance(plan, Leaf):
        return replace(plan, remainder=True, basis=plan.basis if BASES[plan.basis].keeps_entries else 0)
    return Split(tuple(map(_filled, plan.children))) if isinstance(plan, Split) else plan
