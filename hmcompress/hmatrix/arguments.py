"""What compress_matrix is given: told in one line where it makes no sense."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from hmcompress.errors import SettingsError
from hmcompress.hmatrix.basics.measure import NORMS
from hmcompress.hmatrix.multiply import tensor_of

EFFORTS = ("fast", "default", "max")
_TAKES = "compress_matrix takes a matrix (m, n) of 16 to 64 bit floats, got"


def matrix_of(values: Any) -> Tensor:
    """A matrix, on the device that it lies on. Raises SettingsError."""
    try:
        w = tensor_of(values).detach().resolve_neg()
    except (RuntimeError, TypeError, ValueError):  # text, objects, nothing
        kind = values.dtype if isinstance(values, np.ndarray) else type(values).__name__
        raise SettingsError(f"{_TAKES} {kind}") from None
    odd = "" if w.layout == torch.strided and not w.is_meta else f", {w.layout} on {w.device}"
    if w.ndim != 2 or not w.is_floating_point() or w.element_size() < 2 or odd:
        raise SettingsError(f"{_TAKES} {tuple(w.shape)} of {w.dtype}{odd}")
    return w


def check(w: Tensor, tol: Any, norm: str, effort: str, grid: Any, kernel: int) -> None:
    """Raise SettingsError for arguments that make no sense."""
    if not hasattr(tol, "__float__") or not 0 < tol < 1:
        raise SettingsError(f"tol is {tol!r}: it must lie between 0 and 1")
    if norm not in NORMS:
        raise SettingsError(f"norm {norm!r} is unknown: use one of {', '.join(NORMS)}")
    if effort not in EFFORTS:
        raise SettingsError(f"effort {effort!r} is unknown: use one of {', '.join(EFFORTS)}")
    if grid is not None and not _is_grid(grid):
        raise SettingsError(f"grid is {grid!r}: it takes two whole numbers, the sides of the grid")
    if kernel < 1 or w.shape[1] % kernel:
        raise SettingsError(f"kernel is {kernel}: it must divide the {w.shape[1]} columns of the matrix")


def _is_grid(grid: Any) -> bool:
    return isinstance(grid, (tuple, list)) and len(grid) == 2 and all(isinstance(n, int) and n > 0 for n in grid)
