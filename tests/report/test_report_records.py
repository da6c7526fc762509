"""Claims about the records: exact keys, sums, and no nan in JSON."""

import dataclasses
import json
import math

import pytest
import samples

from hmcompress.commands.reporting import network_from_json, stored_record
from hmcompress.errors import FormatError
from hmcompress.report.json import render_json
from hmcompress.report.lines import bound_line, network_figures, overhead_label
from hmcompress.report.records import LayerRecord, Report

REPORT_KEYS = [
    "schema", "command", "source", "output", "source_bytes", "output_bytes", "ratio", "tol", "norm", "metric",
    "layers", "other", "left_behind", "network", "seconds", "peak_rss_bytes",
]  # fmt: skip
LAYER_KEYS = [
    "name", "shape", "dtype", "source_bytes", "stored_bytes", "ratio", "bits_per_weight", "rate_limit", "tol", "error",
    "max_abs_error", "method", "leaves", "max_rank", "seconds",
]  # fmt: skip
NETWORK_KEYS = [
    "tol", "error", "calibration_error", "samples", "seed", "widened_error", "noisy_error", "derivative_errors",
    "reference", "ntk", "rate_limit_bytes", "layers",
]  # fmt: skip


def document(record) -> dict:
    text = render_json(record)

    def refuse(constant):
        raise AssertionError(f"{constant} in JSON")

    return json.loads(text, parse_constant=refuse)


def test_report_has_exactly_the_keys_of_the_schema():
    data = document(samples.small())
    assert list(data) == REPORT_KEYS and data["schema"] == 1 and data["network"] is None
    assert list(data["layers"][0]) == LAYER_KEYS
    assert list(data["layers"][0]["leaves"]) == ["zero", "low_rank", "quantized", "hybrid"]
    assert list(data["other"]) == ["tensors", "source_bytes", "stored_bytes"]


def test_network_has_exactly_the_keys_of_the_schema():
    data = document(samples.network())["network"]
    assert list(data) == NETWORK_KEYS
    assert list(data["reference"]) == ["before", "after"]
    ntk = ["tol", "samples", "error", "alignment", "min_eigenvalue", "trace_ratio"]
    assert list(data["ntk"])[:6] == ntk and set(data["ntk"]) - set(ntk) == {"spectra", "training"}
    assert list(data["layers"][0]) == [
        "name", "local_error", "propagated_error", "growth", "zero_columns", "dead_rows",
    ]  # fmt: skip


def test_an_unbounded_ntk_says_null_and_carries_no_empty_curves():
    report = samples.network()
    ntk = dataclasses.replace(report.network.ntk, tol=None, spectra=None, training=None)
    data = document(dataclasses.replace(report, network=dataclasses.replace(report.network, ntk=ntk)))
    assert list(data["network"]["ntk"]) == ["tol", "samples", "error", "alignment", "min_eigenvalue", "trace_ratio"]
    assert data["network"]["ntk"]["tol"] is None


def test_verify_compare_and_bench_have_exactly_the_keys_of_the_schema():
    verify = document(samples.verified())
    assert list(verify) == ["schema", "command", "passed", "layers", "network"]
    assert list(verify["layers"][0]) == ["name", "tol", "error", "passed"]
    compare = document(samples.compared())
    assert list(compare) == ["schema", "command", "rows", "totals"]
    assert list(compare["rows"][0]) == ["layer", "tol", "method", "bytes", "error", "ratio"]
    assert list(compare["totals"][0]) == ["tol", "method", "bytes", "error", "ratio"]
    assert [document(r)["command"] for r in (samples.compared(), samples.benched())] == ["compare", "bench"]


def test_parts_add_up_to_the_whole_files():
    for report in (samples.small(), samples.large(), samples.network()):
        assert report.layer_source_bytes + report.other.source_bytes + report.source_overhead == report.source_bytes
        assert report.layer_stored_bytes + report.other.stored_bytes + report.stored_overhead == report.output_bytes


def test_derived_figures_of_a_layer():
    record = samples.layer(tol=1e-2, stored_bytes=32_768)
    assert record.ratio == 32 and record.bits_per_weight == 1.0
    assert record.rate_limit == pytest.approx(math.log2(100))
    assert samples.layer(tol=None).rate_limit is None


