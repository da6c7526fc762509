"""Rows of layers whose order nothing sees but columns that then stand in the same order: factors of sums of products
(queries and keys, two towers), what is read by a norm alone, neurons under a normalisation. Found by running the module
with neighbours exchanged."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hmcompress.errors import NetworkError
from hmcompress.network.model.inputs import Points
from hmcompress.network.model.links import run_with
from hmcompress.network.model.network import Network, own_tensors

_SAME = 1e-9  # share of the largest entry: sums in another order are not the same to the last bit
_PARTS = (1, 2, 3)  # of a layer
_MOST = 32  # layers


@dataclass(frozen=True)
class Unit:
    """So many rows of a layer."""

    layer: int
    first: int
    count: int

    def meets(self, other: "Unit") -> bool:
        ends = (self.first + self.count, other.first + other.count)
        return self.layer == other.layer and max(self.first, other.first) < min(ends)


@dataclass(frozen=True)
class Symmetry:
    """Rows that change places together, and what changes places with them: layers, and their first columns."""

    units: tuple[Unit, ...]
    columns: tuple[tuple[int, int], ...]


@dataclass
class Symmetries:
    """In which rows of some layers take part.

    Raises NetworkError where how often layers are called depends on what they give.
    """

    network: Network
    points: Points
    layers: Sequence[int]
    found: list[Symmetry] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not 0 < len(self.layers) <= _MOST:
            return
        self.tensors = _even_vectors(self.network)
        self.run = run_with(self.network, self.points, None, self.tensors)
        for parts in _PARTS:
            units = [unit for k in range(len(self.network.layers)) for unit in self._units(k, parts)]
            for unit in units:
                if unit.layer in self.layers and not any(unit.meets(other) for other in self._taken()):
                    self._look_from(unit, units)

    def _units(self, k: int, parts: int) -> Iterator[Unit]:
        rows, _ = self.network.shape(self.network.layers[k])
        size = rows // parts
        if rows % parts == 0 and size > 1:
            yield from (Unit(k, first, size) for first in range(0, rows, size))

    def _taken(self) -> list[Unit]:
        return [unit for symmetry in self.found for unit in symmetry.units]

    def _look_from(self, unit: Unit, others: Sequence[Unit]) -> None:
        """Adds one after another that leaves less out of order, until nothing is."""
        units = [unit]
        wrong, columns = self._exchanged(units)
        while wrong:
            free = [
                u for u in others if u.count == unit.count and not any(u.meets(v) for v in (*units, *self._taken()))
            ]
            tried = [(*self._exchanged([*units, u]), u) for u in free]
            if not tried or min(t[0] for t in tried) >= wrong:
                return
            wrong, columns, best = min(tried, key=lambda t: t[0])
            units.append(best)
        self.found.append(Symmetry(tuple(units), tuple(columns)))

    def _exchanged(self, units: Sequence[Unit]) -> tuple[int, list[tuple[int, int]]]:
        """How many inputs and outputs are neither what they were nor that in the new order, and what is in that."""
        given = dict(self.run.outputs)
        for unit in units:
            name = self.network.layers[unit.layer].weight
            given[name] = _in_pairs(given[name], unit.first, unit.count)
        found = run_with(self.network, self.points, given, self.tensors, through=True)
        if not found.calls_as(self.run):
            raise NetworkError("how often layers are called depends on what they compute")
        wrong, columns = int(bool(_differ(found.y, self.run.y).any())), list[tuple[int, int]]()
        for k, layer in enumerate(self.network.layers):
            x, before = found.inputs[layer.weight], self.run.inputs[layer.weight]
            firsts = _runs(_differ(x, before).reshape(-1, x.shape[-1]).any(0), units[0].count)
            for first in firsts:
                before = _in_pairs(before, first, units[0].count)
            wrong += int(_differ(x, before).any(-1).reshape(len(x), -1).any(0).sum())
            columns += [(k, first) for first in firsts]
        return wrong, columns


def _runs(changed: Tensor, count: int) -> list[int]:
    """Where stretches of so many columns begin that hold all that have changed."""
    firsts, end = list[int](), 0
    for column in torch.nonzero(changed)[:, 0].tolist():
        if column >= end and column + count <= len(changed):
            firsts.append(column)
            end = column + count
    return firsts


def _in_pairs(z: Tensor, first: int, count: int) -> Tensor:
    """With neighbours exchanged in some columns."""
    order = torch.arange(z.shape[-1])
    numbers = torch.arange(count // 2 * 2)
    order[first : first + len(numbers)] = first + (numbers ^ 1)
    return z[..., order]


def _differ(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs() > _SAME * b.abs().max()


def _even_vectors(network: Network) -> dict[str, Tensor]:
    """Other weights that are vectors, with all entries alike: those of a normalisation may lie along neurons."""
    own = own_tensors(network.module)
    vectors = ((name, own[network.places[name]].detach()) for name in network.others)
    return {
        name: torch.full_like(t, float(t.abs().mean()))
        for name, t in vectors
        if t.is_floating_point() and t.numel() == max(t.shape, default=0)
    }
