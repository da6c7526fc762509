"""Settings: frozen and validated; YAML in, JSON out; the first layer rule that matches decides."""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PureWindowsPath
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, ValidationError, model_validator

from hmcompress.errors import SettingsError
from hmcompress.settings.located_yaml import LocatedYaml, Location, read_yaml
from hmcompress.settings.problem_settings import (
    INPUT_KINDS,
    BuiltinNetwork,
    CalibrationSettings,
    Count,
    FactoryNetwork,
    Frozen,
    Network,
    Ntk,
    Number,
    Patterns,
    Seed,
    Tolerance,
)
from hmcompress.settings.settings_errors import explain

Norm = Literal["fro", "spectral", "max"]
Metric = Literal["weights", "outputs"]
Effort = Literal["fast", "default", "max"]
NORMS, METRICS, EFFORTS = get_args(Norm), get_args(Metric), get_args(Effort)


class LayerRule(Frozen):
    """What to do with the tensors whose dotted name matches; fields left out fall back to the settings of the file."""

    match: str  # a glob over the whole name, or "re:" and a regular expression for the whole name
    tol: Tolerance | None = None
    keep: bool = False  # lossless
    norm: Norm | None = None
    grid: tuple[Count, Count] | None = None  # rows lie on an h x w grid: Morton order is tried


def _device(value: str) -> str:
    if not re.fullmatch(r"(cpu|mps|(cuda|xpu)(:(0|[1-9][0-9]?))?)", value):
        raise ValueError("must be cpu, cuda, cuda:1 or the like")
    return value


def _ntk_switch(value: Any) -> Any:
    """YAML 1.1 reads off as false; both mean off."""
    if value is True or value == "on":
        return Ntk()
    return False if value == "off" else value


def _slim_switch(value: Any) -> Any:
    return "off" if value is False else value


class Settings(Frozen):
    """Everything that decides what a compressed file contains. Build it with `load_settings`."""

    tol: Tolerance = 1e-3
    norm: Norm = "fro"
    metric: Metric = "weights"
    target_ratio: Annotated[Number, Field(gt=1)] | None = None  # whole files; finds the tolerance
    effort: Effort = "default"
    network: Network | None = None
    calibration: CalibrationSettings | None = None
    reference: str | None = None  # file with x and y: exact solutions
    ntk: Annotated[Ntk | Literal[False] | None, BeforeValidator(_ntk_switch)] = None
    slim: Annotated[Literal["off", "prefer"], BeforeValidator(_slim_switch)] = "off"
    layers: tuple[LayerRule, ...] = ()
    include: Patterns = ()
    exclude: Patterns = ()
    drop: Patterns = ()
    jobs: Count | None = None  # tensors at once; None: as many as processors
    device: Annotated[str, AfterValidator(_device)] = "cpu"
    seed: Seed = 0

    _origin: LocatedYaml | None = PrivateAttr(default=None)

    def __eq__(self, other: object) -> bool:
        """Equal values are equal settings, whichever file they were read from."""
        return isinstance(other, Settings) and dict(self) == dict(other)

    __hash__ = None  # type: ignore[assignment]  # domains are dicts

    @model_validator(mode="after")
    def _outputs_need_a_network_and_inputs(self) -> "Settings":
        if self.metric == "outputs" and self.network is None:
            raise ValueError(
                "metric outputs needs a network: give 'network:' in the YAML (mlp, deeponet, linear, factory, "
                "torchscript) or --network PKG.MOD:FACTORY"
            )
        if self.metric == "outputs" and self.calibration is None:
            raise ValueError(
                "metric outputs needs inputs: give 'calibration:' in the YAML (domain, gaussian, inputs) "
                "or --inputs FILE"
            )
        return self

    @property
    def ntk_bound(self) -> Ntk | None:
        """The bound that holds: as set, else the default for built-in networks in the outputs metric, else none."""
        if isinstance(self.ntk, Ntk):
            return self.ntk
        unset = self.ntk is None and self.metric == "outputs"
        return Ntk() if unset and isinstance(self.network, BuiltinNetwork) else None

    def where(self, *location: str | int) -> str:
        """`file.yaml line 7` for a setting such as ("layers", 0), or its name where it came from elsewhere."""
        if self._origin is not None and location[:1] and location[0] in self._origin.data:
            return self._origin.where(location)
        return str(location[0])

    def to_json(self) -> dict[str, Any]:
        """Plain data for the compressed file: what differs from the defaults, without what cannot change a byte."""
        return self.model_dump(mode="json", exclude_defaults=True, exclude={"jobs", "device"})

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Settings":
        """Inverse of to_json. Raises SettingsError."""
        return _validated(dict(data), None)


