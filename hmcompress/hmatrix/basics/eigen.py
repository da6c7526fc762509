"""Eigenvalues and eigenvectors of stacks of symmetric matrices (..., n, n), ascending.

Some builds of LAPACK do not converge, or answer nan, where most rows are zero, as they are where columns of weights
were pruned. numpy brings another build.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


def eigenvalues(a: Tensor) -> Tensor:
    """(..., n)."""
    return _first_finite(a, torch.linalg.eigvalsh, np.linalg.eigvalsh)


def eigenvectors(a: Tensor) -> Tensor:
    """(..., n, n), as columns."""
    return _first_finite(a, lambda x: torch.linalg.eigh(x)[1], lambda x: np.linalg.eigh(x)[1])


def _first_finite(a: Tensor, usual: Callable[[Tensor], Tensor], other: Callable[[np.ndarray], np.ndarray]) -> Tensor:
    try:
        found = usual(a)
    except torch.linalg.LinAlgError:
        found = torch.full((1,), torch.nan)
    return found if bool(found.isfinite().all()) else torch.from_numpy(other(a.numpy()))
