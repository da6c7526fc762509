"""Records as a self-contained HTML page."""

from hmcompress.report.comparisons import METHODS, CompareReport, CompareRow, CompareTotal
from hmcompress.report.format import (
    format_bits,
    format_bytes,
    format_dtype,
    format_error,
    format_ratio,
    format_shape,
    format_tolerance,
)
from hmcompress.report.lines import (
    bound_line,
    cost_line,
    leaves_line,
    network_figures,
    overhead_label,
    rate_limit_line,
    settings_line,
)
from hmcompress.report.page import Cell, facts, page, table, text
from hmcompress.report.records import Curves, LayerRecord, NetworkRecord, NtkRecord, Report
from hmcompress.report.svg import Axis, Series, line_chart

_LAYER_COLUMNS = (
    "<layer", "<shape", "<dtype", "<method", "<leaves", "rank", "bits/weight", "limit", "in", "out", "<size", "ratio",
    "error", "tol",
)  # fmt: skip


def render_report_html(report: Report) -> str:
    """The report of one compressed file as a page."""
    bounds = "good" if report.passed else "bad"
    parts = [
        f"<h1>{text(report.output)}</h1>",
        f'<p class="soft">compressed from {text(report.source)}, {text(settings_line(report))}</p>',
        facts(_headline(report)),
        f'<p class="{bounds}">{text(bound_line(report))}</p>',
        _layers(report),
        _totals(report),
        _network(report),
        _listed("Notes", "", report.notes),
        _listed(
            "Left behind", "<p>Not in the compressed file, or in another form where it says so:</p>", report.left_behind
        ),
        f'<p class="soft">{text(cost_line(report))}</p>',
    ]
    return page(f"{report.output}, {format_ratio(report.ratio)} smaller", parts)


def render_compare_html(report: CompareReport, source: str) -> str:
    """Ours beside the others: totals as a picture and as tables, then layer by layer."""
    tolerances = list(dict.fromkeys(total.tol for total in report.totals))
    parts = [
        f"<h1>{text(source)}</h1>",
        '<p class="soft">bytes of the layers at the same measured error; everything needed to decode is counted</p>',
        _rate_chart("Rate against error, all layers", report.totals),
        *(_compare_totals(report, tol) for tol in tolerances),
        *(_at_our_bytes(report, tol) for tol in tolerances if report.at_our_bytes),
        *_compare_layers(report),
    ]
    return page(f"{source}: comparison", parts)


def _headline(report: Report) -> list[tuple[str, str]]:
    figures = [
        ("before", format_bytes(report.source_bytes)),
        ("after", format_bytes(report.output_bytes)),
        ("ratio", format_ratio(report.ratio)),
        ("tolerance", format_tolerance(report.tol)),
    ]
    network = report.network
    return figures + ([("held-out error", format_error(network.error))] if network is not None else [])


def _layers(report: Report) -> str:
    if not report.layers:
        return ""
    limited = report.norm == "fro" and report.metric == "weights"
    rows = [_layer(layer, report) for layer in report.layers]
    meaning = "limit: log2(1/tol) bits a weight" if limited else "error: of the weights"
    caption = f"leaves: z zero, l low-rank, q quantized, h hybrid; {meaning}"
    return "<h2>Layers</h2>" + table(caption, _LAYER_COLUMNS, rows)


def _layer(layer: LayerRecord, report: Report) -> list[Cell]:
    limited = layer.norm == "fro" and report.metric == "weights"
    method = layer.method if layer.norm == report.norm else f"{layer.method} ({layer.norm})"
    beyond = layer.tol is not None and layer.error > layer.tol
    error = format_error(layer.error)
    return [
        text(layer.name), text(format_shape(layer.shape)), text(format_dtype(layer.dtype)), text(method),
        leaves_line(layer.leaves), str(layer.max_rank or ""),
        format_bits(layer.bits_per_weight), format_bits(layer.rate_limit if limited else None),
        format_bytes(layer.source_bytes), format_bytes(layer.stored_bytes),
        _bar(layer.stored_bytes, layer.source_bytes), format_ratio(layer.ratio),
        f'<span class="bad">{error} above</span>' if beyond else error, format_tolerance(layer.tol),
    ]  # fmt: skip


def _bar(stored: int, source: int) -> str:
    share = min(100.0, 100 * stored / source) if source else 0.0
    return f'<span class="size" aria-hidden="true"><i style="width:{share:.1f}%"></i></span>'


def _totals(report: Report) -> str:
    other = report.other
    rows = [
        _total("layers", str(len(report.layers)), report.layer_source_bytes, report.layer_stored_bytes),
        _total("other tensors, lossless", str(other.tensors), other.source_bytes, other.stored_bytes),
        [overhead_label(report), "", f"{report.source_overhead:,}", f"{report.stored_overhead:,}", ""],
    ]
    foot = [_total("whole file", "", report.source_bytes, report.output_bytes)]
    columns = ("<part", "count", "bytes in", "bytes out", "ratio")
    return "<h2>Whole file</h2>" + table("every byte of both files", columns, rows, foot)


