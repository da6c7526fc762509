"""Records drawn for the terminal. In a narrow one each layer takes two lines: 80 columns hold everything."""

from collections.abc import Iterable

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hmcompress.report.format import (
    ABSENT,
    abbreviate,
    fold,
    format_bits,
    format_bytes,
    format_dtype,
    format_error,
    format_ratio,
    format_shape,
    format_tolerance,
    printable,
)
from hmcompress.report.groups import TableRow, layer_rows
from hmcompress.report.lines import (
    LEAF_LETTERS,
    bound_line,
    cost_line,
    headline,
    leaves_line,
    left_behind_lines,
    network_figures,
    note_lines,
    overhead_label,
    rate_limit_line,
    settings_line,
)
from hmcompress.report.records import LayerRecord, NetworkRecord, Report

WIDE = 134
_WIDE_FIGURES = 113  # what the figures of a one-line row take
_BOX = box.Box("    \n    \n ── \n    \n ── \n ── \n    \n    \n")  # a rule below the head and between sections
_LEGEND = "leaves: z zero, l low-rank, q quantized, h hybrid; r largest rank\nbits: stored for each weight"


def report_view(report: Report, width: int) -> RenderableType:
    """The whole report: layers, totals over the whole file, network, what was left behind."""
    title = f"{printable(report.source)} -> {printable(report.output)}"
    parts: list[RenderableType] = [line(title, "bold"), line(f"{headline(report)}; {settings_line(report)}"), line()]
    if report.layers:
        parts += [_layers(report, width), line(_legend(report), "dim"), line()]
    parts += [_totals(report), line(), _bounds(report)]
    if report.network is not None:
        parts += [line(), *_network(report.network, report.layer_stored_bytes, width)]
    parts += [line(said, "yellow") for said in note_lines(report) + left_behind_lines(report)]
    parts += [line(cost_line(report), "dim")] if cost_line(report) else []
    return Group(*parts)


def layer_view(layer: LayerRecord, report: Report) -> RenderableType:
    """Everything about one layer, and about its part in the network."""
    table = plain_table("", "")
    facts = [
        ("layer", printable(layer.name)),
        ("shape, dtype", f"{format_shape(layer.shape)} {layer.dtype}"),
        ("method", layer.method),
        ("leaves", ", ".join(f"{getattr(layer.leaves, kind)} {kind.replace('_', '-')}" for kind, _ in LEAF_LETTERS)),
        ("largest rank", str(layer.max_rank)),
        ("bytes", f"{layer.source_bytes:,} -> {layer.stored_bytes:,} ({format_ratio(layer.ratio)})"),
        ("bits per weight", f"{layer.bits_per_weight:.3f} (limit log2(1/tol) {format_bits(layer.rate_limit)})"),
        ("error", f"{format_error(layer.error)} ({layer.norm}), tolerance {format_tolerance(layer.tol)}"),
        ("largest absolute error", format_error(layer.max_abs_error)),
    ]
    parts = report.network.layers if report.network is not None else ()
    for part in (part for part in parts if part.name == layer.name):
        facts += [
            ("output error, original inputs", format_error(part.local_error)),
            ("output error, compressed inputs", format_error(part.propagated_error)),
            ("growth", f"{part.growth:.3g}"),
            ("zero columns, dead rows", f"{part.zero_columns}, {part.dead_rows}"),
        ]
    for name, value in facts:
        table.add_row(name, value)
    return table


# ---- parts ----


def line(text: str = "", style: str = "") -> Text:
    """One line of text, not read as markup."""
    return Text(text, style)


def plain_table(*columns: str) -> Table:
    """A plain table; a leading > aligns a column to the right."""
    table = Table(box=_BOX, padding=(0, 0, 0, 1), pad_edge=False, show_edge=False)
    table.show_header = any(columns)
    for column in columns:
        right = column.startswith(">")
        table.add_column(column.lstrip(">"), justify="right" if right else "left", no_wrap=True)
    return table


def _layers(report: Report, width: int) -> Table:
    """One line a layer where every name fits beside its figures, else stacked."""
    rows = layer_rows(report.layers)
    fits = width >= WIDE and max(len(_name(row)) for row in rows) <= width - _WIDE_FIGURES
    return _wide_layers(rows, report) if fits else _narrow_layers(rows, report, width)


def _narrow_layers(rows: Iterable[TableRow], report: Report, width: int) -> Table:
    """Two lines a layer (three for a long name): what is stored, then how it is stored and what it must keep."""
    table = plain_table("layer\n  shape dtype method leaves", ">bits\nlimit", ">in\nout", ">ratio", ">error\ntol")
    for row in rows:
        name = "\n  ".join(fold(_name(row), max(20, width - 37)))
        how = abbreviate(" ".join(_how(row, report)), max(18, width - 37))
        limit = format_bits(_limit(row, report))
        bits = Text(f"{format_bits(row.bits_per_weight)}\n{limit}")
        sizes = f"{format_bytes(row.source_bytes)}\n{format_bytes(row.stored_bytes)}"
        error = Text.assemble(_error(row), "\n", format_tolerance(row.worst.tol))
        table.add_row(Text(f"{name}\n  {how}"), bits, sizes, format_ratio(row.ratio), error)
    return table


