"""YAML with the line of every key, so that a wrong setting can be named where it stands."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hmcompress.errors import SettingsError

Location = tuple[str | int, ...]

_MAX_BYTES = 1_000_000  # a settings file is a page of text; anything larger is some other file
_TOO_MUCH = "nested too deep or too long for a settings file"
_MAX_DEPTH = 20
_MAX_NODES = 10_000  # an alias counts each time it is expanded
_PLAIN_TAGS = tuple(
    f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null", "timestamp")
)
_MERGE = "tag:yaml.org,2002:merge"
_FLOAT = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$")


@dataclass(frozen=True)
class LocatedYaml:
    """Plain data and the line (from 1) at which each key or list item stands."""

    path: Path
    data: dict[str, Any]
    lines: Mapping[Location, int]

    def where(self, location: Location) -> str:
        """`file.yaml line 7`: the line of the location, or of the nearest key around it that has one."""
        for end in range(len(location), 0, -1):
            if location[:end] in self.lines:
                return f"{self.path} line {self.lines[location[:end]]}"
        return str(self.path)


class _Loader(yaml.SafeLoader):
    """SafeLoader that also reads 1e-4 as a number: YAML 1.1 wants 1.0e-4, people write 1e-4."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def read_yaml(path: str | os.PathLike[str]) -> LocatedYaml:
    """Read a YAML file whose root is a mapping. Raises SettingsError that names file and line."""
    path = Path(path)
    walk = _Walk(path, _loader(path, _read_text(path)))
    try:
        data = walk.document()
    except yaml.YAMLError as error:
        raise SettingsError(_syntax_message(path, error)) from error
    except RecursionError as error:
        raise SettingsError(f"{path}: {_TOO_MUCH}") from error
    finally:
        walk.loader.dispose()
    return LocatedYaml(path, data, walk.lines)


def _loader(path: Path, text: str) -> _Loader:
    try:
        return _Loader(text)
    except yaml.YAMLError as error:  # characters that YAML does not allow
        raise SettingsError(f"{path}: not a text file; is this the model? Settings are YAML") from error


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:  # a pipe too, whose bytes are known when they are there
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise SettingsError(f"{path}: larger than 1 MB, not a settings file; is this the model?")
        return data.decode("utf-8")
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such settings file") from None
    except IsADirectoryError:
        raise SettingsError(f"{path}: is a folder, a YAML file was expected") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path}: not a text file; is this the model? Settings are YAML") from None


def _syntax_message(path: Path, error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    line = "" if mark is None else f" line {mark.line + 1}"
    return f"{path}{line}: not valid YAML: {problem}"


def _kind(data: Any) -> str:
    return {list: "list", str: "text", int: "number", float: "number", bool: "truth value"}.get(type(data), "value")


class _Walk:
    """Turns the node tree into plain data and notes the line of each key."""

    def __init__(self, path: Path, loader: _Loader) -> None:
        self.path, self.loader = path, loader
        self.lines: dict[Location, int] = {}
        self._nodes = 0

    def document(self) -> dict[str, Any]:
        """The data of the only document in the text."""
        node = self.loader.get_single_node()
        data = {} if node is None else self.build(node, ())
        if node is not None and not isinstance(data, dict):
            raise SettingsError(f"{self._at(node)}: settings are written as 'key: value' lines, found a {_kind(data)}")
        return data

    def build(self, node: yaml.Node, location: Location) -> Any:
        self._nodes += 1
        if len(location) > _MAX_DEPTH or self._nodes > _MAX_NODES:
            raise SettingsError(f"{self._at(node)}: {_TOO_MUCH}")
        if not node.tag.startswith(_PLAIN_TAGS):
            raise SettingsError(f"{self._at(node)}: the tag {node.tag} is not allowed, settings are plain values")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, location)
        if isinstance(node, yaml.SequenceNode):
            return [self._item(child, (*location, i)) for i, child in enumerate(node.value)]
        return self._scalar(node)

    def _mapping(self, node: yaml.MappingNode, location: Location) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == _MERGE:
                raise SettingsError(f"{self._at(key_node)}: a key is one word, and << is not supported")
            key = key_node.value  # not constructed: a key `on` or `y` stays text
            if key in data:
                raise SettingsError(f"{self._at(key_node)}: '{key}' is given twice")
            self.lines[(*location, key)] = key_node.start_mark.line + 1
            data[key] = self.build(value_node, (*location, key))
        return data

    def _item(self, node: yaml.Node, location: Location) -> Any:
        self.lines[location] = node.start_mark.line + 1
        return self.build(node, location)

    def _scalar(self, node: yaml.Node) -> Any:
        try:
            return self.loader.construct_object(node)
        except ValueError as error:  # a date such as 2024-99-99, a number of 5,000 digits
            raise SettingsError(f"{self._at(node)}: {node.value[:40]} is no value: {str(error)[:60]}") from error
        except (LookupError, AttributeError):  # a text behind a tag that promises something else
            kind = node.tag.rpartition(":")[2]
            raise SettingsError(f"{self._at(node)}: '{node.value[:40]}' is no {kind}") from None

    def _at(self, node: yaml.Node) -> str:
        return f"{self.path} line {node.start_mark.line + 1}"