def _total(name: str, count: str, source: int, stored: int) -> list[Cell]:
    return [name, count, f"{source:,}", f"{stored:,}", format_ratio(source / stored) if stored else ""]


def _network(report: Report) -> str:
    network = report.network
    if network is None:
        return ""
    figures = [[text(what), error, tol] for what, error, tol in network_figures(network)]
    said = text(rate_limit_line(network, report.layer_stored_bytes))
    limit = f"<p>{said}</p>" if said else ""
    table_of_figures = table("errors of what the network computes", ("<points", "error", "tol"), figures)
    ntk = "" if network.ntk is None else _ntk(network.ntk)
    return f"<h2>Network outputs</h2>{table_of_figures}{limit}{_propagation(network)}{ntk}"


def _propagation(network: NetworkRecord) -> str:
    if not network.layers:
        return ""
    rows = [
        [text(layer.name), format_error(layer.local_error), format_error(layer.propagated_error),
         f"{layer.growth:.3g}", str(layer.zero_columns), str(layer.dead_rows)]
        for layer in network.layers
    ]  # fmt: skip
    columns = ("<layer", "local error", "propagated error", "growth", "zero columns", "dead rows")
    numbered = list(enumerate(network.layers, 1))
    series = (
        Series("propagated: on the compressed network's inputs", tuple((i, x.propagated_error) for i, x in numbered)),
        Series("local: on the original inputs", tuple((i, x.local_error) for i, x in numbered)),
    )
    chart = line_chart("Error of each layer's outputs", series, Axis("layer"), Axis("relative error", log=True))
    return "<h3>Error from layer to layer</h3>" + chart + table("error of each layer's outputs", columns, rows)


def _ntk(ntk: NtkRecord) -> str:
    spectra = _curves("Spectrum of the tangent kernel", ntk.spectra, Axis("index", log=True), "eigenvalue")
    losses = _curves("Loss under the same gradient descent", ntk.training, Axis("step"), "loss")
    return spectra + losses


def _curves(title: str, curves: Curves | None, x: Axis, label: str) -> str:
    if curves is None:
        return ""
    series = (
        Series("original", tuple((float(i), value) for i, value in enumerate(curves.original, 1))),
        Series("compressed", tuple((float(i), value) for i, value in enumerate(curves.compressed, 1))),
    )
    return f"<h3>{text(title)}</h3>" + line_chart(title, series, x, Axis(label, log=True))


def _listed(title: str, intro: str, items: tuple[str, ...]) -> str:
    if not items:
        return ""
    return f"<h2>{title}</h2>{intro}<ul>{''.join(f'<li>{text(item)}</li>' for item in items)}</ul>"


def _rate_chart(title: str, points: tuple[CompareTotal, ...] | tuple[CompareRow, ...]) -> str:
    series = []
    for method in dict.fromkeys(point.method for point in points):
        line = sorted((float(p.bytes), p.error or p.tol) for p in points if p.method == method and p.bytes)
        series.append(Series(METHODS[method], tuple(line), strong=method == "hmatrix"))
    return line_chart(title, series, Axis("size", log=True, sizes=True), Axis("relative error", log=True))


def _compare_totals(report: CompareReport, tol: float) -> str:
    totals = report.totals_at(tol)
    rows = [[text(METHODS[t.method]), f"{t.bytes:,}", format_ratio(t.ratio), format_error(t.error)] for t in totals]
    ours = [total.method == "hmatrix" for total in totals]
    columns = ("<method", "bytes", "ratio", "measured error")
    return table(f"all layers at tolerance {format_tolerance(tol)}", columns, rows, strong=ours)


def _at_our_bytes(report: CompareReport, tol: float) -> str:
    totals = report.at_our_bytes_at(tol)
    rows = [[text(METHODS[t.method]), f"{t.bytes:,}", format_error(t.error)] for t in totals]
    ours = [total.method == "hmatrix" for total in totals]
    columns = ("<method", "bytes", "error of the network")
    return table(f"within our bytes at tolerance {format_tolerance(tol)}", columns, rows, strong=ours)


def _compare_layers(report: CompareReport) -> list[str]:
    parts = ["<h2>Layer by layer</h2>"] if report.rows else []
    for name in dict.fromkeys(row.layer for row in report.rows):
        rows = tuple(row for row in report.rows if row.layer == name)
        cells = [
            [text(METHODS[r.method]), format_tolerance(r.tol), f"{r.bytes:,}", format_ratio(r.ratio),
             format_error(r.error)]
            for r in rows
        ]  # fmt: skip
        columns = ("<method", "tol", "bytes", "ratio", "measured error")
        drawn = table(name, columns, cells, strong=[row.method == "hmatrix" for row in rows])
        parts.append(f"<details><summary>{text(name)}</summary>{_rate_chart(name, rows)}{drawn}</details>")
    return parts
