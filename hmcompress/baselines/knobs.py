"""Peers on a whole network: one knob for all layers, turned until the network's error or the bytes are as wanted."""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from hmcompress.baselines.matrix import Matrix
from hmcompress.baselines.peer import Outcome, Peer, run_peer
from hmcompress.layers import from_matrices

STEPS_PER_OCTAVE = 48
FINEST = 30 * STEPS_PER_OCTAVE
_SCANNED_WEIGHTS = 8_000_000
_STRIDE = 2  # of the settings tried beyond the first that holds

NetworkErrorOf = Callable[[Mapping[str, Tensor]], float]


@dataclass(frozen=True)
class NetworkPart:
    """A tensor of the network, or a weight (m, n) with its bias (m,), as the matrices that are coded."""

    weight: str
    bias: str | None
    tensors: tuple[Tensor, ...]  # the weight, then the bias
    matrices: tuple[Matrix, ...]
    joined: bool  # the bias is the last column of the matrix; else it is kept as it is

    def restore(self, decoded: Sequence[Tensor]) -> dict[str, Tensor]:
        """Decoded tensors by name."""
        if self.bias is None or not self.joined:
            stacked = decoded[0] if len(decoded) == 1 else torch.stack(list(decoded))
            kept = {} if self.bias is None else {self.bias: self.tensors[1]}
            return {self.weight: from_matrices(stacked, self.tensors[0].shape, self.tensors[0].dtype), **kept}
        weight = decoded[0][:, :-1].reshape(self.tensors[0].shape)
        return {self.weight: weight, self.bias: decoded[0][:, -1].reshape(self.tensors[1].shape)}

    @property
    def kept_bytes(self) -> int:
        """Bytes of what is not coded."""
        return sum(t.numel() * t.element_size() for t in self.tensors[1:]) if not self.joined else 0

    @property
    def source_bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in self.tensors)


@dataclass(frozen=True)
class Setting:
    """One setting of a knob: bytes of each part, relative Frobenius error of each part's matrices, decoded tensors.

    key: the same for settings that decode to the same.
    """

    part_bytes: tuple[int, ...]
    part_errors: tuple[float, ...]
    decode: Callable[[], Mapping[str, Tensor]]
    key: Hashable

    @property
    def nbytes(self) -> int:
        return sum(self.part_bytes)


@dataclass
class Knob:
    """A peer with one knob: each matrix gets the relative error 2**(-k / 48), or one absolute error where `absolute`.

    Trials are kept by k; errors of the network are measured when asked for, once for all settings that decode to the
    same, as neighbours mostly do where ranks or bits are whole numbers.
    """

    peer: Peer
    parts: Sequence[NetworkPart]
    absolute: bool
    network_error: NetworkErrorOf
    _trials: dict[int, Setting] = field(default_factory=dict)
    _errors: dict[Hashable, float] = field(default_factory=dict)

    def trial(self, k: int) -> Setting:
        """Encode everything."""
        if k not in self._trials:
            self._trials[k] = self._trial(2.0 ** (-k / STEPS_PER_OCTAVE))
        return self._trials[k]

    def _trial(self, level: float) -> Setting:
        found = [[self._run(matrix, level) for matrix in part.matrices] for part in self.parts]
        both = list(zip(self.parts, found, strict=True))

        def decode() -> Mapping[str, Tensor]:
            tensors: dict[str, Tensor] = {}
            for part, outcomes in both:
                tensors |= part.restore([outcome.decode() for outcome in outcomes])
            return tensors

        return Setting(
            tuple(part.kept_bytes + sum(outcome.nbytes for outcome in outcomes) for part, outcomes in both),
            tuple(_error(part.matrices, outcomes) for part, outcomes in both),
            decode,
            tuple(outcome.key for outcomes in found for outcome in outcomes),
        )

    def error(self, k: int) -> float:
        """Error of the network at this setting."""
        trial = self.trial(k)
        if trial.key not in self._errors:
            self._errors[trial.key] = self.network_error(trial.decode())
        return self._errors[trial.key]

    def nbytes(self, k: int) -> int:
        return self.trial(k).nbytes

    def coarsest_within(self, tol: float, start: int | None = None) -> int | None:
        """The coarsest setting found whose network error is within `tol`; None where none is."""
        first = round(-STEPS_PER_OCTAVE * math.log2(tol)) if start is None else start
        return coarsest(lambda k: self.error(k) <= tol, first)

    def coarser_within(self, tol: float, k: int, nbytes: float = math.inf) -> int:
        """The coarsest of some settings a little coarser than k that holds, if it takes fewer than `nbytes`, else k.

        The error is not quite monotone: a lucky draw may hold where finer ones do not.
        """
        coarser = range(max(k - self._scan, 0), k, _STRIDE)
        if not coarser or self.nbytes(coarser[0]) >= nbytes:
            return k
        return next((other for other in coarser if self.nbytes(other) < nbytes and self.error(other) <= tol), k)

    def finest_within(self, nbytes: int) -> int | None:
        """The finest setting of at most so many bytes; None where even the coarsest takes more."""
        above = coarsest(lambda k: self.nbytes(k) > nbytes, 3 * STEPS_PER_OCTAVE)
        if above is None:
            return FINEST
        return above - 1 if above > 0 else None

    @property
    def _scan(self) -> int:
        """How far coarser settings are tried: two thirds of an octave on a small network, less where each costs."""
        weights = sum(matrix.w.numel() for part in self.parts for matrix in part.matrices)
        return min(32, max(4, _SCANNED_WEIGHTS // max(weights, 1)))

    def _run(self, matrix: Matrix, level: float) -> Outcome:
        if self.absolute and matrix.is_codable:
            level *= self._typical / matrix.rms
        return run_peer(self.peer, matrix, level)

    @cached_property
    def _typical(self) -> float:
        """Root mean square of all weights."""
        matrices = [matrix for part in self.parts for matrix in part.matrices if matrix.is_codable]
        count = sum(matrix.w.numel() for matrix in matrices)
        return math.sqrt(sum(matrix.norm**2 for matrix in matrices) / count) if count else 1.0


def coarsest(holds: Callable[[int], bool], start: int) -> int | None:
    """The smallest k in [0, FINEST] that holds, for a property that finer settings keep; galloping from `start`."""
    start = min(max(start, 0), FINEST)
    low, high, stride = -1, FINEST + 1, STEPS_PER_OCTAVE // 3
    k = start
    while 0 <= k <= FINEST:
        if holds(k):
            high = k
            k = max(k - stride, 0) if k else -1
            if high == 0 or low >= 0:
                break
        else:
            low = k
            if high <= FINEST:
                break
            k = min(k + stride, FINEST) if k < FINEST else FINEST + 1
        stride *= 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high if high <= FINEST else None


def _error(matrices: Sequence[Matrix], outcomes: Sequence[Outcome]) -> float:
    norms = [matrix.norm if matrix.is_codable else 0.0 for matrix in matrices]
    total = math.hypot(*norms)
    squares = [outcome.error * norm for outcome, norm in zip(outcomes, norms, strict=True)]
    return math.hypot(*squares) / total if total else 0.0
