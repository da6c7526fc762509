"""One record per result; terminal, JSON, JUnit and HTML are drawings of these. Errors are relative, sizes in bytes."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

SCHEMA = 1
# Of the JSON of a layer and of a report, in this order.
_LAYER_KEYS = (
    "name", "shape", "dtype", "source_bytes", "stored_bytes", "ratio", "bits_per_weight", "rate_limit", "tol", "error",
    "max_abs_error", "method", "leaves", "max_rank", "seconds",
)  # fmt: skip
_REPORT_KEYS = (
    "schema", "command", "source", "output", "source_bytes", "output_bytes", "ratio", "tol", "norm", "metric", "layers",
    "other", "left_behind", "network", "seconds", "peak_rss_bytes",
)  # fmt: skip


def _ratio(source: int, stored: int) -> float:
    """Source over stored bytes; 1 for nothing from nothing."""
    return source / stored if stored else 1.0


def with_floats(value: Any, change: Callable[[float], Any]) -> Any:
    """Plain data with each float changed."""
    if isinstance(value, dict):
        return {key: with_floats(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [with_floats(item, change) for item in value]
    return change(value) if isinstance(value, float) else value


def finite(value: Any) -> Any:
    """Plain data with nan and inf as null: JSON has neither."""
    return with_floats(value, lambda number: number if math.isfinite(number) else None)


@dataclass(frozen=True)
class Leaves:
    """How many leaves of each kind tile a layer."""

    zero: int = 0
    low_rank: int = 0
    quantized: int = 0
    hybrid: int = 0


@dataclass(frozen=True)
class LayerRecord:
    """One compressed layer; `error` is measured on the decoded weights in their stored dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    source_bytes: int
    stored_bytes: int
    tol: float | None  # None where only the network's outputs are bounded
    error: float
    max_abs_error: float
    method: str  # hmatrix, lossless or raw
    leaves: Leaves = Leaves()
    max_rank: int = 0
    seconds: float = 0.0
    norm: str = "fro"  # of tol and error: a rule may ask for another one than that of the report

    @property
    def ratio(self) -> float:
        return _ratio(self.source_bytes, self.stored_bytes)

    @property
    def weights(self) -> int:
        """Real numbers: two for a complex entry."""
        return math.prod(self.shape) * (2 if self.dtype.startswith("complex") else 1)

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.stored_bytes / self.weights if self.weights else 0.0

    @property
    def rate_limit(self) -> float | None:
        """log2(1/tol): bits a weight that independent Gaussian weights of one scale need at a relative error of tol."""
        return -math.log2(self.tol) if self.tol else None

    def to_json(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in _LAYER_KEYS} | {"leaves": asdict(self.leaves)}


@dataclass(frozen=True)
class OtherRecord:
    """The tensors that are not layers: biases, norms, integers, what a rule keeps. All lossless."""

    tensors: int = 0
    source_bytes: int = 0
    stored_bytes: int = 0


@dataclass(frozen=True)
class ReferenceRecord:
    """Error of the network against exact solutions."""

    before: float
    after: float


@dataclass(frozen=True)
class Curves:
    """The same quantity for the original and the compressed network: a spectrum, or losses step by step."""

    original: tuple[float, ...]
    compressed: tuple[float, ...]


@dataclass(frozen=True)
class NtkRecord:
    """Empirical neural tangent kernel of the compressed network against the original's."""

    tol: float | None  # None: measured, not bounded
    samples: int
    error: float  # relative Frobenius
    alignment: float
    min_eigenvalue: float  # over the largest
    trace_ratio: float
    spectra: Curves | None = None
    training: Curves | None = None

    def to_json(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if value is not None or key == "tol"}


@dataclass(frozen=True)
class NetworkLayer:
    """What one layer adds to the error of the network."""

    name: str
    local_error: float  # of its outputs on the original inputs
    propagated_error: float  # of its outputs on the compressed network's inputs
    growth: float
    zero_columns: int
    dead_rows: int


@dataclass(frozen=True)
class NetworkRecord:
    """Error of the network's outputs; `error` is measured on held-out points and is the one that is bounded."""

    tol: float
    error: float
    calibration_error: float
    samples: int
    seed: int
    widened_error: float | None = None
    noisy_error: float | None = None
    derivative_errors: tuple[float, ...] = ()
    reference: ReferenceRecord | None = None
    ntk: NtkRecord | None = None
    rate_limit_bytes: float | None = None
    layers: tuple[NetworkLayer, ...] = ()
    function_error: float | None = None  # of the outputs alone, where `error` is the largest of theirs and derivatives'

    @property
    def passed(self) -> bool:
        """Whether outputs, derivatives and the tangent kernel keep their bounds."""
        ntk = self.ntk is None or self.ntk.tol is None or self.ntk.error <= self.ntk.tol
        return ntk and all(error <= self.tol for error in (self.error, *self.derivative_errors))

    def with_errors(self, errors: Sequence[float]) -> "NetworkRecord":
        """With these on held-out points: of the outputs, and of each derivative."""
        alone = errors[0] if len(errors) > 1 else None
        return replace(self, error=max(errors), derivative_errors=tuple(errors[1:]), function_error=alone)

    def to_json(self) -> dict[str, Any]:
        data = {**asdict(self), "ntk": self.ntk and self.ntk.to_json()}
        return {key: value for key, value in data.items() if key != "function_error" or value is not None}


@dataclass(frozen=True)
class Report:
    """What compress did, and what report reads back from the file."""

    command: str  # compress or report
    source: str
    output: str
    source_bytes: int  # whole files
    output_bytes: int
    tol: float
    norm: str
    metric: str
    layers: tuple[LayerRecord, ...] = ()
    other: OtherRecord = OtherRecord()
    left_behind: tuple[str, ...] = ()
    network: NetworkRecord | None = None
    seconds: float = 0.0
    peak_rss_bytes: int = 0
    notes: tuple[str, ...] = ()  # what the user should know: a layer kept lossless because of nan, say

    @property
    def ratio(self) -> float:
        return _ratio(self.source_bytes, self.output_bytes)

    @property
    def layer_source_bytes(self) -> int:
        return sum(layer.source_bytes for layer in self.layers)

    @property
    def layer_stored_bytes(self) -> int:
        return sum(layer.stored_bytes for layer in self.layers)

    @property
    def source_overhead(self) -> int:
        """Bytes of the source file beside its tensors, those that were dropped among them; negative where the file is
        an archive that holds tensors compressed."""
        return self.source_bytes - self.layer_source_bytes - self.other.source_bytes

    @property
    def stored_overhead(self) -> int:
        """Bytes of the compressed file beside its tensors: header, index, checksums, settings."""
        return self.output_bytes - self.layer_stored_bytes - self.other.stored_bytes

    @property
    def passed(self) -> bool:
        """Whether every bound of a layer and of the network holds."""
        layers = all(layer.tol is None or layer.error <= layer.tol for layer in self.layers)
        return layers and (self.network is None or self.network.passed)

    def to_json(self) -> dict[str, Any]:
        layers = [x.to_json() | ({} if x.norm == self.norm else {"norm": x.norm}) for x in self.layers]
        drawn = {"schema": SCHEMA, "layers": layers, "other": asdict(self.other)}
        drawn |= {"network": self.network and self.network.to_json()}
        data = {key: drawn[key] if key in drawn else getattr(self, key) for key in _REPORT_KEYS}
        return finite(data | ({"notes": self.notes} if self.notes else {}))
