"""One line for a wrong setting: file, line, what is wrong, and the nearest valid key or value."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from hmcompress.settings.located_yaml import LocatedYaml, Location

KEY_PREFIX = "key:"  # marks the tags of tagged unions, which pydantic puts into error locations


def nearest(words: Sequence[str], valid: Sequence[str]) -> str:
    """The valid word that is most like one of the words; the first one where none is."""
    best = [match for word in words for match in difflib.get_close_matches(word, valid, n=1, cutoff=0.5)]
    return best[0] if best else valid[0]


def did_you_mean(word: str, valid: Iterable[str], otherwise: str | None = None) -> str:
    """`did you mean 'x'?` where something is near; else what is said otherwise, or the list of what is valid."""
    valid = list(valid)
    close = difflib.get_close_matches(word, valid, n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else otherwise or f"valid: {', '.join(valid)}"


def explain(error: ValidationError, root: type[BaseModel], origin: LocatedYaml | None) -> str:
    """The first error worth showing; an unknown key comes first, for it often causes the others."""
    errors = error.errors(include_url=False)
    first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
    location = tuple(part for part in first["loc"] if not str(part).startswith(KEY_PREFIX))
    location = _without_type_names(location, root)
    text = _text(first, location, root)
    from_file = origin is not None and bool(location) and location[0] in origin.data
    if from_file and origin is not None:
        return f"{origin.where(location)}: {text}"
    if origin is not None and not location:
        return f"{origin.where(('metric',))}: {text}"
    return text


def _text(error: ErrorDetails, location: Location, root: type[BaseModel]) -> str:
    name = _dotted(location)
    if error["type"] == "extra_forbidden":
        key, parent = str(location[-1]), location[:-1]
        inside = f" in {_dotted(parent)}" if parent else ""
        if key in (tags := _tags_at(error, root)):
            return f"{_dotted(parent)} takes one of {', '.join(tags)}, not two"
        return f"unknown setting '{key}'{inside}, {did_you_mean(key, _fields(_models_at(root, parent)))}"
    tags = _tags_at(error, root)
    if error["type"].startswith("union_tag") or (error["type"] == "missing" and location[-1] in tags):
        parent = location if error["type"] != "missing" else location[:-1]
        return f"{_dotted(parent)} needs one of {', '.join(tags)}"
    if error["type"] == "missing" and isinstance(location[-1], str):
        return f"'{location[-1]}' is missing in {_dotted(location[:-1]) or 'the settings'}"
    if error["type"] == "missing":
        return f"{_dotted(location[:-1])} has too few values"
    if error["type"] == "too_long" or error["type"] == "too_short":
        return f"{name} has the wrong number of values: {_shown(error['input'])}"
    if error["type"] == "value_error" and isinstance(error["input"], Mapping):
        return f"{name}: {error['ctx']['error']}" if name else str(error["ctx"]["error"])
    return f"{name} {_expectation(error)}, got {_shown(error['input'])}"


def _tags_at(error: ErrorDetails, root: type[BaseModel]) -> list[str]:
    """The keys that choose a class where the error lies; empty outside tagged unions."""
    location = tuple(part for part in error["loc"] if isinstance(part, str))
    tagged = next((i for i, part in enumerate(location) if part.startswith(KEY_PREFIX)), len(location))
    models = _models_at(root, location[:tagged]) if location[:tagged] else []
    return [next(iter(model.__annotations__)) for model in models] if len(models) > 1 else []


def _expectation(error: ErrorDetails) -> str:
    context: dict[str, Any] = error.get("ctx", {})
    if error["type"] == "literal_error":
        near = _near_literal(context["expected"], error["input"])
        return f"must be {context['expected'].replace('True', 'true')}{near}"
    if error["type"] in _EXPECTATIONS:
        return _EXPECTATIONS[error["type"]].format(**context)
    return error["msg"][0].lower() + error["msg"][1:]


_EXPECTATIONS = {
    "greater_than": "must be above {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be below {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "finite_number": "must be a finite number",
    "string_type": "must be text",
    "value_error": "{error}",
    **dict.fromkeys(("float_parsing", "float_type"), "must be a number"),
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float", "int_parsing_size"), "must be a whole number"),
    **dict.fromkeys(("bool_parsing", "bool_type"), "must be true or false"),
    **dict.fromkeys(("tuple_type", "list_type"), "must be a list"),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "must be a group of 'key: value' lines"),
}


def _near_literal(expected: str, given: Any) -> str:
    valid = re.findall(r"'([^']*)'", expected)
    close = difflib.get_close_matches(str(given), valid, n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close and len(valid) > 3 else ""


def _shown(value: Any) -> str:
    text = f"'{value}'" if isinstance(value, str) else "nothing" if value is None else str(value)
    return " ".join(text.split())[:60]


def _dotted(location: Location) -> str:
    """("layers", 0, "tol") -> "layers[1].tol": items are counted from one, as people count."""
    text = ""
    for part in location:
        text += f"[{part + 1}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _without_type_names(location: Location, root: type[BaseModel]) -> Location:
    """Drop what pydantic adds to a location for plain unions (class names, `literal[False]`)."""
    models = {model.__name__ for model in _all_models(root)}
    return tuple(part for part in location if part not in models and not str(part).startswith(("literal[", "tuple[")))


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


def _models_at(root: type[BaseModel], location: Location) -> list[type[BaseModel]]:
    models = [root]
    for part in location:
        if isinstance(part, str):
            fields = [model.model_fields[part] for model in models if part in model.model_fields]
            models = [model for field in fields for model in _models_in(field.annotation)]
    return models


def _all_models(root: type[BaseModel]) -> set[type[BaseModel]]:
    found, queue = {root}, [root]
    while queue:
        for field in queue.pop().model_fields.values():
            new = set(_models_in(field.annotation)) - found
            found |= new
            queue += new
    return found


def _fields(models: list[type[BaseModel]]) -> list[str]:
    return list(dict.fromkeys(name for model in models for name in model.model_fields))