def test_an_empty_layer_and_an_empty_file_have_a_ratio():
    empty = LayerRecord("w", (0, 4), "float32", 0, 0, 1e-3, 0.0, 0.0, "raw")
    assert empty.ratio == 1.0 and empty.bits_per_weight == 0.0
    document(Report("report", "a", "b", 0, 0, 1e-3, "fro", "weights", (empty,)))


def test_json_has_no_nan_or_infinity():
    bad = samples.layer(error=math.nan, max_abs_error=math.inf)
    data = document(dataclasses.replace(samples.small(), layers=(bad,)))
    assert data["layers"][0]["error"] is None and data["layers"][0]["max_abs_error"] is None


def test_a_nan_error_is_no_pass():
    nan = samples.layer(error=math.nan)
    assert not dataclasses.replace(samples.small(), layers=(nan,)).passed
    assert not samples.verified_network(error=math.nan).passed


def test_passed_follows_every_bound():
    report = samples.network()
    for change in ({"error": 1.1e-2}, {"error": math.nan}, {"derivative_errors": (0.0, 1.1e-2)},
                   {"ntk": dataclasses.replace(report.network.ntk, error=0.11)}):  # fmt: skip
        network = dataclasses.replace(report.network, **change)
        assert not dataclasses.replace(report, network=network).passed
        assert "VIOLATED" in bound_line(dataclasses.replace(report, network=network))
    assert samples.small().passed and not samples.violated().passed
    assert samples.verified().passed and not samples.verified(False).passed
    assert samples.verified(False).offending == ("net.2.weight",)
    assert samples.verified_network().passed
    assert not samples.verified_network(error=1.1e-2).passed
    assert not samples.verified_network(ntk_error=0.2).passed
    assert not document(samples.verified(False))["passed"]


def test_json_survives_hostile_names():
    assert document(samples.hostile())["layers"][0]["name"] == samples.HOSTILE


def test_the_record_of_a_network_comes_back_from_json():
    data = json.loads(json.dumps(samples.network().network.to_json()))
    assert network_from_json(data) == samples.network().network


@pytest.mark.parametrize("wrong", [None, "1", [], [1.0], {}, True])
@pytest.mark.parametrize("key", ["tol", "error", "calibration_error", "samples", "seed"])
def test_a_number_of_a_network_that_is_none_is_refused(key, wrong):
    data = json.loads(json.dumps(samples.network().network.to_json())) | {key: wrong}
    with pytest.raises(FormatError, match="makes no sense"):
        network_from_json(data)


@pytest.mark.parametrize("wrong", ["1", [2.0, "x"], {"a": 1}, True])
@pytest.mark.parametrize("key", ["noisy_error", "derivative_errors", "ntk", "layers", "reference"])
def test_a_part_of_a_network_of_another_kind_is_refused(key, wrong):
    data = json.loads(json.dumps(samples.network().network.to_json())) | {key: wrong}
    with pytest.raises(FormatError, match="makes no sense"):
        network_from_json(data)


def test_the_error_of_the_function_alone_is_there_where_derivatives_are_bounded() -> None:
    """Beside the largest of all, which is the one that is bounded; files without it are read as before."""
    record = samples.network(4.2e-3).network
    assert record is not None and document(samples.network(4.2e-3))["network"]["function_error"] == 4.2e-3
    assert ("  the function alone", "4.20e-3", "") in network_figures(record)
    stored = stored_record(record)
    assert network_from_json(stored).function_error == 4.2e-3
    assert network_from_json({k: v for k, v in stored.items() if k != "function_error"}).function_error is None


def test_what_is_neither_layers_nor_other_tensors_is_named():
    report = samples.small()
    assert overhead_label(report) == "headers, index, plain values"
    out = dataclasses.replace(report, left_behind=("2 tensors, 9,000 bytes: dropped on request",))
    assert overhead_label(out) == "headers, index, what was dropped"
    assert overhead_label(dataclasses.replace(report, source_bytes=1000)) == "headers, index, less what is packed"
