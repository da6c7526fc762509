"""Ours beside others: compare's records, and bench's."""

from dataclasses import asdict, dataclass
from typing import Any

from hmcompress.report.records import SCHEMA, finite

METHODS = {
    "hmatrix": "hmcompress",
    "svd32": "SVD, fp32 factors",
    "svd16": "SVD, fp16 factors",
    "quantization": "quantisation",
    "pruning": "pruning",
    "quantization_entropy": "quantisation + entropy code",
    "lossless": "lossless",
    "rate_limit": "rate limit log2(1/eps)",
}  # in the order of tables


@dataclass(frozen=True)
class CompareRow:
    """One method on one layer at one tolerance: bytes at the measured error."""

    layer: str
    tol: float
    method: str
    bytes: int
    error: float | None  # None for a limit, which has no decoded weights
    ratio: float


@dataclass(frozen=True)
class CompareTotal:
    """One method over all layers at one tolerance."""

    tol: float
    method: str
    bytes: int
    error: float | None
    ratio: float


@dataclass(frozen=True)
class CompareReport:
    """Ours beside the others at the same measured error."""

    rows: tuple[CompareRow, ...] = ()
    totals: tuple[CompareTotal, ...] = ()
    at_our_bytes: tuple[CompareTotal, ...] = ()  # metric outputs: each method's smallest error within our bytes

    def totals_at(self, tol: float) -> list[CompareTotal]:
        """The smallest first."""
        return sorted((total for total in self.totals if total.tol == tol), key=lambda total: total.bytes)

    def at_our_bytes_at(self, tol: float) -> list[CompareTotal]:
        """The most exact first."""
        return sorted((t for t in self.at_our_bytes if t.tol == tol), key=lambda t: t.error or 0.0)

    def to_json(self) -> dict[str, Any]:
        return finite(
            {
                "schema": SCHEMA,
                "command": "compare",
                "rows": [asdict(row) for row in self.rows],
                "totals": [asdict(total) for total in self.totals],
                **({"at_our_bytes": [asdict(total) for total in self.at_our_bytes]} if self.at_our_bytes else {}),
            }
        )


@dataclass(frozen=True)
class BenchRow:
    """One layer (or the whole network) at one batch size, against dense in the same run."""

    layer: str
    batch: int
    form: str  # dense, low_rank, hmatrix or slim: what load_model took
    dense_seconds: float
    seconds: float
    dense_bytes: int  # resident bytes of the weights
    bytes: int

    @property
    def speedup(self) -> float:
        return self.dense_seconds / self.seconds if self.seconds else 1.0

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "speedup": self.speedup}


@dataclass(frozen=True)
class BenchReport:
    """Latency and memory of the compressed form against dense."""

    rows: tuple[BenchRow, ...] = ()
    totals: tuple[BenchRow, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return finite(
            {
                "schema": SCHEMA,
                "command": "bench",
                "rows": [row.to_json() for row in self.rows],
                "totals": [row.to_json() for row in self.totals],
            }
        )
