"""Make saved PyTorch models much smaller, with an error that is bounded, measured and checkable."""

from typing import TYPE_CHECKING, Any

from hmcompress.errors import (
    BoundError,
    FormatError,
    HMCompressError,
    NetworkError,
    OutputError,
    SettingsError,
    SourceError,
)
from hmcompress.late import load

if TYPE_CHECKING:
    from hmcompress.commands.exporting import export
    from hmcompress.commands.timing import bench
    from hmcompress.hmatrix import HMatrix, compress_matrix
    from hmcompress.nn import load_model
    from hmcompress.pipeline import compress, decompress, load_checkpoint, load_state_dict, read_report, verify

__all__ = [
    "BoundError",
    "FormatError",
    "HMCompressError",
    "HMatrix",
    "NetworkError",
    "OutputError",
    "SettingsError",
    "SourceError",
    "bench",
    "compress",
    "compress_matrix",
    "decompress",
    "export",
    "load_checkpoint",
    "load_model",
    "load_state_dict",
    "read_report",
    "verify",
]

_HOMES = {
    "hmatrix": ("HMatrix", "compress_matrix"),
    "nn": ("load_model",),
    "pipeline": ("compress", "decompress", "load_checkpoint", "load_state_dict", "read_report", "verify"),
    "commands.exporting": ("export",),
    "commands.timing": ("bench",),
}


def __getattr__(name: str) -> Any:
    home = next((home for home, names in _HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module 'hmcompress' has no attribute {name!r}")
    return getattr(load(f"hmcompress.{home}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
