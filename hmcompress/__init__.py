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
    from hmcompress.hmatrix import HMatrix, compress_matrix
    from hmcompress.nn import load_model
    from hmcompress.pipeline import (
        bench,
        compress,
        decompress,
        export,
        load_checkpoint,
        load_state_dict,
        read_report,
        verify,
    )

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

_HOMES = {"HMatrix": "hmatrix", "compress_matrix": "hmatrix", "load_model": "nn"}
_HOMES |= dict.fromkeys(
    ("bench", "compress", "decompress", "export", "load_checkpoint", "load_state_dict", "read_report", "verify"),
    "pipeline",
)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hmcompress' has no attribute {name!r}")
    return getattr(load(f"hmcompress.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
