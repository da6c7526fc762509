"""Do the values of a record have the types of its fields? Files say what they like."""

from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, get_args, get_origin


def well_typed(record: Any) -> bool:
    """Whether every value of a dataclass, and of the dataclasses in it, is of its field's type.

    Knows plain types (an int may stand for a float, a bool for neither), unions, dataclasses and tuples of one type.
    """
    return all(_fits(getattr(record, field.name), field.type) for field in fields(record))


def _fits(value: Any, kind: Any) -> bool:
    if isinstance(kind, UnionType):
        return any(_fits(value, one) for one in get_args(kind))
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_fits(item, get_args(kind)[0]) for item in value)
    if is_dataclass(kind):
        return type(value) is kind and well_typed(value)
    return type(value) in ((int, float) if kind is float else (kind,))