def _wide_layers(rows: Iterable[TableRow], report: Report) -> Table:
    columns = ("layer", "shape", "dtype", "method", "leaves", ">rank", ">bits", ">limit", ">in", ">out", ">ratio")
    table = plain_table(*columns, ">error", ">tol")
    for row in rows:
        shape, dtype, method, leaves, rank = _how(row, report)
        table.add_row(
            Text(_name(row)),
            shape, dtype, method, abbreviate(leaves, 18), rank.lstrip("r"),
            format_bits(row.bits_per_weight), format_bits(_limit(row, report)),
            format_bytes(row.source_bytes), format_bytes(row.stored_bytes), format_ratio(row.ratio),
            _error(row), format_tolerance(row.worst.tol),
        )  # fmt: skip
    return table


def _name(row: TableRow) -> str:
    return printable(row.name) + (f" ({row.count} layers)" if row.count > 1 else "")


def _how(row: TableRow, report: Report) -> tuple[str, str, str, str, str]:
    """Shape, dtype, method, leaves, rank; 'various' for what the layers of a row do not share.

    The norm stands behind the method where it is another one than the report's.
    """
    shape, dtype, method = row.common("shape"), row.common("dtype"), row.common("method")
    norm = "" if row.worst.norm == report.norm else f" ({row.worst.norm})"
    return (
        format_shape(shape) if isinstance(shape, tuple) else "various",
        format_dtype(str(dtype)) if dtype else "various",
        (str(method) if method else "various") + norm,
        leaves_line(row.leaves),
        f"r{row.max_rank}" if row.max_rank else "",
    )


def _limit(row: TableRow, report: Report) -> float | None:
    """log2(1/tol) is a limit in the Frobenius norm only."""
    return row.worst.rate_limit if row.worst.norm == "fro" and report.metric == "weights" else None


def _error(row: TableRow) -> Text:
    worst = row.worst
    beyond = worst.tol is not None and worst.error > worst.tol
    return Text(format_error(worst.error) + ("!" if beyond else ""), "bold red" if beyond else "")


def _legend(report: Report) -> str:
    grouped = any(row.count > 1 for row in layer_rows(report.layers))
    limit = "; limit: log2(1/tol)" if report.norm == "fro" else ""
    limit = "; error: of the weights, the bound is on the outputs" if report.metric == "outputs" else limit
    return (
        _LEGEND
        + limit
        + ("\nlayers of a kind share a row, error of the worst; --layer NAME shows one" if grouped else "")
    )


def _totals(report: Report) -> Table:
    """Layers, other tensors and the container's own bytes add up to the whole files."""
    table = plain_table("", ">count", ">in", ">out", ">ratio")
    other = report.other
    overhead = (report.source_overhead, report.stored_overhead)
    _total(table, "layers", str(len(report.layers)), report.layer_source_bytes, report.layer_stored_bytes)
    _total(table, "other tensors, lossless", str(other.tensors), other.source_bytes, other.stored_bytes)
    table.add_row(overhead_label(report), "", *(format_bytes(size) for size in overhead), "")
    table.add_section()
    _total(table, "whole file", "", report.source_bytes, report.output_bytes, "bold")
    return table


def _total(table: Table, name: str, tensors: str, source: int, stored: int, style: str | None = None) -> None:
    ratio = format_ratio(source / stored) if stored else ABSENT
    table.add_row(name, tensors, format_bytes(source), format_bytes(stored), ratio, style=style)


def _bounds(report: Report) -> Text:
    return line(bound_line(report), "" if report.passed else "bold red")


def _network(network: NetworkRecord, layer_bytes: int, width: int) -> list[RenderableType]:
    figures = plain_table("network outputs", ">error", ">tol")
    for what, error, tol in network_figures(network):
        figures.add_row(what, error, tol)
    parts: list[RenderableType] = [figures, line()]
    if network.layers:
        parts += [_network_layers(network, width), line()]
    said = rate_limit_line(network, layer_bytes)
    return parts + ([line(said)] if said else [])


def _network_layers(network: NetworkRecord, width: int) -> Table:
    table = plain_table("layer outputs", ">local", ">propagated", ">growth", ">zero cols", ">dead rows")
    for layer in network.layers:
        errors = (format_error(layer.local_error), format_error(layer.propagated_error), f"{layer.growth:.3g}")
        name = abbreviate(printable(layer.name), max(16, width - 60))
        table.add_row(Text(name), *errors, str(layer.zero_columns), str(layer.dead_rows))
    return table