def load_settings(path: str | os.PathLike[str] | None = None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Settings from a YAML file (or none) and what the caller sets, which wins; None in `overrides` means not set.

    File names in the YAML are looked for beside it, then in the working directory. Raises SettingsError that names
    file, line and remedy.
    """
    origin = None if path is None else read_yaml(path)
    given = {key: value for key, value in (overrides or {}).items() if value is not None}
    _check_target(given, "")
    if origin is None:
        return _of_a_network(_validated(given, None), given)
    _check_target(origin.data, f"{origin.where(('target_ratio',))}: ")
    data = {**_beside(origin.data, origin.path.parent), **given}
    if "tol" in given:
        data.pop("target_ratio", None)
    if isinstance(given.get("calibration"), Mapping):
        data["calibration"] = merged_calibration(origin.data.get("calibration"), given["calibration"])
    if isinstance(given.get("network"), Mapping):
        data["network"] = merged_network(origin.data.get("network"), given["network"])
    kept = {key: value for key, value in origin.data.items() if key not in given}
    return _of_a_network(_validated(data, LocatedYaml(origin.path, kept, origin.lines)), given)


def _check_target(data: Mapping[str, Any], where: str) -> None:
    if data.keys() >= {"tol", "target_ratio"}:
        raise SettingsError(f"{where}give tol or target_ratio, not both: the ratio finds the tolerance")


def _of_a_network(settings: Settings, given: Mapping[str, Any]) -> Settings:
    """The settings, unless the caller names inputs of no network: they were meant for something."""
    if "calibration" in given and settings.network is None:
        raise SettingsError("inputs are those of a network: name it too, with --network or network: in the YAML")
    if isinstance(settings.network, FactoryNetwork) and not _is_factory(settings.network.factory):
        where, name = settings.where("network", "factory"), settings.network.factory
        raise SettingsError(f"{where}: factory {name}: give package.module:function or path/to/file.py:function")
    return settings


def _is_factory(name: str) -> bool:
    return ":" in name and "\0" not in name


def check_files(settings: Settings) -> None:
    """Raise SettingsError that names the line of a file which the outputs metric needs and does not find."""
    placed = settings.to_json() if settings.metric == "outputs" else {}
    for location in _FILES:
        name, where = _at(placed, location), settings.where(*location)
        if isinstance(name, str) and where != location[0] and not Path(name).is_file():
            raise SettingsError(f"{where}: {'.'.join(map(str, location))}: there is no file {name}")


def _at(data: Any, location: Location) -> Any:
    for key in location:
        data = data.get(key) if isinstance(data, Mapping) else None
    return data


def merged_calibration(base: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Another source of inputs replaces the one in the YAML and keeps its samples, seed and derivatives."""
    if not isinstance(base, Mapping):
        return dict(given)
    replaced = any(kind in given for kind in INPUT_KINDS)
    return {k: v for k, v in base.items() if not (replaced and k in INPUT_KINDS)} | dict(given)


def merged_network(base: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Another factory in place of one keeps its prefixes: it makes the same module."""
    both = isinstance(base, Mapping) and "factory" in base and "factory" in given
    return ({"prefix": base["prefix"]} if both and "prefix" in base else {}) | dict(given)


def with_network(settings: Settings, factory: str | None, inputs: str | None, **changed: Any) -> Settings:
    """The settings of a file with a factory and a file of inputs in place of theirs, where given, and other changes."""
    stored = settings.to_json()
    given = {
        "network": factory and merged_network(stored.get("network"), {"factory": factory}),
        "calibration": inputs and merged_calibration(stored.get("calibration"), {"inputs": inputs}),
    }
    return Settings.from_json(stored | changed | {key: value for key, value in given.items() if value})


def looked_up(settings: Settings, folders: Iterable[Path]) -> Settings:
    """The same settings with files that are not where they were, but in one of the folders, named there.

    A reference that is in none is left out: no bound needs it.
    """
    folders = tuple(folders)
    data = _placed(settings.to_json(), lambda name: _file_in(name, folders))
    if not Path(data.get("reference", "")).is_file():
        data.pop("reference", None)
    return Settings.from_json(data)


def _file_in(name: str, folders: tuple[Path, ...]) -> str:
    ends = (name, PureWindowsPath(name).name)  # which takes both kinds of names apart
    found = (folder / end for folder in folders for end in ends)
    return name if Path(name).exists() else str(next((path for path in found if path.is_file()), name))


_FILES: tuple[Location, ...] = (("reference",), ("calibration", "inputs"), ("calibration", "gaussian", "file"))


def _beside(data: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The same data with the files that lie beside the YAML named from the working directory."""
    return _placed(data, lambda name: _file_beside(name, folder))


def _placed(data: Mapping[str, Any], place: Callable[[str], str]) -> dict[str, Any]:
    """The same data with its files, that of a factory too, named as `place` says."""
    found = dict(data)
    for location in _FILES:
        _replace(found, location, place)
    _replace(found, ("network", "factory"), lambda name: _factory_at(name, place))
    return found


def _file_beside(name: str, folder: Path) -> str:
    """The file beside the YAML, unless only the working directory has one of this name."""
    beside = os.path.normpath(folder / name)
    return name if Path(name).exists() and not Path(beside).exists() else beside


def _factory_at(name: str, place: Callable[[str], str]) -> str:
    file, colon, function = name.rpartition(":")
    return f"{place(file)}:{function}" if colon and file.endswith(".py") else name


def _replace(data: dict[str, Any], location: Location, change: Any) -> None:
    head, *rest = location
    value = data.get(str(head))
    if rest and isinstance(value, dict):
        data[str(head)] = dict(value)
        _replace(data[str(head)], tuple(rest), change)
    elif not rest and isinstance(value, str):
        data[str(head)] = change(value)


def _validated(data: dict[str, Any], origin: LocatedYaml | None) -> Settings:
    try:
        settings = Settings.model_validate(data)
    except ValidationError as error:
        raise SettingsError(explain(error, Settings, origin)) from None
    settings._origin = origin
    return settings
