"""Which neurons of a user's own module belong together: rows of some layers and columns of others that only make sense
at once, whatever the module does with them (sums, gates, skip connections). Found by running it."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from hmcompress.errors import NetworkError
from hmcompress.network.joint.symmetries import Symmetries, Symmetry
from hmcompress.network.model.inputs import Points
from hmcompress.network.model.links import Run, noisy, run_with
from hmcompress.network.model.network import DenseLayer, Network, replaced

_SAMPLES, _FEWEST = 16, 4  # and where the network writes much for each
_WRITTEN = 1e6  # numbers that it writes in each run, about
_SAME = 1e-12  # share of the largest entry up to which nothing has moved
_PARTS = (1, 2, 3, 4, 6)  # of a layer, that feed the same columns
ROWS, COLUMNS = 0, 1
Place = tuple[int, int, int]  # a layer, ROWS or COLUMNS, and where the first neuron stands there


@dataclass(frozen=True)
class Group:
    """So many neurons, the i-th of which stands i after the first in each place. The first place is in rows."""

    count: int
    places: tuple[Place, ...]


def groups_in(network: Network, points: Points) -> tuple[Group, ...]:
    """Groups of neurons that no output reads directly. Raises NetworkError."""
    count = min(max(int(_WRITTEN / max(network.written, 1.0)), _FEWEST), _SAMPLES)
    points = points.take(slice(0, count))
    nodes = _Nodes(network)
    run, slopes = run_with(network, points), takes_slopes(network, points)
    told = [_readers_of_parts(network, points, run, k, slopes) for k in range(len(network.layers))]
    unclear = [k for k, parts in enumerate(told) if any(r.unclear or r.y for r in parts)]
    for symmetry in Symmetries(network, points, unclear).found:
        nodes.tie_alike(symmetry)
        for k, size in {(unit.layer, unit.count) for unit in symmetry.units}:
            rest = nodes.left(k, size)
            told[k] = [_readers(network, points, run, k, part) for part in rest]
    for k, parts in enumerate(told):
        nodes.note(k, parts, slopes)
    return tuple(nodes.groups())


class _Nodes:
    """Rows and columns of all layers, which of them are the same neuron, and which must stay."""

    def __init__(self, network: Network) -> None:
        shapes = [network.shape(layer) for layer in network.layers]
        sizes = [size for m, n in shapes for size in (m, n)]
        self.starts = np.cumsum([0, *sizes]).tolist()
        self.kept, self.alike = (np.zeros(self.starts[-1], np.bool_) for _ in range(2))
        self.pairs: list[tuple[np.ndarray, np.ndarray]] = []

    def span(self, layer: int, axis: int) -> slice:
        return slice(self.starts[2 * layer + axis], self.starts[2 * layer + axis + 1])

    def tie(self, rows_of: int, sources: np.ndarray, columns_of: int, columns: np.ndarray) -> None:
        """Columns of a layer read these neurons of another one."""
        self.pairs.append((self.span(rows_of, ROWS).start + sources, self.span(columns_of, COLUMNS).start + columns))

    def tie_alike(self, symmetry: Symmetry) -> None:
        """Rows that change places together, with columns that do."""
        one, *others = symmetry.units
        rows = self.span(one.layer, ROWS).start + one.first + np.arange(one.count)
        firsts = [self.span(unit.layer, ROWS).start + unit.first for unit in others]
        firsts += [self.span(layer, COLUMNS).start + first for layer, first in symmetry.columns]
        self.pairs += [(rows, first + np.arange(one.count)) for first in firsts]
        self.alike[rows] = True
        for first in firsts[: len(others)]:
            self.alike[first + np.arange(one.count)] = True

    def left(self, layer: int, size: int) -> list[range]:
        """Parts of a layer's rows of this size that change places with none."""
        alike = self.alike[self.span(layer, ROWS)]
        return [range(at, at + size) for at in range(0, len(alike), size) if not alike[at : at + size].any()]

    def note(self, k: int, parts: Sequence["_Readers"], slopes: bool) -> None:
        """What reads a layer. slopes: outputs are slopes, on which all neurons act."""
        rows = self.span(k, ROWS)
        read = self.alike[rows].copy()
        for r in parts:
            self.kept[rows] |= r.unclear & ~self.alike[rows]
            for other, (columns, sources) in enumerate(r.told):
                self.tie(k, sources, other, columns)
                read[sources] = True
                self.kept[self.span(other, COLUMNS)] |= r.untold[other]
        if any(r.y for r in parts):
            self.kept[rows] |= ~read if slopes else ~self.alike[rows]

    def groups(self) -> Iterator[Group]:
        """Neurons that stand side by side in the same layers."""
        alike = defaultdict[tuple, list[tuple[int, ...]]](list)
        for places in self._neurons():
            alike[tuple((layer, axis) for layer, axis, _ in places)].append(tuple(at for _, _, at in places))
        for signature, positions in alike.items():
            at = np.array(sorted(positions))
            alike = self.alike[self.span(*signature[0]).start + at[0][0]]
            if (at == at[0] + np.arange(len(at))[:, None]).all() and (alike or signature[-1][1] == COLUMNS):
                firsts = zip(signature, at[0].tolist(), strict=True)
                yield Group(len(at), tuple((layer, axis, first) for (layer, axis), first in firsts))

    def _neurons(self) -> Iterator[list[Place]]:
        """Each neuron's places, rows before columns; none of those that must stay or stand nowhere but in columns."""
        count, total = connected_components(self._graph(), directed=False), self.starts[-1]
        members = defaultdict[int, list[Place]](list)
        kept = np.zeros(count[0], np.bool_)
        np.logical_or.at(kept, count[1], self.kept)
        spans = np.searchsorted(self.starts, np.arange(total), "right") - 1
        for node in range(total):
            if not kept[count[1][node]]:
                layer, axis = divmod(int(spans[node]), 2)
                members[count[1][node]].append((layer, axis, node - self.starts[spans[node]]))
        for places in members.values():
            places.sort(key=lambda place: (place[1], place[0], place[2]))
            if places[0][1] == ROWS:
                yield places

    def _graph(self) -> coo_array:
        first, second = (np.concatenate([np.zeros(0, np.int64), *(p[i] for p in self.pairs)]) for i in (0, 1))
        return coo_array((np.ones(len(first)), (first, second)), shape=(self.starts[-1],) * 2)


