"""Records to draw: small, wide, long, and hostile ones."""

import dataclasses

from hmcompress.report.comparisons import (
    METHODS,
    BenchReport,
    BenchRow,
    CompareReport,
    CompareRow,
    CompareTotal,
)
from hmcompress.report.records import (
    Curves,
    LayerRecord,
    Leaves,
    NetworkLayer,
    NetworkRecord,
    NtkRecord,
    OtherRecord,
    ReferenceRecord,
    Report,
)
from hmcompress.report.verdicts import VerifyLayer, VerifyNetwork, VerifyReport

HOSTILE = "a[red]\x1b[31m</td><script>alert(1)</script>\n\u202eb&'\"[/b]:smile:"


def layer(name: str = "net.0.weight", **changes) -> LayerRecord:
    base = LayerRecord(
        name, (512, 512), "float32", 512 * 512 * 4, 327_700, 1e-3, 9.981e-4, 3.1e-4, "hmatrix", Leaves(1, 2, 3, 4), 12
    )
    return dataclasses.replace(base, **changes)


def small() -> Report:
    """Four layers of every method, as compress returns them."""
    layers = (
        layer("net.0.weight", shape=(512, 25), source_bytes=51_200, stored_bytes=16_001, leaves=Leaves(0, 0, 1, 0)),
        layer("encoder.blocks.11.attention.output.dense.parametrizations.weight.original0"),
        layer("net.4.weight", method="lossless", error=0.0, max_abs_error=0.0, stored_bytes=900_000, leaves=Leaves()),
        layer("net.6.weight", dtype="bfloat16", source_bytes=524_288, stored_bytes=524_289, method="raw", error=0.0,
              leaves=Leaves(), max_rank=0, tol=1e-5),
    )  # fmt: skip
    return Report(
        "compress", "model.pt", "model.hmc.safetensors", 2_700_000, 1_780_000, 1e-3, "fro", "weights", layers,
        OtherRecord(7, 9_800, 8_500), ("hyper_parameters.loss: a function, cannot be carried",), None, 3.4, 410_000_000,
    )  # fmt: skip


def unicode() -> Report:
    """Names that few encodings have."""
    return dataclasses.replace(small(), source="m\u00f6del \u6a21\u578b.pt", output="\u6a21.hmc.safetensors")


def network(function_error: float | None = None) -> Report:
    """A PINN bounded on its outputs."""
    names = [f"net.{i}.weight" for i in (0, 2, 4)]
    record = NetworkRecord(
        1e-2, 9.41e-3, 7.0e-3, 4096, 0, 0.0123, 9.5e-3, (9.1e-3, 9.9e-3), ReferenceRecord(3.1e-3, 3.4e-3),
        NtkRecord(0.1, 256, 0.0903, 0.99912, -1.2e-9, 1.013, Curves((1.0, 0.1), (1.01, 0.09)),
                  Curves((1.0, 0.5, 0.2), (1.0, 0.51, 0.21))),
        51.2,
        tuple(NetworkLayer(name, 1e-3 * (i + 1), 2e-3 * (i + 1), 1.25, 12 * i, 3) for i, name in enumerate(names)),
        function_error,
    )  # fmt: skip
    layers = tuple(layer(name, tol=None, error=0.21, stored_bytes=800) for name in names)
    return dataclasses.replace(
        small(), layers=layers, other=OtherRecord(), metric="outputs", tol=1e-2, network=record, left_behind=(),
        source_bytes=3_150_000, output_bytes=3_400,
    )  # fmt: skip


def large(count: int = 500) -> Report:
    """500 layers: numbered blocks, and as many odd ones."""
    layers = [
        layer(f"encoder.layer.{i}.{part}.weight", error=1e-4 * (i % 9), seconds=0.1)
        for i in range(count // 5)
        for part in ("query", "key", "value", "dense")
    ]
    odd = [layer(f"odd_{chr(97 + i % 26)}{chr(97 + i // 26)}.weight", shape=(64, 64), source_bytes=16_384,
                 stored_bytes=5_000) for i in range(count - len(layers))]  # fmt: skip
    return dataclasses.replace(small(), layers=tuple(layers + odd), source_bytes=450_000_000, output_bytes=140_000_000)


def violated() -> Report:
    broken = layer("net.2.weight", error=1.001e-3)
    notes = ("net.9.weight: holds nan, kept lossless",)
    return dataclasses.replace(small(), layers=(*small().layers, broken), notes=notes)


def hostile() -> Report:
    return dataclasses.replace(
        small(), source=HOSTILE, output=HOSTILE, layers=(layer(HOSTILE),), left_behind=(HOSTILE,)
    )


def verified(passed: bool = True) -> VerifyReport:
    layers = (VerifyLayer("net.0.weight", 1e-3, 9.9e-4), VerifyLayer("net.2.weight", 1e-3, 9e-4 if passed else 1.2e-3))
    return VerifyReport(layers)


def foreign() -> VerifyReport:
    """Verified against the wrong source: one layer off, others not there."""
    return VerifyReport((VerifyLayer("net.2.weight", 1e-3, 0.2), VerifyLayer("net.2.bias", 0.0, float("inf"))))


def verified_network(error: float = 9e-3, ntk_error: float = 0.09) -> VerifyReport:
    layers = (VerifyLayer("net.0.weight", None, 0.2),)
    return VerifyReport(layers, VerifyNetwork(1e-2, error, 9.3e-3, "net.0.weight", 0.1, ntk_error))


def verified_few_points(fresh: float = 1.62e-3, held_out: int = 250) -> VerifyReport:
    """Held out points of a small file that are kinder than others."""
    return VerifyReport((), VerifyNetwork(1e-3, 9.7e-4, fresh, held_out=held_out))


def compared() -> CompareReport:
    tolerances = (1e-2, 1e-3)
    rows = tuple(
        CompareRow(name, tol, method, 1000 * (i + 1), None if method == "rate_limit" else 0.99 * tol, 8 / (i + 1))
        for name in ("net.0.weight", "net.2.weight")
        for tol in tolerances
        for i, method in enumerate(METHODS)
    )
    totals = tuple(
        CompareTotal(tol, method, 2000 * (i + 1), None if method == "rate_limit" else 0.99 * tol, 8 / (i + 1))
        for tol in tolerances
        for i, method in enumerate(METHODS)
    )
    return CompareReport(rows, totals)


def benched() -> BenchReport:
    rows = tuple(BenchRow("net.0.weight", batch, "hmatrix", 2e-3, 2e-4, 67_108_864, 2_400_000) for batch in (1, 16))
    totals = tuple(BenchRow("whole network", batch, "slim", 3e-3, 1e-3, 70_000_000, 3_000_000) for batch in (1, 16))
    return BenchReport(rows, totals)
