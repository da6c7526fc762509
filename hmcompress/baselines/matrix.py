"""What every peer is given: a matrix, its measured error against decoded values, and its SVD when one is needed."""

import math
from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hmcompress.hmatrix.basics.measure import measure_error


@dataclass(frozen=True)
class Matrix:
    """A layer as a matrix (m, n) of any floating dtype."""

    w: Tensor
    memo: dict[Hashable, Any] = field(
        default_factory=dict, compare=False, repr=False
    )  # what peers found, and ask again

    @property
    def shape(self) -> tuple[int, int]:
        return self.w.shape[0], self.w.shape[1]

    @property
    def nbytes(self) -> int:
        return self.w.numel() * self.w.element_size()

    @cached_property
    def values(self) -> np.ndarray:
        """(m, n) array in which the peers compute: float64 for float64 weights, else float32."""
        wide = torch.float64 if self.w.dtype == torch.float64 else torch.float32
        return self.w.to(wide).contiguous().numpy()

    @cached_property
    def norm(self) -> float:
        """Frobenius norm; nan or inf where an entry is."""
        return float(self.w.double().norm())

    @property
    def rms(self) -> float:
        return self.norm / math.sqrt(self.w.numel()) if self.w.numel() else 0.0

    @property
    def is_codable(self) -> bool:
        """Whether a relative error means anything: finite and not all zero."""
        return math.isfinite(self.norm) and self.norm > 0

    @cached_property
    def svd(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """u (m, k), s (k,), vt (k, n) in float64, k = min(m, n)."""
        u, s, vt = torch.linalg.svd(self.w.double(), full_matrices=False)
        return u.numpy(), s.numpy(), vt.numpy()

    def error(self, decoded: np.ndarray) -> float:
        """Relative Frobenius error of decoded values once they are cast to the stored dtype, in float64."""
        return self.error_of(torch.from_numpy(decoded).to(self.w.dtype))

    def error_of(self, decoded: Tensor) -> float:
        """The same for weights in the stored dtype."""
        return measure_error(self.w, decoded, "fro")[0]
