"""Reading JSON that nobody vouches for: every accessor checks its type and range, or raises FormatError."""

import math
from collections.abc import Sequence
from typing import Any, NoReturn

from hmcompress.errors import FormatError
from hmcompress.texts import is_unicode

LARGEST = 1 << 62


def damaged(what: str) -> NoReturn:
    """Raise FormatError for a field of the index."""
    raise FormatError(f"the index's {what} makes no sense: the file is damaged")


class Document:
    """A JSON object with checked access; absent lists and objects read as empty."""

    def __init__(self, data: Any) -> None:
        if not isinstance(data, dict):
            damaged("structure")
        self.data: dict[str, Any] = data

    def document(self, key: str) -> "Document":
        return Document(self.data.get(key, {}))

    def rows(self, key: str) -> list[Any]:
        value = self.data.get(key, [])
        if not isinstance(value, list):
            damaged(repr(key))
        return value

    def integer(self, key: str) -> int:
        return integer(self.data.get(key, 0), LARGEST, key)

    def integers(self, key: str, below: int) -> list[int]:
        return [integer(value, below, key) for value in self.rows(key)]

    def strings(self, key: str) -> list[str]:
        values = self.rows(key)
        if not all(isinstance(value, str) for value in values):
            damaged(repr(key))
        return values

    def texts(self) -> dict[str, str]:
        """The object itself, all of whose values are texts."""
        if not all(isinstance(value, str) and is_unicode(key + value) for key, value in self.data.items()):
            damaged("'metadata'")
        return self.data

    def column(self, key: str, count: int) -> list[Any]:
        """A value for each of `count` rows; a single value stands for all of them."""
        value = self.data.get(key)
        if not isinstance(value, list):
            return [value] * count
        if len(value) != count:
            damaged(repr(key))
        return value


def column_out(values: list[Any]) -> Any:
    """The inverse of Document.column; None, the value of an absent key, is written out where it is the only one."""
    same = bool(values) and all(value == values[0] for value in values)
    return values[0] if same else values


def integer(value: Any, below: int, key: str) -> int:
    """A whole number in [0, below)."""
    if type(value) is not int or not 0 <= value < below:
        damaged(repr(key))
    return value


def integer_tuple(value: Any, key: str) -> tuple[int, ...]:
    """A shape or stride: at most 64 whole numbers."""
    if not isinstance(value, list) or len(value) > 64:
        damaged(repr(key))
    return tuple(integer(n, LARGEST, key) for n in value)


def number(value: Any, key: str) -> float:
    """A finite number that is not negative."""
    if type(value) not in (int, float) or not 0 <= value < math.inf:
        damaged(repr(key))
    return float(value)


def choice(value: Any, among: Sequence[str], key: str) -> str:
    """One of a few words."""
    if not isinstance(value, str) or value not in among:
        damaged(repr(key))
    return value
