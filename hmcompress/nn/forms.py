"""The form that each layer of a file runs in: dense, a low-rank pair or a hierarchy, whichever is fastest here."""

import math
from dataclasses import dataclass

import torch

from hmcompress.container import CompressedFile, LayerRow
from hmcompress.nn.choose import Stopwatch, Timing
from hmcompress.nn.linear import LowRankLinear
from hmcompress.nn.memory import resident_bytes
from hmcompress.nn.rebuild import RunningForm, read, running_forms
from hmcompress.settings.config import Settings

BATCHES = (1, 16, 256)
SLACK = 0.5  # what a running form may add to a layer's error, in units of its tolerance
_OUTPUTS = 0.1  # the same where the tolerance is one of the outputs: weights must be closer than outputs
_SMALLEST = 2**16  # weights of a layer that may gain by another form
_RATIO = 6.0  # how much smaller than float32 a layer must be stored to have a form with far fewer numbers


@dataclass(frozen=True)
class LoadedLayer:
    """A layer of the file in the module: its form (dense, low_rank or hmatrix), memory, and error added to the file's.

    `extra_error` is the measured relative Frobenius error against the stored matrix; 0 for dense.
    """

    name: str
    place: str
    form: str
    bytes: int
    dense_bytes: int
    extra_error: float = 0.0
    timings: tuple[Timing, ...] = ()


class LayerForms:
    """Finds the fastest form of each layer of a file."""

    def __init__(self, compressed: CompressedFile, watch: Stopwatch, slack: float = SLACK) -> None:
        self._compressed, self._watch, self._slack = compressed, watch, slack
        self._settings = Settings.from_json(compressed.index.info.settings)

    def fastest(self, row: LayerRow, dtype: torch.dtype) -> RunningForm | None:
        """The fastest form of a layer for weights of a dtype; None where that is dense, or no other is possible."""
        shape, extra = self._compressed.index.shapes[row.name], self._extra(row)
        if len(shape) != 2 or extra == 0:
            return None
        if math.prod(shape) < _SMALLEST or 4 * math.prod(shape) < _RATIO * row.nbytes:
            return None
        has_bias = len(row.tensors) == 2
        size = (shape[0], shape[1] + has_bias)
        stored = read(self._compressed.payload(row), size, self._compressed.index.dtypes[row.name], has_bias)
        if stored is None:
            return None
        forms = running_forms(stored, extra, dtype)
        best = self._watch.fastest([form.module.to(self._watch.device) for form in forms], dtype)
        return next((form for form in forms if form.module is best), None)

    def record(self, row: LayerRow, place: str, form: RunningForm | None) -> LoadedLayer:
        """What a report says about a layer in the form that was taken."""
        shapes, size = self._compressed.index.shapes, self._compressed.index.dtypes[row.name].itemsize
        dense = sum(size * math.prod(shapes[name]) for name in row.tensors)
        if form is None:
            return LoadedLayer(row.name, place, "dense", dense, dense)
        name = "low_rank" if isinstance(form.module, LowRankLinear) else "hmatrix"
        dtype = next(form.module.parameters()).dtype
        held = resident_bytes(form.module)
        return LoadedLayer(row.name, place, name, held, dense, form.error, self._watch.timings(form.module, dtype))

    def _extra(self, row: LayerRow) -> float:
        """Relative Frobenius error that a form of a layer may add."""
        if row.norm != "fro":
            return 0.0
        return self._slack * (row.tol if row.tol is not None else _OUTPUTS * self._settings.tol)
