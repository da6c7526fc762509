"""Which rule holds for which tensor: globs and regular expressions over dotted names; the first match decides."""

import fnmatch
from collections.abc import Iterable, Sequence

from hmcompress.errors import SettingsError
from hmcompress.settings.config import LayerRule, Settings
from hmcompress.settings.patterns import matches, quick_patterns, slow_patterns
from hmcompress.settings.settings_errors import did_you_mean


def dropped(names: Iterable[str], settings: Settings) -> tuple[str, ...]:
    """The names that `drop` leaves out of the file, in order."""
    return tuple(name for name in names if any(matches(pattern, name) for pattern in settings.drop))


def check_quick(settings: Settings) -> None:
    """Raise SettingsError where the settings in a file bring a pattern that is not run: before it would be."""
    if slow := slow_patterns(settings.to_json()):
        raise SettingsError(f"the file's pattern {slow[0][:60]!r} is not run: it could take for ever to match")


def with_quick_patterns(settings: Settings, names: Sequence[str]) -> Settings:
    """The same choices by patterns that a reader of the file may run, and by names where they are too slow."""
    data = settings.to_json()
    quick = quick_patterns(data, names)
    if quick == data:
        return settings
    return Settings.from_json(quick).model_copy(update={"jobs": settings.jobs, "device": settings.device})


def check_patterns(names: Sequence[str], settings: Settings) -> None:
    """Raise SettingsError for the first pattern that matches no name; it says where the pattern stands."""
    for i, rule in enumerate(settings.layers):
        _check(rule.match, names, settings.where("layers", i, "match"))
    for key in ("include", "exclude", "drop"):
        for i, pattern in enumerate(getattr(settings, key)):
            _check(pattern, names, settings.where(key, i))


def rule_for(name: str, settings: Settings) -> LayerRule:
    """What holds for one tensor: the first of `layers` that matches, completed by the settings of the file.

    `exclude`, and `include` where it is given, turn what they leave out into `keep`.
    """
    left_out = bool(settings.include) and not any(matches(pattern, name) for pattern in settings.include)
    if left_out or any(matches(pattern, name) for pattern in settings.exclude):
        return LayerRule(match=name, keep=True)
    rule = next((rule for rule in settings.layers if matches(rule.match, name)), LayerRule(match=name))
    return rule.model_copy(update={"tol": rule.tol or settings.tol, "norm": rule.norm or settings.norm})


def rule_of(names: Sequence[str], settings: Settings) -> LayerRule:
    """What holds for a tensor with several names, its own first: the strictest of what is said of any of them."""
    said = [rule_for(name, settings) for name in names if _is_said(name, settings)]
    return min(said or [rule_for(names[0], settings)], key=lambda rule: (not rule.keep, rule.tol))


def has_own_tolerance(rule: LayerRule, settings: Settings) -> bool:
    """Whether a rule in the settings, which `rule` was completed from, gives a tolerance."""
    return any(given.match == rule.match and given.tol is not None for given in settings.layers)


def _is_said(name: str, settings: Settings) -> bool:
    patterns = (*(rule.match for rule in settings.layers), *settings.include, *settings.exclude)
    return any(matches(pattern, name) for pattern in patterns)


def _check(pattern: str, names: Sequence[str], where: str) -> None:
    try:
        found = any(matches(pattern, name) for name in names)
    except SettingsError as error:
        raise SettingsError(f"{where}: {error}") from None
    if not found:
        raise SettingsError(f"{where}: '{pattern}' matches no tensor, {_hint(pattern, names)}")


def _hint(pattern: str, names: Sequence[str]) -> str:
    below = f"{pattern}.*"
    if any(fnmatch.fnmatchcase(name, below) for name in names):
        return f"did you mean '{below}'?"
    shown = names if len(names) <= 8 else [*names[:6], f"... ({len(names)} in all)"]
    return did_you_mean(pattern, names, f"the tensors are {', '.join(shown)}")
