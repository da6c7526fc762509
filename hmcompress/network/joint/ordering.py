"""The order and signs of hidden neurons, which no output depends on: those that cost the fewest bytes."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from hmcompress.hmatrix.grids.compact import canonical, encode
from hmcompress.hmatrix.grids.grid import Grid
from hmcompress.network.joint.distil import placed
from hmcompress.network.joint.pruning import is_nameless
from hmcompress.network.joint.small import Layer, SmallNetwork
from hmcompress.network.layerwise.coded import Compact
from hmcompress.network.layerwise.propagate import Parts
from hmcompress.network.model.network import Network

_TRIALS = 60  # for each hidden layer
_ODD = ("tanh", "sin", "identity")  # functions that return the opposite of the opposite


def embedded(network: Network, small: SmallNetwork, grids: Sequence[Grid]) -> Parts:
    """The small network's layers in the first neurons of the large one's."""
    return _parts(network, small.layers, grids)


def reordered(network: Network, small: SmallNetwork, grids: Sequence[Grid]) -> Parts:
    """As `embedded`, with neurons exchanged and their signs turned at random wherever no byte more is needed."""
    rng = np.random.default_rng(0)
    grids = [*grids]
    parts = best = embedded(network, small, grids)
    sizes = {name: nbytes({name: part}) for name, part in parts.items()}
    least = sum(sizes.values())
    for k, odd in _hidden(small):
        pair = small.layers[k : k + 2]
        bytes_now = about(network, pair, grids[k : k + 2])
        for _ in range(_TRIALS if len(grids[k].q) > 1 else 0):
            i, j = rng.integers(len(grids[k].q), size=2)
            first, second = _exchanged(grids[k], grids[k + 1], i, j, -1 if odd and rng.integers(2) else 1)
            if (found := about(network, pair, [first, second])) <= bytes_now:
                bytes_now, grids = found, [*grids[:k], first, second, *grids[k + 2 :]]
        changed = _parts(network, pair, grids[k : k + 2])
        parts, sizes = parts | changed, sizes | {name: nbytes({name: part}) for name, part in changed.items()}
        if sum(sizes.values()) < least:
            best, least = parts, sum(sizes.values())
    return best


def _parts(network: Network, layers: Sequence[Layer], grids: Sequence[Grid]) -> Parts:
    return {name: Compact(grid) for name, grid in _canonical(network, layers, grids)}


def _canonical(network: Network, layers: Sequence[Layer], grids: Sequence[Grid]) -> Iterator[tuple[str, Grid]]:
    for layer, grid in zip(layers, grids, strict=True):
        for name, own in placed(network, layer, grid).items():
            yield name, canonical(own)


def nbytes(parts: Parts) -> int:
    """What compact parts take in a file."""
    return sum(1 + len(encode(part.grid)) for part in parts.values() if isinstance(part, Compact))


def about(network: Network, layers: Sequence[Layer], grids: Sequence[Grid]) -> int:
    """What layers take in a file but for some per cent, in a fraction of the time."""
    return sum(1 + len(encode(grid, thorough=False)) for _, grid in _canonical(network, layers, grids))


def _hidden(small: SmallNetwork) -> list[tuple[int, bool]]:
    """Layers whose neurons feed only the next one, and whether their signs are free."""
    found, first = [], 0
    for stack in small.stacks:
        for k in range(len(stack.layers) - 1):
            if is_nameless(stack, k):
                found.append((first + k, stack.functions[k].name in _ODD))
        first += len(stack.layers)
    return found


def _exchanged(rows: Grid, columns: Grid, i: int, j: int, sign: int) -> tuple[Grid, Grid]:
    """Two neurons exchanged, rows of one layer and columns of the next; `sign` of what then is the first of them."""
    order = np.arange(len(rows.q))
    order[[i, j]] = order[[j, i]]
    signs = np.ones(len(order), np.int64)
    signs[i] = sign
    places = np.arange(columns.q.shape[1])
    places[: len(order)] = order
    q = columns.q[:, places]
    q[:, : len(order)] *= signs
    return (
        replace(rows, q=rows.q[order] * signs[:, None], row_exponents=rows.row_exponents[order]),
        replace(columns, q=q, column_exponents=columns.column_exponents[places]),
    )
