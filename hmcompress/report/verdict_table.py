"""Verdicts and comparisons drawn for the terminal: verify, compare and bench."""

import math

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hmcompress.report.comparisons import METHODS, BenchReport, BenchRow, CompareReport
from hmcompress.report.format import abbreviate, format_bytes, format_error, format_ratio, format_tolerance, printable
from hmcompress.report.lines import fresh_line, verify_line
from hmcompress.report.table import line, plain_table
from hmcompress.report.verdicts import VerifyReport


def verify_view(report: VerifyReport, file: str, width: int) -> RenderableType:
    """One sentence, and a row for each bound that fails."""
    failed = [layer for layer in report.layers if not layer.passed]
    table = plain_table("layer", ">error", ">tol")
    for layer in failed:
        name = abbreviate(printable(layer.name), width - 24)
        error = "differs" if math.isinf(layer.error) else format_error(layer.error)
        table.add_row(Text(name), Text(error, "bold red"), format_tolerance(layer.tol))
    parts: list[RenderableType] = [table] if failed else []
    if report.network is not None:
        said = fresh_line(report.network)
        parts += [_verify_network(report), *([line(f"Note: {said}", "yellow")] if said else [])]
    return Group(*parts, line(verify_line(report, file), "green" if report.passed else "bold red"))


def compare_view(report: CompareReport) -> RenderableType:
    """Totals over all layers: a table a tolerance, the smallest first."""
    parts: list[RenderableType] = []
    for tol in dict.fromkeys(total.tol for total in report.totals):
        table = plain_table(f"tolerance {format_tolerance(tol)}", ">bytes", ">ratio", ">error")
        for total in report.totals_at(tol):
            cells = (format_bytes(total.bytes), format_ratio(total.ratio), format_error(total.error))
            ours = "bold" if total.method == "hmatrix" else None
            table.add_row(METHODS[total.method], *cells, style=ours)
        parts += [table, line(), *_at_our_bytes(report, tol)]
    layers = len(dict.fromkeys(row.layer for row in report.rows))
    return Group(*parts, line(f"{layers} layers; --json and --html show each of them", "dim"))


def _at_our_bytes(report: CompareReport, tol: float) -> list[RenderableType]:
    """What each method's network error is within the bytes of ours, the smallest first; outputs metric only."""
    totals = report.at_our_bytes_at(tol)
    if not totals:
        return []
    table = plain_table(f"within our bytes at {format_tolerance(tol)}", ">bytes", ">error")
    for total in totals:
        ours = "bold" if total.method == "hmatrix" else None
        cells = (format_bytes(total.bytes), format_error(total.error))
        table.add_row(METHODS[total.method], *cells, style=ours)
    return [table, line()]


def bench_view(report: BenchReport, width: int) -> RenderableType:
    """Latency and resident bytes against dense, layer by layer and in all."""
    table = plain_table("layer", ">batch", "form", ">dense", ">ours", ">speed", ">memory")
    for row in report.rows:
        table.add_row(*_bench_cells(row, width))
    if report.rows:
        table.add_section()
    for row in report.totals:
        table.add_row(*_bench_cells(row, width), style="bold")
    return table


def _bench_cells(row: BenchRow, width: int) -> tuple[str, ...]:
    memory = f"{format_bytes(row.dense_bytes)} -> {format_bytes(row.bytes)}"
    name = abbreviate(printable(row.layer), max(12, width - 67))
    times = (_latency(row.dense_seconds), _latency(row.seconds))
    return (name, str(row.batch), row.form, *times, format_ratio(row.speedup), memory)


def _latency(seconds: float) -> str:
    """At most eight characters: 6.73 us, 0.123 ms, 9.99 s."""
    scale, unit = (1e6, "us") if seconds < 1e-4 else (1e3, "ms") if seconds < 0.9995 else (1, "s")
    return f"{seconds * scale:.3g} {unit}"


def _verify_network(report: VerifyReport) -> Table:
    table = plain_table("network", ">error", ">tol")
    network = report.network
    if network is None:
        return table
    table.add_row("held-out points of the file", format_error(network.error), format_tolerance(network.tol))
    if network.fresh_error is not None:
        table.add_row("fresh points", format_error(network.fresh_error), "")
    if network.ntk_error is not None:
        table.add_row("tangent kernel", format_error(network.ntk_error), format_tolerance(network.ntk_tol))
    return table
