"""Rows of the layer table: one a layer, or one for many of a kind where there are too many layers to read."""

import re
from collections.abc import Sequence
from dataclasses import astuple, dataclass

from hmcompress.report.records import LayerRecord, Leaves

MAX_ROWS = 40


@dataclass(frozen=True)
class TableRow:
    """Layers shown together; sums for bytes and leaves, the largest rank and the largest share of the tolerance."""

    name: str
    members: tuple[LayerRecord, ...]

    @property
    def count(self) -> int:
        return len(self.members)

    @property
    def source_bytes(self) -> int:
        return sum(layer.source_bytes for layer in self.members)

    @property
    def stored_bytes(self) -> int:
        return sum(layer.stored_bytes for layer in self.members)

    @property
    def ratio(self) -> float:
        return self.source_bytes / self.stored_bytes if self.stored_bytes else 1.0

    @property
    def bits_per_weight(self) -> float:
        weights = sum(layer.weights for layer in self.members)
        return 8 * self.stored_bytes / weights if weights else 0.0

    @property
    def leaves(self) -> Leaves:
        return Leaves(*(sum(counts) for counts in zip(*(astuple(layer.leaves) for layer in self.members), strict=True)))

    @property
    def max_rank(self) -> int:
        return max(layer.max_rank for layer in self.members)

    @property
    def worst(self) -> LayerRecord:
        """The layer nearest to its tolerance, or beyond it."""
        return max(self.members, key=lambda layer: layer.error / layer.tol if layer.tol else layer.error)

    def common(self, field: str) -> object | None:
        """The value that all members share, else None."""
        values = {getattr(layer, field) for layer in self.members}
        return values.pop() if len(values) == 1 else None


def layer_rows(layers: Sequence[LayerRecord], limit: int = MAX_ROWS) -> tuple[TableRow, ...]:
    """At most about `limit` rows that hold every layer exactly once.

    Past the limit, layers whose names differ in numbers only and whose shape and dtype agree share a row; where
    that is not enough, the smallest rows become one.
    """
    if len(layers) <= limit:
        return tuple(TableRow(layer.name, (layer,)) for layer in layers)
    rows = _by_kind(layers)
    if len(rows) <= limit:
        return rows
    large = sorted(rows, key=lambda row: -row.source_bytes)[: limit - 1]
    kept = {id(row) for row in large}
    small = tuple(layer for row in rows if id(row) not in kept for layer in row.members)
    return (*(row for row in rows if id(row) in kept), TableRow("smaller layers", small))


def _by_kind(layers: Sequence[LayerRecord]) -> tuple[TableRow, ...]:
    groups: dict[tuple[object, ...], list[LayerRecord]] = {}
    for layer in layers:
        pattern = re.sub(r"\d+", "*", layer.name)
        groups.setdefault((pattern, layer.shape, layer.dtype, layer.method), []).append(layer)
    return tuple(
        TableRow(members[0].name if len(members) == 1 else str(key[0]), tuple(members))
        for key, members in groups.items()
    )
