"""What verify found: one record for each bound."""

from dataclasses import asdict, dataclass
from typing import Any

from hmcompress.report.records import SCHEMA, finite


@dataclass(frozen=True)
class VerifyLayer:
    """One layer's bound: the stored error, or the recomputed one where the source is given."""

    name: str
    tol: float | None
    error: float

    @property
    def passed(self) -> bool:
        return self.tol is None or self.error <= self.tol

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "tol": self.tol, "error": self.error, "passed": self.passed}


@dataclass(frozen=True)
class VerifyNetwork:
    """The network's bound, recomputed on the held-out points of the stored seed and on fresh ones."""

    tol: float
    error: float
    fresh_error: float | None = None
    largest_growth: str | None = None  # the layer that amplifies the error most
    ntk_tol: float | None = None
    ntk_error: float | None = None
    held_out: int | None = None  # points on which `error` was measured

    @property
    def passed(self) -> bool:
        ntk = self.ntk_tol is None or self.ntk_error is None or self.ntk_error <= self.ntk_tol
        return self.error <= self.tol and ntk

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed}


@dataclass(frozen=True)
class VerifyReport:
    """Whether every bound holds. A damaged file never gets this far: it is a FormatError."""

    layers: tuple[VerifyLayer, ...] = ()
    network: VerifyNetwork | None = None

    @property
    def passed(self) -> bool:
        return all(layer.passed for layer in self.layers) and (self.network is None or self.network.passed)

    @property
    def offending(self) -> tuple[str, ...]:
        return tuple(layer.name for layer in self.layers if not layer.passed)

    def to_json(self) -> dict[str, Any]:
        return finite(
            {
                "schema": SCHEMA,
                "command": "verify",
                "passed": self.passed,
                "layers": [layer.to_json() for layer in self.layers],
                "network": self.network and self.network.to_json(),
            }
        )
