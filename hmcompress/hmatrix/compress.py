"""compress_matrix: a matrix and a tolerance in, an HMatrix with its measured error out."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from hmcompress.errors import SettingsError
from hmcompress.hmatrix import exact, tree
from hmcompress.hmatrix.blocks import Leaf, Plan
from hmcompress.hmatrix.codecs import EXACT, TREE
from hmcompress.hmatrix.encode import Options, encode_plan
from hmcompress.hmatrix.hmatrix import HMatrix
from hmcompress.hmatrix.measure import NORMS, measure_error
from hmcompress.hmatrix.order import Natural, Order
from hmcompress.hmatrix.partition import plan_matrix
from hmcompress.hmatrix.screen import has_structure

Array = np.ndarray
_AIM = 0.9985  # of the tolerance: what the search for the step aims at
_ENOUGH = 0.985  # of the tolerance: an error above is close enough
_TRIALS = 12
EFFORTS = ("fast", "default", "max")


def compress_matrix(
    w: Tensor | Array,
    tol: float = 1e-3,
    norm: str = "fro",
    *,
    effort: str = "default",
    grid: tuple[int, int] | None = None,
) -> HMatrix:
    """Compress a matrix so that its relative error, measured on the decoded values, is at most `tol`.

    w: (m, n), any floating dtype. norm: fro (relative Frobenius), spectral (relative 2-norm) or max (largest absolute
    error over largest absolute weight). grid: side lengths (h, w) of the grid whose points the rows are, row-major.
    Raises SettingsError for arguments that make no sense. Where no lossy form is smaller, or no step meets the
    tolerance in the stored dtype, the matrix is stored without loss.
    """
    w = torch.as_tensor(w).detach().cpu()
    _check(w, tol, norm, effort)
    task = _Task(w, tol, norm, effort)
    if w.numel() == 0 or not bool(torch.isfinite(w).all()):
        return task.exact()
    lossy = _smallest(task)
    if lossy is not None and lossy.nbytes < _lossless_floor(w):
        return lossy
    plain = task.exact()
    return lossy if lossy is not None and lossy.nbytes < plain.nbytes else plain


def _check(w: Tensor, tol: float, norm: str, effort: str) -> None:
    if w.ndim != 2 or not w.is_floating_point():
        raise SettingsError(f"compress_matrix takes a floating matrix (m, n), got {tuple(w.shape)} of {w.dtype}")
    if not 0 < tol < 1:
        raise SettingsError(f"tol is {tol}: it must lie between 0 and 1")
    if norm not in NORMS:
        raise SettingsError(f"norm {norm!r} is unknown: use one of {', '.join(NORMS)}")
    if effort not in EFFORTS:
        raise SettingsError(f"effort {effort!r} is unknown: use one of {', '.join(EFFORTS)}")


@dataclass(frozen=True)
class _Task:
    """One matrix and what is asked of it."""

    w: Tensor
    tol: float
    norm: str
    effort: str

    def exact(self) -> HMatrix:
        payload = bytes([EXACT]) + exact.encode(self.w, self.effort)
        return HMatrix(tuple(self.w.shape), self.w.dtype, payload, self.tol, self.norm, 0.0, 0.0)

    def measured(self, payload: bytes) -> HMatrix:
        matrix = HMatrix(tuple(self.w.shape), self.w.dtype, payload, self.tol, self.norm)
        error, largest = measure_error(self.w, matrix.to_dense(), self.norm)
        return replace(matrix, error=error, max_abs_error=largest)


def _lossless_floor(w: Tensor) -> int:
    """Bytes below which a lossless form is not worth trying."""
    bits = {torch.float64: 44, torch.float32: 20, torch.bfloat16: 9, torch.float16: 9}.get(w.dtype, 0)
    return w.numel() * bits // 8


def _smallest(task: _Task) -> HMatrix | None:
    """The smallest lossy form that keeps the bound, or None."""
    values = task.w.double().numpy()
    if not values.any():
        return task.measured(bytes([TREE]) + tree.encode(Leaf(), _zero_leaf(values), 0.0, Natural(), Natural(), "fast"))
    options = Options(every=task.norm == "max", smooth=task.effort != "fast")
    start = _first_step(values, task)
    found = []
    for plan in _plans(values / start, task, options):
        found.append(_tune(task, values, plan, start, options))
    kept = [m for m in found if m is not None]
    return min(kept, key=lambda m: m.nbytes, default=None)


def _zero_leaf(values: Array):
    return encode_plan(values, Leaf(), Options())


def _plans(a: Array, task: _Task, options: Options) -> list[Plan]:
    """Plain quantisation, and the best tree where a cheap look finds structure."""
    plain = Leaf(0, True)
    if task.effort == "fast" or not has_structure(a):
        return [plain]
    plan, _ = plan_matrix(a, options.smooth)
    plan = _with_remainders(plan) if options.every else plan
    return [plain] if plan == plain else [plan, plain]


def _with_remainders(plan: Plan) -> Plan:
    if isinstance(plan, Leaf):
        return replace(plan, remainder=True)
    children = getattr(plan, "children", None)
    return plan if children is None else replace(plan, children=tuple(map(_with_remainders, children)))


def _first_step(values: Array, task: _Task) -> float:
    m, n = values.shape
    if task.norm == "max":
        return 2 * task.tol * float(np.abs(values).max())
    frobenius = float(np.linalg.norm(values))
    if task.norm == "fro":
        return task.tol * frobenius / math.sqrt(m * n) * math.sqrt(12)
    scale = measure_error(torch.zeros(m, n), torch.from_numpy(values), "spectral")
    spectral = _spectral(values)
    return task.tol * spectral / (math.sqrt(m) + math.sqrt(n)) * math.sqrt(12) if scale else 0.0


def _spectral(values: Array) -> float:
    from hmcompress.hmatrix.measure import spectral_norm

    return spectral_norm(torch.from_numpy(values))


def _tune(
    task: _Task, values: Array, plan: Plan, step: float, options: Options
) -> HMatrix | None:
    """Search the step whose measured error lies just under the tolerance."""
    best: HMatrix | None = None
    low, high = 0.0, math.inf  # steps known to keep and to break the bound
    natural: Order = Natural()
    for _ in range(_TRIALS):
        step = float(np.float32(step))
        if step <= 0 or not math.isfinite(step):
            break
        leaves = encode_plan(values / step, plan, options)
        payload = bytes([TREE]) + tree.encode(plan, leaves, step, natural, natural, task.effort)
        matrix = task.measured(payload)
        if matrix.error <= task.tol:
            low = max(low, step)
            if best is None or matrix.nbytes <= best.nbytes:
                best = matrix
            if matrix.error >= _ENOUGH * task.tol:
                break
        else:
            high = min(high, step)
        step = _next_step(step, matrix.error / task.tol, low, high)
    return best


def _next_step(step: float, ratio: float, low: float, high: float) -> float:
    """Proportional to the error, kept between the steps already tried."""
    guess = step * min(max(_AIM / max(ratio, 1e-9), 0.25), 4)
    if low > 0 and math.isfinite(high) and not low * 1.001 < guess < high * 0.999:
        guess = math.sqrt(low * high)
    return guess


Callback = Callable[[int], None]