def _readers_of_parts(network: Network, points: Points, run: Run, k: int, slopes: bool) -> "list[_Readers]":
    """Which columns read each neuron of a layer, as far as that is told.

    All others' outputs stay meanwhile. Several neurons of a layer may feed the same column (a scale and a shift, a gate
    and what it lets through), each from a part of the layer: where it is not told by its halves, parts move alone.
    """
    m = run.outputs[network.layers[k].weight].shape[-1]
    found: list[_Readers] = []
    for count in (c for c in _PARTS if m % c == 0):
        size = m // count
        readers = [_readers(network, points, run, k, range(at, at + size)) for at in range(0, m, size)]
        all_told = not any(r.unclear for r in readers)
        found = readers if all_told or not found else found
        if all_told or (not slopes and any(r.y for r in readers)):
            break
    return found


@dataclass(frozen=True)
class _Readers:
    """What reads some neurons of a layer."""

    y: bool  # outputs do
    told: Sequence[tuple[np.ndarray, np.ndarray]]  # of each layer: columns, and the neuron that each of them reads
    untold: Sequence[np.ndarray]  # which columns read one of them, or several

    @property
    def unclear(self) -> bool:
        return any(untold.any() for untold in self.untold)


def _readers(network: Network, points: Points, run: Run, k: int, some: range) -> _Readers:
    """Half of them move at a time, for each bit of their numbers those with and those without it, which tells the
    neuron that moves a column."""
    m, bits = run.outputs[network.layers[k].weight].shape[-1], max((len(some) - 1).bit_length(), 1)
    moved = [
        [_moved(network, points, run, k, _has_bit(m, some, bit, value)) for value in (0, 1)] for bit in range(bits)
    ]
    told, untold = [], []
    for other in range(len(network.layers)):
        with_bit = np.stack([pair[1].columns[other] for pair in moved])
        without = np.stack([pair[0].columns[other] for pair in moved])
        known = (with_bit ^ without).all(0)
        columns = np.flatnonzero(known)
        told.append((columns, some.start + (with_bit[:, columns] << np.arange(bits)[:, None]).sum(0)))
        untold.append((with_bit | without).any(0) & ~known)
    return _Readers(any(found.y for pair in moved for found in pair), told, untold)


def _has_bit(count: int, some: range, bit: int, value: int) -> Tensor:
    numbers = torch.arange(count) - some.start
    return ((numbers >> bit & 1) == value) & (numbers >= 0) & (numbers < len(some))


@dataclass(frozen=True)
class _Moved:
    """What moves with some neurons: the outputs, and columns of each layer."""

    y: bool
    columns: Sequence[np.ndarray]


def _moved(network: Network, points: Points, run: Run, k: int, some: Tensor) -> _Moved:
    own = network.layers[k].weight
    z = run.outputs[own]
    given = dict(run.outputs) | {own: torch.where(some, noisy({own: z})[own], z)}
    found = run_with(network, points, given, through=True)
    if not found.calls_as(run):
        raise NetworkError("how often layers are called depends on what they compute")
    pairs = ((found.inputs[x.weight], run.inputs[x.weight]) for x in network.layers)
    return _Moved(bool(_differ(found.y, run.y).any()), [_differ(a, b).numpy() for a, b in pairs])


def _differ(a: Tensor, b: Tensor) -> Tensor:
    """Which columns do."""
    return ((a - b).abs() > _SAME * b.abs().max()).reshape(-1, a.shape[-1]).any(0)


def takes_slopes(network: Network, points: Points) -> bool:
    """Whether the module takes gradients of what its layers compute."""
    found = list[bool]()

    def note(layer: DenseLayer, x: Tensor, z: Tensor) -> None:
        found.append(z.requires_grad)

    with torch.no_grad(), replaced(network, note):
        network.run(points.tensors)
    return any(found)
