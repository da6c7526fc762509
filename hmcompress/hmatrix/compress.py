"""compress_matrix: a matrix and a tolerance in, an HMatrix with its measured error out."""

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from hmcompress.errors import SettingsError
from hmcompress.hmatrix.basis import BASES
from hmcompress.hmatrix.blocks import Leaf, Plan, Split
from hmcompress.hmatrix.hmatrix import HMatrix
from hmcompress.hmatrix.measure import NORMS, reference
from hmcompress.hmatrix.partition import best_leaf, best_quantized_leaf, plan_matrix
from hmcompress.hmatrix.reweighted import best_reweighted_leaf
from hmcompress.hmatrix.screen import find_structure
from hmcompress.hmatrix.tune import Task, first_step, tune, zero_payload

Array = np.ndarray
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
    task = Task(w, tol, norm, effort, reference(w, norm) if w.numel() else 0.0)
    if w.numel() == 0 or not math.isfinite(task.size):
        return task.exact()
    lossy = _smallest(task, grid)
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


def _lossless_floor(w: Tensor) -> int:
    """Bytes below which a lossless form is not worth trying."""
    bits = {torch.float64: 44, torch.float32: 20, torch.bfloat16: 9, torch.float16: 9}.get(w.dtype, 0)
    return w.numel() * bits // 8


def _smallest(task: Task, grid: tuple[int, int] | None) -> HMatrix | None:
    """The smallest lossy form that keeps the bound, or None."""
    if task.size == 0:
        return task.measured(zero_payload())
    values = task.w.numpy() if task.w.dtype in (torch.float32, torch.float64) else task.w.float().numpy()
    step = first_step(task)
    found = [tune(task, values, plan, step) for plan in _plans(values, step, task)]
    return min((m for m in found if m is not None), key=lambda m: m.nbytes, default=None)


def _plans(values: Array, step: float, task: Task) -> list[Plan]:
    """Quantisation as one leaf, and the best tree where a cheap look finds structure."""
    plain = Leaf(0, True)
    structure = find_structure(values, step) if task.effort != "fast" else None
    if structure is None or not structure.is_global(task.effort):
        return [plain]
    a = values.astype(np.float64) / step
    leaf, cost = best_quantized_leaf(a)
    reweighted = best_reweighted_leaf(a, cost)
    plans = [leaf, plain, best_leaf(a)] + ([reweighted] if reweighted is not None else [])
    if structure.is_local(task.effort):
        plan, _ = plan_matrix(a, repeats=structure.repeats)
        plans.append(_with_remainders(plan) if task.norm == "max" else plan)
    if task.norm == "max":
        plans = [p for p in plans if not isinstance(p, Leaf) or (p.remainder and BASES[p.basis].keeps_entries)]
    return list(dict.fromkeys(plans))


def _with_remainders(plan: Plan) -> Plan:
    """The same tree with a remainder on every leaf, so that no entry is left to a truncated tail."""
    if isinstance(plan, Leaf):
        return replace(plan, remainder=True)
    return Split(tuple(map(_with_remainders, plan.children))) if isinstance(plan, Split) else plan
