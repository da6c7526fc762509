"""Which form of a layer runs fastest on this machine: measured side by side with dense, at each batch size."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

_SLAB = 2**22  # a layer of any size is loaded with little more memory than its form needs
_SECONDS = 0.15  # spent on one form at one batch size, unless a few rounds take longer
_ROUNDS = (9, 200)
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
    """Times forms against dense; each pair of shapes, form and batch size is measured once.

    slab: numbers of the dense weight that stands for a larger one. A small one lies in the cache, and dense looks
    faster than it is.
    """

    batches: Sequence[int]
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    slab: int = _SLAB
    _known: dict[tuple, tuple[Timing, ...]] = field(default_factory=dict)

    def timings(self, form: nn.Module, dtype: torch.dtype) -> tuple[Timing, ...]:
        """One timing for each batch size against a dense layer of the same shape."""
        key = (str(form), dtype)
        if key not in self._known:
            self._known[key] = self._measured(form, dtype)
        return self._known[key]

    def fastest(self, forms: Sequence[nn.Module], dtype: torch.dtype) -> nn.Module | None:
        """The form that is fastest over all batch sizes among those faster than dense at each; None where none is.

        The best of several measurements is a lucky one: the form that wins must be faster when measured once more.
        """
        timed = [(self.timings(form, dtype), form) for form in forms]
        safe = [(_gain(t), k) for k, (t, _) in enumerate(timed) if _is_safe(t)]
        ranked = [timed[k][1] for _, k in sorted(safe, reverse=True)]
        return next((form for form in ranked if _is_safe(self._measured(form, dtype))), None)

    def _measured(self, form: nn.Module, dtype: torch.dtype) -> tuple[Timing, ...]:
        return tuple(self._timing(form, batch, dtype) for batch in self.batches)

    def _timing(self, form: nn.Module, batch: int, dtype: torch.dtype) -> Timing:
        m, n = form.out_features, form.in_features
        assert isinstance(m, int) and isinstance(n, int)
        rows = min(m, max(1, self.slab // n))
        dense = nn.Linear(n, rows, form.bias is not None, device=self.device, dtype=dtype)
        x = torch.randn(batch, n, device=self.device, dtype=dtype)
        slab, seconds = by_turns([(dense, (x,)), (form, (x,))])
        return Timing(batch, slab * m / rows, seconds)


def _is_safe(timings: Sequence[Timing]) -> bool:
    return min(t.speedup for t in timings) >= _MARGIN


def _gain(timings: Sequence[Timing]) -> float:
    return sum(math.log(t.speedup) for t in timings)


Run = tuple[nn.Module, tuple[Tensor, ...]]  # a module and its inputs


def by_turns(runs: Sequence[Run]) -> list[float]:
    """Seconds of a forward pass of each module on its inputs, one after the other, many times: the lower quartile.

    Of times that other processes lengthen now and then the lower ones are the module's own. Every second round goes
    the other way round, so that no module always runs at the end of the processor's time slice.
    """
    for run in runs:
        for _ in range(_WARM_UP):
            _seconds(run)
    slowest = max(map(_seconds, runs))
    rounds = int(min(max(_SECONDS / max(slowest, 1e-9), _ROUNDS[0]), _ROUNDS[1]))
    measured: list[list[float]] = [[] for _ in runs]
    for k in range(rounds):
        for i in range(len(runs)) if k % 2 else reversed(range(len(runs))):
            measured[i].append(_seconds(runs[i]))
    return [sorted(times)[len(times) // 4] for times in measured]


def _seconds(run: Run) -> float:
    """Seconds of the thread where one thread does all the work: a busy machine lengthens long runs, short ones not."""
    module, inputs = run
    alone = inputs[0].device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.thread_time if alone else time.perf_counter
    with torch.inference_mode():
        _wait(inputs[0])
        start = clock()
        module(*inputs)
        _wait(inputs[0])
        return clock() - start


def _wait(x: Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
