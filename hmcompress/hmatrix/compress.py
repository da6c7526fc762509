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
from hmcompress.hmatrix.measure import NORMS, Norm, reference
from hmcompress.hmatrix.order import Natural, Order, Permuted, morton_order
from hmcompress.hmatrix.partition import best_leaf, best_quantized_leaf, plan_matrix
from hmcompress.hmatrix.reweighted import best_reweighted_leaf
from hmcompress.hmatrix.screen import Structure, find_structure
from hmcompress.hmatrix.seriation import cluster_orders
from hmcompress.hmatrix.tune import Candidate, Task, first_step, tune, tune_trellis, zero_payload

Array = np.ndarray
_TRELLIS_ENTRIES = 1 << 12
_TRELLIS_GAIN = 0.25  # bits an entry that a trellis saves at most
_TREES = 2  # so many of the trees found are coded
EFFORTS = ("fast", "default", "max")


def compress_matrix(
    w: Tensor | Array,
    tol: float = 1e-3,
    norm: Norm = "fro",
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
    found = [matrix for matrix in (_smallest(task, grid), task.lattice()) if matrix is not None]
    best = min(found, key=lambda matrix: matrix.nbytes, default=None)
    if best is not None and best.nbytes < _lossless_floor(w):
        return best
    plain = task.exact()
    return best if best is not None and best.nbytes < plain.nbytes else plain


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
    if not 0 < np.float32(step) < math.inf:  # steps are stored as float32
        return None
    tuned = [tune(task, values, candidate, step) for candidate in _candidates(values, step, task, grid)]
    found = [m for m in tuned if m is not None]
    if _suits_trellis(task, tuned[0], found) and (along_trellis := tune_trellis(task, values, step)) is not None:
        found.append(along_trellis)
    return min(found, key=lambda m: m.nbytes, default=None)


def _suits_trellis(task: Task, plain: HMatrix | None, found: list[HMatrix]) -> bool:
    """Whether the trellis is worth its time: where plain quantisation is about the best there is."""
    if task.effort != "max" or task.norm == "max" or plain is None or task.w.numel() < _TRELLIS_ENTRIES:
        return False
    return plain.nbytes - _TRELLIS_GAIN * task.w.numel() / 8 < min(m.nbytes for m in found)


def _candidates(values: Array, step: float, task: Task, grid: tuple[int, int] | None) -> list[Candidate]:
    """Plain quantisation and, where a cheap look finds structure, better leaves, trees and orders."""
    plain = Candidate(Leaf(0, True))
    structure = find_structure(values, step) if task.effort != "fast" else None
    if structure is None or not (structure.is_global(task.effort) or grid):
        return [plain]
    a = values.astype(np.float64) / step
    leaf, cost = best_quantized_leaf(a)
    reweighted = best_reweighted_leaf(a, cost)
    leaves = [leaf, best_leaf(a)] + ([reweighted] if reweighted is not None else [])
    candidates = [plain, *(Candidate(p) for p in leaves if _serves(p, task.norm)), *_trees(a, structure, task, grid)]
    return list(dict.fromkeys(candidates))


def _serves(leaf: Leaf, norm: str) -> bool:
    """Whether a leaf can keep a bound on every entry, where one is asked for."""
    return norm != "max" or (leaf.remainder and BASES[leaf.basis].keeps_entries)


def _trees(a: Array, structure: Structure, task: Task, grid: tuple[int, int] | None) -> list[Candidate]:
    """The best tree in the order as stored, on the grid's Morton curve, and with like rows and columns together."""
    orders: list[tuple[Order, Order]] = [(Natural(), Natural())] if structure.is_local(task.effort) else []
    orders += _grid_orders(a.shape, grid) if grid else []
    orders += _clustered(a, structure) if structure.may_be_shuffled(task.effort) else []
    found = []
    for rows, columns in orders:
        ordered = columns.apply(rows.apply(a, 0), 1)
        plan, cost = plan_matrix(ordered, repeats=find_structure(ordered, 1.0).repeats)
        found.append((cost, Candidate(_with_remainders(plan) if task.norm == "max" else plan, rows, columns)))
    return [candidate for _, candidate in sorted(found, key=lambda f: f[0])[:_TREES]]


def _grid_orders(shape: tuple[int, ...], grid: tuple[int, int]) -> list[tuple[Order, Order]]:
    """Rows, columns or both along the curve: whichever have as many entries as the grid has points."""
    curve, size = morton_order(*grid), grid[0] * grid[1]
    rows, columns = (curve if n == size else Natural() for n in shape)
    if not isinstance(rows, Permuted) and not isinstance(columns, Permuted):
        raise SettingsError(f"grid {grid[0]} x {grid[1]} has {size} points, the layer is {shape[0]} x {shape[1]}")
    return [(rows, columns)]


def _clustered(a: Array, structure: Structure) -> list[tuple[Order, Order]]:
    """Like rows and like columns together, where that brings structure into place."""
    rows, columns = (Permuted(order) for order in cluster_orders(a))
    ordered = find_structure(columns.apply(rows.apply(a, 0), 1), 1.0)
    return [(rows, columns)] if structure.is_plainer_than(ordered) else []


def _with_remainders(plan: Plan) -> Plan:
    """The same tree with a remainder on every leaf, so that no entry is left to a truncated tail."""
    if isinstance(plan, Leaf):
        return replace(plan, remainder=True)
    return Split(tuple(map(_with_remainders, plan.children))) if isinstance(plan, Split) else plan
