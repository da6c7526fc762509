"""Claims about the terminal: golden output, 80 columns, and that nothing is hidden in the totals."""

import io
import os
from dataclasses import replace
from pathlib import Path

import pytest
import samples

from hmcompress.report.comparisons import BenchReport, BenchRow
from hmcompress.report.groups import MAX_ROWS, layer_rows
from hmcompress.report.lines import fresh_line
from hmcompress.report.table import layer_view, report_view
from hmcompress.report.terminal import plain_console
from hmcompress.report.verdict_table import bench_view, compare_view, verify_view

GOLDEN = Path(__file__).parent / "golden"


def drawn(view, width: int = 80) -> str:
    out = io.StringIO()
    plain_console(file=out, width=width, force_terminal=False, legacy_windows=False).print(view)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def check(name: str, text: str) -> None:
    """Compare with the golden file; HMC_GOLDEN=write renews it (look at the difference before you commit it)."""
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("HMC_GOLDEN") == "write":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["small", "network", "large", "violated"])
def test_report_at_80_columns_is_golden(name):
    check(f"report_{name}", drawn(report_view(getattr(samples, name)(), 80)))


def test_report_at_140_columns_is_golden():
    check("report_wide", drawn(report_view(samples.small(), 140), 140))


def test_other_views_are_golden():
    check("layer", drawn(layer_view(samples.small().layers[0], samples.small())))
    check("layer_of_network", drawn(layer_view(samples.network().layers[0], samples.network())))
    check("verify_passed", drawn(verify_view(samples.verified(), "m.hmc.safetensors", 80)))
    check("verify_failed", drawn(verify_view(samples.verified(False), "m.hmc.safetensors", 80)))
    check("verify_foreign", drawn(verify_view(samples.foreign(), "m.hmc.safetensors", 80)))
    check("verify_network", drawn(verify_view(samples.verified_network(error=0.02), "m.hmc.safetensors", 80)))
    check("verify_few_points", drawn(verify_view(samples.verified_few_points(), "m.hmc.safetensors", 80)))
    check("compare", drawn(compare_view(samples.compared())))
    check("bench", drawn(bench_view(samples.benched(), 80)))


def test_a_layer_in_another_norm_than_the_report_says_so():
    small = samples.small()
    layer = replace(small.layers[0], norm="max")
    report = replace(small, layers=(layer, *small.layers[1:]))
    assert f"{layer.method} (max)" in " ".join(drawn(report_view(report, 140), 140).split())
    assert "(max), tolerance" in drawn(layer_view(layer, report))
    rows = report.to_json()["layers"]
    assert rows[0]["norm"] == "max" and all("norm" not in row for row in rows[1:])


def test_no_figure_of_a_bench_is_cut_off():
    seconds = [6.734e-6, 99.9994e-6, 1.2344e-4, 0.99951, 9.9994]
    rows = tuple(BenchRow("a.long.name.of.a.layer", 1, "lowrank", s, s, 1_230_000, 123_000) for s in seconds)
    text = drawn(bench_view(BenchReport(rows, ()), 80))
    assert text.count("1.23 MB -> 123 kB") == 5 and text.count("1.00x") == 5
    assert all(text.count(time) == 2 for time in ("6.73 us", "100 us", "0.123 ms", "1 s", "10 s"))


@pytest.mark.parametrize("width", [70, 80, 100, 133, 134, 200])
@pytest.mark.parametrize("name", ["small", "network", "large", "violated"])
def test_no_figure_is_cut_off(name, width):
    text = drawn(report_view(getattr(samples, name)(), width), width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "\u2026" not in text


def test_a_large_model_fits_on_a_few_screens_and_says_that_it_groups():
    text = drawn(report_view(samples.large(), 80))
    assert len(text.splitlines()) < 2 * MAX_ROWS + 30
    assert "(100 layers)" in text and "--layer NAME" in text


@pytest.mark.parametrize("count", [1, 5, 40, 41, 100, 500])
@pytest.mark.parametrize("limit", [1, 3, MAX_ROWS])
def test_every_layer_is_in_exactly_one_row(count, limit):
    report = samples.large(count) if count >= 5 else samples.small()
    rows = layer_rows(report.layers, limit)
    names = [layer.name for row in rows for layer in row.members]
    assert sorted(names) == sorted(layer.name for layer in report.layers)
    assert len(rows) <= max(limit, 1)
    assert sum(row.stored_bytes for row in rows) == report.layer_stored_bytes
    assert sum(row.source_bytes for row in rows) == report.layer_source_bytes


def test_a_row_shows_the_layer_nearest_to_its_tolerance():
    rows = layer_rows(samples.large().layers)
    assert all(row.worst.error == max(layer.error for layer in row.members) for row in rows)


def test_a_violated_bound_stands_out():
    text = drawn(report_view(samples.violated(), 80))
    assert "1 of 5 bounds are VIOLATED: net.2.weight" in text and "1.01e-3!" in text


HOSTILE_VIEWS = {
    "report": lambda: report_view(samples.hostile(), 80),
    "layer": lambda: layer_view(samples.hostile().layers[0], samples.hostile()),
    "bench": lambda: bench_view(
        BenchReport((BenchRow("[red]a[/b]:smile:\x1b[31m<\u202e", 1, "dense", 1, 1, 1, 1),)), 200
    ),
}


@pytest.mark.parametrize("view", HOSTILE_VIEWS)
def test_names_cannot_steer_the_terminal(view):
    out = io.StringIO()
    plain_console(file=out, width=200, force_terminal=True, color_system="truecolor").print(HOSTILE_VIEWS[view]())
    assert "\x1b[31m<" not in out.getvalue() and "\u202e" not in out.getvalue()
    assert "[red]" in out.getvalue()  # markup is shown, not obeyed


@pytest.mark.parametrize(
    ("fresh", "held_out", "said"),
    [(9.8e-4, 250, False), (1.01e-3, 4096, True), (9.99e-4, 4096, False), (1.01e-3, 250, True)],
)
def test_what_fresh_points_show_is_said_where_it_differs(fresh: float, held_out: int, said: bool) -> None:
    network = samples.verified_few_points(fresh, held_out).network
    assert network is not None and network.passed  # the exit code stays
    assert (fresh_line(network) is not None) == said
    assert ("above the tolerance" in (fresh_line(network) or "")) == (fresh > network.tol)
