"""Code that a compressed file names: run only where it is the user's own."""

import os
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

from hmcompress.errors import SettingsError

_INSTALLED = [Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "platstdlib", "purelib", "platlib")]
_PACKAGES = {"site-packages", "dist-packages"}


def check_code(factory: str, source: str | os.PathLike | None = None) -> None:
    """Raise SettingsError unless a file's factory lies below the working directory or beside the source, if any.

    A file may name any function of any installed module, and to check the network is to call it.
    """
    code = _place_of(factory.rpartition(":")[0])
    folders = [Path.cwd()] if source is None else [Path.cwd(), Path(source).resolve().parent]
    if code is not None and (_is_installed(code) or not any(code.is_relative_to(folder) for folder in folders)):
        outside = (
            "does not lie in this folder" if source is None else "lies neither in this folder nor beside the source"
        )
        raise SettingsError(
            f"the file names code to run, {factory}, which {outside}: if you trust it, give it as --network {factory}"
        )


def _place_of(module: str) -> Path | None:
    """Where a module's code lies, told without running it; None where the search path has none of this name."""
    if module.endswith(".py"):
        return Path(module).resolve()
    name = module.partition(".")[0]
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):  # __main__, or a module that the calling program made
        file = getattr(sys.modules.get(name), "__file__", None)
        return Path(file).resolve() if file else None
    if spec is None:
        return None
    if spec.origin is not None and spec.has_location:
        return Path(spec.origin).resolve()
    folders = list(spec.submodule_search_locations or ())
    return Path(folders[0]).resolve() if folders else _INSTALLED[0]  # built in, or frozen into Python


def _is_installed(code: Path) -> bool:
    return bool(_PACKAGES & set(code.parts)) or any(code.is_relative_to(folder) for folder in _INSTALLED)
