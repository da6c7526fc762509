"""The order and signs of hidden neurons, which no output depends on: those that cost the fewest bytes."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from hmcompress.hmatrix.grids.compact import canonical, encode
from hmcompress.hmatrix.grids.grid import Grid
from hmcompress.network.joint.distil import placed
from hmcompress.network.joint.small import Layer, Neurons, SmallNetwork
from hmcompress.network.layerwise.coded import Coded, Compact
from hmcompress.network.layerwise.propagate import Parts
from hmcompress.network.model.network import Network

_TRIALS = 60  # for each hidden layer


def embedded(network: Network, small: SmallNetwork, grids: Sequence[Grid]) -> Parts:
    """The small network's layers in the first neurons of the large one's."""
    return parts_of(network, small.layers, grids)


def reordered(network: Network, small: SmallNetwork, grids: Sequence[Grid]) -> Parts:
    """As `embedded`, with neurons exchanged and their signs turned at random wherever no byte more is needed."""
    rng = np.random.default_rng(0)
    grids = [*grids]
    parts = best = embedded(network, small, grids)
    sizes = {name: nbytes({name: part}) for name, part in parts.items()}
    least = sum(sizes.values())
    for neurons in small.neurons():
        own = sorted({layer for layer, _, _ in neurons.places})
        layers, count = [small.layers[k] for k in own], neurons.count
        bytes_now = about(network, layers, [grids[k] for k in own])
        for _ in range(_TRIALS if count > 1 else 0):
            i, j = rng.integers(count, size=2)
            changed = _exchanged(grids, neurons, (i, j), -1 if neurons.odd and rng.integers(2) else 1)
            if (found := about(network, layers, [changed[k] for k in own])) <= bytes_now:
                bytes_now, grids = found, changed
        new = parts_of(network, layers, [grids[k] for k in own])
        parts, sizes = parts | new, sizes | {name: nbytes({name: part}) for name, part in new.items()}
        if sum(sizes.values()) < least:
            best, least = parts, sum(sizes.values())
    return best


def parts_of(network: Network, layers: Sequence[Layer], grids: Sequence[Grid]) -> Parts:
    """Layers of a small network in the first neurons of the large one's."""
    return {name: Compact(grid) for name, grid in _canonical(network, layers, grids)}


def _canonical(network: Network, layers: Sequence[Layer], grids: Sequence[Grid]) -> Iterator[tuple[str, Grid]]:
    for layer, grid in zip(layers, grids, strict=True):
        for name, own in placed(network, layer, grid).items():
            yield name, canonical(own)


def nbytes(parts: Parts) -> int:
    """What parts take in a file."""
    return sum(_nbytes(part) for part in parts.values())


def _nbytes(part: Coded) -> int:
    return 1 + len(encode(part.grid)) if isinstance(part, Compact) else len(part.payload(thorough=True))


def about(network: Network, layers: Sequence[Layer], grids: Sequence[Grid]) -> int:
    """What layers take in a file but for some per cent, in a fraction of the time."""
    return sum(1 + len(encode(grid, thorough=False)) for _, grid in _canonical(network, layers, grids))


def _exchanged(grids: Sequence[Grid], neurons: Neurons, pair: tuple[int, int], sign: int) -> list[Grid]:
    """Two neurons exchanged, in rows and columns; `sign` of what then is the first of them."""
    order, signs, found = np.arange(neurons.count), np.ones(neurons.count, np.int64), [*grids]
    order[[*pair]], signs[pair[0]] = order[[*pair[::-1]]], sign
    for layer, axis, start in neurons.places:
        grid = found[layer]
        places, factors = np.arange(grid.q.shape[axis]), np.ones(grid.q.shape[axis], np.int64)
        places[start : start + neurons.count], factors[start : start + neurons.count] = start + order, signs
        q = grid.q.take(places, axis) * (factors if axis else factors[:, None])
        exponents = (grid.column_exponents if axis else grid.row_exponents)[places]
        named = {"column_exponents" if axis else "row_exponents": exponents}
        found[layer] = replace(grid, q=q, **named)
    return found
