"""Which form of a layer runs fastest on this machine: measured side by side with dense, at each batch size."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

import torch
from torch import Tensor, nn

_SLAB = 2**24  # numbers of the dense weight that stands for a larger one
_SECONDS = 0.15  # spent on one form at one batch size, unless a few rounds take longer
_ROUNDS = (5, 200)
_WARM_UP = 2
_MARGIN = 1.1  # how much faster than dense a form must look to be taken: timings have noise


@dataclass(frozen=True)
class Timing:
    """Seconds of a forward pass at one batch size: dense, and the form, measured by turns."""

    batch: int
    dense: float
    form: float

    @property
    def speedup(self) -> float:
        return self.dense / self.form


@dataclass
class Stopwatch:
    """Times forms against dense; each pair of shapes, form and batch size is measured once."""

    batches: Sequence[int]
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    _known: dict[tuple, tuple[Timing, ...]] = field(default_factory=dict)

    def timings(self, form: nn.Module, dtype: torch.dtype) -> tuple[Timing, ...]:
        """One timing for each batch size against a dense layer of the same shape."""
        key = (str(form), dtype)
        if key not in self._known:
            self._known[key] = tuple(self._timing(form, batch, dtype) for batch in self.batches)
        return self._known[key]

    def fastest(self, forms: Sequence[nn.Module], dtype: torch.dtype) -> nn.Module | None:
        """The form that is fastest over all batch sizes among those faster than dense at each; None where none is."""
        timed = [(self.timings(form, dtype), form) for form in forms]
        safe = [(t, form) for t, form in timed if min(each.speedup for each in t) >= _MARGIN]
        return max(safe, key=lambda pair: sum(math.log(t.speedup) for t in pair[0]))[1] if safe else None

    def _timing(self, form: nn.Module, batch: int, dtype: torch.dtype) -> Timing:
        m, n = form.out_features, form.in_features
        assert isinstance(m, int) and isinstance(n, int)
        rows = min(m, max(1, _SLAB // n))
        dense = nn.Linear(n, rows, device=self.device, dtype=dtype)
        x = torch.randn(batch, n, device=self.device, dtype=dtype)
        slab, seconds = by_turns([(dense, (x,)), (form, (x,))])
        return Timing(batch, slab * m / rows, seconds)


Run = tuple[nn.Module, tuple[Tensor, ...]]  # a module and its inputs


def by_turns(runs: Sequence[Run]) -> list[float]:
    """Median seconds of a forward pass of each module on its inputs, one after the other, many times."""
    for run in runs:
        for _ in range(_WARM_UP):
            _seconds(run)
    slowest = max(map(_seconds, runs))
    rounds = int(min(max(_SECONDS / max(slowest, 1e-9), _ROUNDS[0]), _ROUNDS[1]))
    measured = [[_seconds(run) for run in runs] for _ in range(rounds)]
    return [median(times) for times in zip(*measured, strict=True)]


def _seconds(run: Run) -> float:
    module, inputs = run
    with torch.inference_mode():
        _wait(inputs[0])
        start = time.perf_counter()
        module(*inputs)
        _wait(inputs[0])
        return time.perf_counter() - start


def _wait(x: Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
