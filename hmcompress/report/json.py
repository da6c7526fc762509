"""JSON of a record: one document in ASCII, whatever the terminal takes; no nan, the same bytes for the same record."""

import json
from typing import Any, Protocol


class HasJson(Protocol):
    def to_json(self) -> dict[str, Any]: ...


def render_json(record: HasJson) -> str:
    """The record as one indented JSON document that ends in a newline."""
    return json.dumps(record.to_json(), indent=2, allow_nan=False) + "\n"
