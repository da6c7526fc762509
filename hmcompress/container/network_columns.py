"""The network's record, whose rows for its layers are stored as columns."""

from collections.abc import Sequence
from typing import Any

from hmcompress.container.document import Document, column_out


def network_out(network: Any, names: Sequence[str]) -> Any:
    """Plain JSON with `layers` as columns; their names are left out where they are those of the coded layers."""
    rows = network.get("layers") if isinstance(network, dict) else None
    if not rows or not isinstance(rows, list) or not all(isinstance(row, dict) and "name" in row for row in rows):
        return network
    if any(row.keys() != rows[0].keys() or any(isinstance(v, list) for v in row.values()) for row in rows):
        return network
    columns = {key: column_out([row[key] for row in rows]) for key in rows[0]}
    columns["name"] = [row["name"] for row in rows]
    if columns["name"] == list(names):
        del columns["name"]
    return network | {"layers": columns}


def network_in(network: Any, names: Sequence[str]) -> Any:
    """The inverse of network_out; raises FormatError."""
    if not isinstance(network, dict) or not isinstance(network.get("layers"), dict):
        return network
    columns = Document(network["layers"])
    own = columns.strings("name") if "name" in columns.data else list(names)
    values = {key: columns.column(key, len(own)) for key in columns.data if key != "name"}
    rows = [{"name": name} | {key: column[i] for key, column in values.items()} for i, name in enumerate(own)]
    return network | {"layers": rows}
