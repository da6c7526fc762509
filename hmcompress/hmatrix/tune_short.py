"""The step of weights of 16 bits whose tolerance is near their own resolution."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from hmcompress.coding.sample import jittered
from hmcompress.hmatrix.codecs import SHORT_FLOATS
from hmcompress.hmatrix.hmatrix import HMatrix
from hmcompress.hmatrix.measure import relative_error
from hmcompress.hmatrix.short_floats import Rungs, encode, short_dtype
from hmcompress.hmatrix.tune import Task, first_step

_LEAST = 1 << 10  # entries
_SAMPLE = 1 << 14
_AT_ONCE = 1 << 20  # entries that are decoded for their error
_KEPT = 0.02  # share of entries that are kept as they are below which there is little to gain
_GAIN = 0.995  # of the bytes of another form, which decodes faster
_HALVINGS, _OCTAVES = 12, 12.0  # of the bracket of the step; by how much it may exceed the step of plain quantisation
_AIM, _TRIALS = 0.998, 5  # of the tolerance; measured errors may be a little above the sample's


def tune_short_floats(task: Task, best: HMatrix | None) -> HMatrix | None:
    """`best`, or the matrix with its large entries as they are where that is smaller."""
    if task.effort == "fast" or task.norm != "fro" or task.w.numel() < _LEAST or task.size == 0:
        return best
    dtype = short_dtype(task.w)
    return best if dtype is None else _tuned(task, dtype, best)


def _tuned(task: Task, dtype: torch.dtype, best: HMatrix | None) -> HMatrix | None:
    step = _likely_step(task, dtype)
    if step and best is not None:
        best.forget()  # these layers may be the largest of all
    for trial in range(_TRIALS if step else 0):
        rungs = Rungs.at(float(np.float32(step)), dtype)
        if rungs is None:
            return best
        error = _error(task, rungs) if trial < _TRIALS - 1 else 0.0  # the codec may lose more: it leaves small rows out
        if error <= task.tol:
            found = _smaller(task, rungs, best)
            if found is None or found.error <= task.tol:
                return found or best
            error = found.error
        step *= _AIM * task.tol / error
    return best


def _error(task: Task, rungs: Rungs) -> float:
    return relative_error(task.w, _decoded(task.w, rungs), task.norm, task.size)[0]


def _decoded(w: Tensor, rungs: Rungs) -> Iterator[Tensor]:
    """What is left of some rows of w (m, n) after the other."""
    for rows in w.split(max(1, _AT_ONCE // w.shape[1])):
        flat = rows.to(rungs.dtype).reshape(-1)
        yield rungs.values(rungs.numbers(flat)).reshape(rows.shape).to(w.dtype)


def _smaller(task: Task, rungs: Rungs, best: HMatrix | None) -> HMatrix | None:
    """The matrix of these rungs if it is smaller than `best`."""
    payload = bytes([SHORT_FLOATS]) + encode(task.w, rungs)
    limit = math.inf if best is None else best.nbytes * (1 if task.effort == "max" else _GAIN)
    return task.measured(payload) if len(payload) < limit else None


def _likely_step(task: Task, dtype: torch.dtype) -> float:
    """The step at which a sample's error is the tolerance; 0 where few entries would be kept as they are."""
    flat = task.w.reshape(-1)
    sample = flat[torch.from_numpy(jittered(flat.numel(), max(1, flat.numel() // _SAMPLE)))].to(dtype)
    mean = (_AIM * task.tol * task.size) ** 2 / flat.numel()
    low, octaves = first_step(task), _OCTAVES
    rungs = Rungs.at(low, dtype)
    if rungs is None or float((sample.float().abs() >= rungs.top).float().mean()) < _KEPT:
        return 0.0
    for _ in range(_HALVINGS):
        octaves /= 2
        higher = low * 2**octaves
        low = higher if _mean_square(sample, higher, dtype) <= mean else low
    return low


def _mean_square(sample: Tensor, step: float, dtype: torch.dtype) -> float:
    rungs = Rungs.at(step, dtype)
    if rungs is None:
        return math.inf
    return float((rungs.values(rungs.numbers(sample)).double() - sample.double()).square().mean())
