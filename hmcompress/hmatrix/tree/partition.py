"""Which tree, which leaves: best-basis pruning of the block cluster tree by rate and distortion.

Blocks are analysed level by level, those of one shape together. Every leaf kind is a point of one search: a low-rank
part of any rank with or without a quantised remainder. A block that repeats an earlier one, transposed or not, becomes
a copy and is not analysed again. Bottom-up, a block keeps its children only where their price is smaller (Shukla et
al. 2005).
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count

import numpy as np

from hmcompress.hmatrix.basics import price
from hmcompress.hmatrix.basics.scales import price_quantized
from hmcompress.hmatrix.tree.basis import BASES, PLAIN, USUAL
from hmcompress.hmatrix.tree.blocks import PLAIN_LEAF, Block, Copy, Leaf, Plan, Split, transpose_plan
from hmcompress.hmatrix.tree.ranks import COARSE, worthwhile_ranks
from hmcompress.hmatrix.tree.repeats import Repeat, find_repeats
from hmcompress.hmatrix.tree.spectra import Spectrum, spectra
from hmcompress.hmatrix.tree.transform import price_columns

Array = np.ndarray
_NODE_BITS = 3.0
_LEAF_BITS = 16.0
_COPY_BITS = 16.0
_TIE = 1 + 1e-5  # a part that changes nothing is left out, whatever the last bits of its price
_BATCH = 1 << 22
_NARROWEST = 8  # rows and columns below which a basis has nothing to work on
_LARGEST_LEAF = 1 << 22  # entries: larger blocks only split
_LAGS = (1, 2)
_CHANCE = 2.5  # standard deviations by which white entries may look alike
_TINY = 1e-30


@dataclass
class _Node:
    block: Block
    repeat: Repeat | None = None
    leaf: Leaf = field(default_factory=Leaf)
    leaf_cost: float = -1.0  # below 0: not known yet
    children: tuple["_Node", ...] = ()
    failures: int = 0  # how many splits above, one after the other, did not pay by themselves


def plan_matrix(
    a: Array,
    step: float = 1.0,
    smooth: bool = True,
    repeats: bool = True,
    patience: int = 1,
    whole: tuple[Leaf, float] | None = None,
) -> tuple[Plan, float]:
    """The best plan for a (m, n) at this step, and its price in bits (error included).

    patience: a branch ends where so many splits in a row did not pay by themselves. whole: the best leaf of the whole
    and its price, where it is known.
    """
    root = _Node(Block(0, a.shape[0], 0, a.shape[1]), failures=-1)  # the first split may fail once more
    if whole is not None:
        root.leaf, root.leaf_cost = whole
    _analyse(a, step, root, smooth, repeats, patience)
    splits = set[int]()
    total = _prune(root, splits)
    return _emit(root, splits, {}, count()), total


def whole_leaves(a: Array, smooth: bool) -> list[tuple[Leaf, float]]:
    """Plain quantisation, the best leaf without a low-rank part and the best one of all for a (m, n), in steps."""
    stack = a[None]
    colours = _colours(stack, smooth)
    costs = _price_bases(stack, colours)
    quantized = _best_bases(costs)
    return [(PLAIN_LEAF, float(costs[0, 0])), *quantized, *_with_low_rank(stack, quantized, colours)]


def sparse_leaves(a: Array) -> list[tuple[Leaf, float]]:
    """The leaves without a low-rank part for a (m, n), in steps, in whose basis the fewest entries matter, and their
    bits: of cosines, and of whole waves, whose places may follow a pattern.

    Differences of rounded entries are rarely all zero, so these are not looked at.
    """
    costs = {b: price.places(basis.spread(a)) for b, basis in enumerate(BASES) if not basis.difference}
    best = (min((b for b in costs if BASES[b].fourier is fourier), key=lambda b: costs[b]) for fourier in (False, True))
    return [(Leaf(remainder=True, basis=b), costs[b]) for b in best]


def best_leaves(stack: Array, smooth: bool) -> list[tuple[Leaf, float]]:
    """The best leaf of every block of a stack (b, m, n), in steps, and its price."""
    colours = _colours(stack, smooth)
    return _with_low_rank(stack, _best_bases(_price_bases(stack, colours)), colours)


def _colours(stack: Array, smooth: bool) -> Array:
    """Whether neighbours may resemble each other down and along, for each block: (2, b)."""
    may_be = smooth and min(stack.shape[1:]) >= _NARROWEST
    return coloured(stack) if may_be else np.zeros((2, len(stack)), bool)


def _with_low_rank(stack: Array, quantized: list[tuple[Leaf, float]], colours: Array) -> list[tuple[Leaf, float]]:
    """The best leaves, where the best ones without a low-rank part are known."""
    squares = np.einsum("bij,bij->b", stack, stack, dtype=np.float64)
    zero = [(Leaf(), price.SLOPE * float(s)) for s in squares]
    best = [_cheaper(*pair) for pair in zip(zero, quantized, strict=True)]
    ranks = worthwhile_ranks(stack, squares, np.array([cost for _, cost in best]), colours)
    worth = np.flatnonzero(ranks)
    if len(worth):
        most = int(ranks.max())
        triplets = spectra(stack[worth], rough=True, rank=most).take(most)
        for found in _price_spectra(triplets, stack.shape[1:], squares[worth], bool(colours[:, worth].any())):
            for i, option in zip(worth, found, strict=True):
                best[i] = _cheaper(best[i], option)
    return [(leaf, cost + _LEAF_BITS) for leaf, cost in best]


def _price_bases(stack: Array, colours: Array) -> Array:
    """What every block costs without a low-rank part in every basis, (bases, b); inf where white entries tell."""
    costs = np.full((USUAL, len(stack)), np.inf)
    for i, possible in enumerate(possible_bases(colours)):
        if possible.any():
            part = stack if possible.all() else stack[possible]
            costs[i, possible] = price_quantized(BASES[i].spread(part), 1 / 6 * BASES[i].difference)
    return costs


def _best_bases(costs: Array) -> list[tuple[Leaf, float]]:
    tied = costs * np.where(np.arange(len(costs)) == PLAIN, 1, _TIE)[:, None]
    return [(Leaf(remainder=True, basis=int(b)), float(costs[b, i])) for i, b in enumerate(np.argmin(tied, axis=0))]


def _price_spectra(s: Spectrum, shape: tuple[int, int], squares: Array, smooth: bool) -> list[list[tuple[Leaf, float]]]:
    """For every block the best low-rank leaf and the best hybrid leaf."""
    (m, n), (batch, rank) = shape, s.values.shape
    if rank == 0:
        return []
    tails = np.maximum(squares[:, None] - np.cumsum(s.values**2, axis=1), 0)
    scaled_left = np.moveaxis(s.left * s.values[:, None, :], 1, 0).reshape(m, -1)
    scaled_right = np.moveaxis(s.right * s.values[:, None, :], 1, 0).reshape(n, -1)
    low_rank: list[tuple[Leaf, float]] = []
    hybrid: list[tuple[Leaf, float]] = []
    for coarse in COARSE:
        scale = 2.0**-coarse
        bits = price_columns(scaled_left * scale, smooth) + price_columns(scaled_right * scale, smooth)
        factors = np.cumsum(bits.reshape(batch, rank), axis=1)
        noise = np.arange(1, rank + 1) * (m + n) / 12 * 4.0**coarse
        if coarse == 0:
            low_rank = _cheapest(factors + price.SLOPE * (tails + noise), Leaf)
        total = factors + m * n * price.cost(np.sqrt((tails + noise) / (m * n)))
        found = _cheapest(total, lambda r, coarse=coarse: Leaf(r, True, coarse))
        hybrid = list(map(_cheaper, hybrid, found)) if hybrid else found
    return [low_rank, hybrid]


def _cheaper(a: tuple[Leaf, float], b: tuple[Leaf, float]) -> tuple[Leaf, float]:
    return a if a[1] <= _TIE * b[1] else b


def _cheapest(costs: Array, leaf) -> list[tuple[Leaf, float]]:
    best = np.argmin(costs, axis=1)
    return [(leaf(int(r) + 1), float(costs[i, r])) for i, r in enumerate(best)]


def _analyse(a: Array, step: float, root: _Node, smooth: bool, repeats: bool, patience: int) -> None:
    level = [root]
    parents: list[_Node] = []
    while level:
        for nodes in _by_shape(level, any_way_up=True) if repeats else ():
            _mark_repeats(a, step, nodes)
        fresh = [node for node in level if node.repeat is None]
        for nodes in _by_shape([node for node in fresh if node.leaf_cost < 0]):
            _analyse_batch(a, step, nodes, smooth)
        _count_failures(parents)
        for node in fresh:
            if node.leaf_cost > 2 * _LEAF_BITS and node.failures < patience:
                node.children = tuple(_Node(b) for b in node.block.children())
        parents = [node for node in fresh if node.children]
        level = [child for node in parents for child in node.children]


def _by_shape(nodes: list[_Node], any_way_up: bool = False) -> list[list[_Node]]:
    groups = defaultdict(list)
    for node in nodes:
        shape = node.block.shape
        groups[tuple(sorted(shape)) if any_way_up else shape].append(node)
    return list(groups.values())


def _count_failures(parents: list[_Node]) -> None:
    for node in parents:
        total = sum(_COPY_BITS if c.repeat is not None else c.leaf_cost for c in node.children)
        for child in node.children:
            child.failures = node.failures + 1 if node.leaf_cost <= total < np.inf else 0


def _mark_repeats(a: Array, step: float, nodes: list[_Node]) -> None:
    for node, repeat in zip(nodes, find_repeats([n.block.of(a) for n in nodes], step), strict=True):
        node.repeat = None if repeat is None else Repeat(nodes[repeat.source], repeat.transposed)


def _analyse_batch(a: Array, step: float, nodes: list[_Node], smooth: bool) -> None:
    m, n = nodes[0].block.shape
    if m * n > _LARGEST_LEAF:
        for node in nodes:
            node.leaf, node.leaf_cost = PLAIN_LEAF, np.inf
        return
    batch = max(1, _BATCH // (m * n))
    for start in range(0, len(nodes), batch):
        part = nodes[start : start + batch]
        stack = np.stack([node.block.of(a) for node in part]) / a.dtype.type(step)
        for node, (leaf, cost) in zip(part, best_leaves(stack, smooth), strict=True):
            node.leaf, node.leaf_cost = leaf, cost


def _prune(node: _Node, splits: set[int]) -> float:
    """Price of the best plan for this node; notes which nodes split, by their ids."""
    if node.repeat is not None:
        return _COPY_BITS
    split = _NODE_BITS + sum(_prune(child, splits) for child in node.children) if node.children else np.inf
    if split < node.leaf_cost:
        splits.add(id(node))
    return min(split, node.leaf_cost)


def _emit(node: _Node, splits: set[int], emitted: dict[int, tuple[int, bool]], numbers: Iterator[int]) -> Plan:
    """The plan below a node. The first of several equal blocks in preorder carries the plan, the others copy it.

    emitted: of nodes that carry one, their numbers and whether they stand transposed.
    """
    number, transposed = next(numbers), False
    while node.repeat is not None:
        transposed ^= node.repeat.transposed
        node = node.repeat.source
    if id(node) in emitted:
        source, is_transposed = emitted[id(node)]
        return Copy(source, transposed ^ is_transposed)
    emitted[id(node)] = number, transposed
    if id(node) not in splits:
        return transpose_plan(node.leaf, node.block.shape) if transposed else node.leaf
    children = node.children
    if transposed and len(children) == 4:
        children = tuple(children[i] for i in (0, 2, 1, 3))
    if transposed:
        children = tuple(_Node(c.block, Repeat(c, True)) for c in children)
    return Split(tuple(_emit(c, splits, emitted, numbers) for c in children))


def coloured(stack: Array) -> Array:
    """Whether the blocks of a stack (b, m, n) are more than white down their columns, and along their rows: (2, b).

    Of white ones no basis, and no smooth column, saves a bit. Columns and rows are brought to one size first: a large
    one would hide what all others show.
    """
    x = stack * (_scale(stack, "bij,bij->bj") ** -0.5)[:, None]
    x *= (_scale(x, "bij,bij->bi") ** -0.5)[:, :, None]
    return np.stack([_is_coloured(x), _is_coloured(np.swapaxes(x, 1, 2))])


def _scale(x: Array, lines: str) -> Array:
    """The sum of squares of each line; 1 for one of zeros."""
    power = np.einsum(lines, x, x)
    return np.where(power > _TINY, power, 1)


def _is_coloured(x: Array) -> Array:
    """Of columns: those of n white ones of m entries have correlations of mean square 1 / m, give or take."""
    m = x.shape[1]
    power = np.einsum("bij,bij->bj", x, x)
    moved = np.stack([np.einsum("bij,bij->bj", x[:, lag:], x[:, :-lag]) for lag in _LAGS])
    square = np.square(moved / np.maximum(power, _TINY)).sum(axis=2).max(axis=0)
    count = np.maximum((power > _TINY).sum(axis=1), 1)
    return m * square > count + _CHANCE * np.sqrt(2 * count)


def possible_bases(colours: Array) -> Array:
    """Which of the usual bases may be the cheapest for blocks of these colours (2, b): (bases, b)."""
    return np.array([colours[list(basis.axes)].all(axis=0) for basis in BASES[:USUAL]])
