"""Patterns over dotted names: globs, and regular expressions behind `re:`. Which of them may come from a file."""

import fnmatch
import glob
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from hmcompress.errors import SettingsError

_FAULTS = (re.error, OverflowError, RecursionError)  # of what is no regular expression
_CHOICES = re.compile(r"[*+?{|]")  # where a match can be tried in another way
_REPEATED_GROUP = re.compile(r"\)[*+?{]")
_SPECIAL = re.compile(r"\(\?[^:=!]")  # flags and comments: behind (?x) and (?#) what repeats a group stands elsewhere
_MOST_CHOICES = 3
_AGAIN = ("drop", "layers", "slopes")  # settings whose patterns are matched again when a compressed file is read


def matches(pattern: str, name: str) -> bool:
    """Whether a glob, or `re:` and a regular expression, matches the whole name. Raises SettingsError."""
    if not pattern.startswith("re:"):
        return fnmatch.fnmatchcase(name, pattern)
    try:
        return re.fullmatch(pattern[3:], name) is not None
    except _FAULTS as error:
        raise SettingsError(f"'{pattern}' is not a regular expression: {error}") from None


def is_quick(pattern: str) -> bool:
    """Whether a match takes at most cubic time in the length of the name: globs do, few regular expressions do.

    Others can be made to take for ever, so they are not run where a file brings them along.
    """
    if not pattern.startswith("re:"):
        return True
    try:
        re.compile(pattern[3:])
    except _FAULTS:
        return False
    few = len(_CHOICES.findall(pattern)) <= _MOST_CHOICES
    return few and not _REPEATED_GROUP.search(pattern) and not _SPECIAL.search(pattern)


def quick_patterns(settings: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Settings as JSON for a file: patterns that are matched again and are not quick become the names they match."""

    def quick(pattern: str) -> Iterable[str]:
        return [pattern] if is_quick(pattern) else [glob.escape(name) for name in names if matches(pattern, name)]

    return _changed(settings, quick)


def slow_patterns(settings: Mapping[str, Any]) -> list[str]:
    """The patterns in a file's settings that would be matched again and are not quick."""
    found: list[str] = []

    def note(pattern: str) -> Iterable[str]:
        found.append(pattern)
        return ()

    _changed(settings, note)
    return [pattern for pattern in found if not is_quick(pattern)]


def _changed(settings: Mapping[str, Any], change: Callable[[str], Iterable[str]]) -> dict[str, Any]:
    """Settings with each pattern that is matched again replaced; rules, which are not, and all else as they are."""
    made: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            made[key] = _changed(value, change)
        elif key in _AGAIN and isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
            made[key] = [new for pattern in value for new in change(pattern)]
        else:
            made[key] = value
    return made
