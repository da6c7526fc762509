"""compare: every method at the same measured error, layer by layer and in all, in both metrics."""

import math
from itertools import pairwise

import pytest
import torch

from hmcompress.commands.compare import score_matrices, summarise
from hmcompress.commands.compare_outputs import Contest, Ours, compare_network
from hmcompress.errors import SettingsError, SourceError
from hmcompress.pipeline import compare
from hmcompress.report.comparisons import METHODS


def noise(m: int, n: int, seed: int) -> torch.Tensor:
    return torch.randn(m, n, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    file = tmp_path_factory.mktemp("compare") / "net.pt"
    smooth = torch.linspace(0, 1, 64)[:, None] @ torch.linspace(1, 2, 48)[None]
    state = {
        "a.weight": noise(64, 64, 0),
        "a.bias": noise(64, 1, 1)[:, 0],
        "b.weight": smooth.bfloat16(),
        "stack": torch.stack([noise(32, 40, 2), torch.zeros(32, 40)]),
    }
    torch.save(state, file)
    return file


@pytest.fixture(scope="module")
def report(source):
    return compare(source, (1e-2, 1e-3))


def test_every_layer_has_every_method_at_every_tolerance(report):
    assert [(r.layer, r.tol, r.method) for r in report.rows] == [
        (layer, tol, method)
        for layer in ("a.weight", "b.weight", "stack")
        for tol in (1e-2, 1e-3)
        for method in METHODS
    ]
    assert [(t.tol, t.method) for t in report.totals] == [(tol, m) for tol in (1e-2, 1e-3) for m in METHODS]


def test_every_error_is_within_the_tolerance(report):
    for row in (*report.rows, *report.totals):
        assert (row.error is None) == (row.method == "rate_limit")
        assert row.error is None or row.error <= row.tol


def test_totals_are_the_sums_of_their_rows(report):
    for total in report.totals:
        rows = [row for row in report.rows if (row.tol, row.method) == (total.tol, total.method)]
        assert total.bytes == sum(row.bytes for row in rows)
        assert total.ratio == pytest.approx(sum(row.bytes * row.ratio for row in rows) / total.bytes)


def test_nothing_is_larger_than_the_weights(report):
    for row in report.rows:
        assert row.method == "rate_limit" or row.ratio > 0.98


def test_lossless_is_lossless_and_the_same_at_every_tolerance(report):
    rows = [row for row in report.rows if row.method == "lossless"]
    assert {row.error for row in rows} == {0.0}
    assert len({(row.layer, row.bytes) for row in rows}) == 3


def test_rate_limit_is_log2_of_one_over_eps_a_weight(report):
    row = next(r for r in report.rows if r.method == "rate_limit" and r.layer == "a.weight" and r.tol == 1e-2)
    assert row.bytes == math.ceil(64 * 64 * math.log2(100) / 8)


def test_ours_is_no_larger_than_the_others_on_noise(report):
    rows = {r.method: r.bytes for r in report.rows if r.layer == "a.weight" and r.tol == 1e-2}
    best = min(rows[method] for method in METHODS if method not in ("hmatrix", "rate_limit"))
    assert rows["hmatrix"] <= 1.01 * best + 64


def test_the_total_error_weighs_layers_by_their_norm():
    scores = score_matrices("large", 100 * noise(32, 32, 3), [1e-1], "default")
    scores += score_matrices("small", 0.001 * noise(32, 32, 4), [1e-3], "default")
    small_as_large = [score if score.tol == 1e-1 else type(score)(**{**vars(score), "tol": 1e-1}) for score in scores]
    total = next(t for t in summarise(small_as_large).totals if t.method == "quantization_entropy")
    large = next(r for r in summarise(small_as_large).rows if r.method == "quantization_entropy")
    assert total.error == pytest.approx(large.error, rel=1e-3)


def test_results_do_not_depend_on_jobs(source):
    one, two = (compare(source, (1e-2,), jobs=jobs) for jobs in (1, 2))
    assert one == two


def test_repeated_tolerances_are_compared_once(source):
    assert len(compare(source, (1e-2, 1e-2), include=["a.weight"]).totals) == len(METHODS)


def test_a_checkpoint_without_layers_is_one_clear_line(tmp_path):
    torch.save({"bias": torch.zeros(4)}, tmp_path / "small.pt")
    with pytest.raises(SourceError, match=r"small\.pt.*no layer to compare.*by include: in a --config file"):
        compare(tmp_path / "small.pt")


@pytest.mark.filterwarnings("error")
def test_tolerances_that_no_step_keeps_are_compared():
    for w in (torch.randn(32, 32) * 1e-40, torch.randn(32, 32), torch.full((32, 32), 0.3)):
        for tol in (1e-2, 1e-16, 1e-20, 1e-46, 1e-310):
            scores = score_matrices("w", w, [tol], "default")
            assert all(score.squared_error in (None, 0) or tol > 1e-17 for score in scores)


def test_an_impossible_tolerance_is_one_clear_line(source):
    with pytest.raises(SettingsError, match=r"tol is 1\.5"):
        compare(source, (1.5,))


# ---- metric outputs ----

LAYERS = {"a": noise(20, 8, 5), "b": noise(20, 1, 6)[:, 0], "c": noise(3, 20, 7)}


def run(tensors) -> torch.Tensor:
    x = noise(256, 8, 8)
    return torch.tanh(x @ tensors["a"].T + tensors["b"]) @ tensors["c"].T


def network_error(replaced) -> float:
    original = run(LAYERS)
    return float((run({**LAYERS, **replaced}) - original).norm() / original.norm())


@pytest.fixture(scope="module")
def outputs_report():
    contest = Contest([("a", "b"), ("c", None)], LAYERS, network_error)
    ours = Ours({"a": 300, "c": 100}, {"a": 0.5, "c": 0.1}, 9e-3, 50.0)
    return compare_network(contest, (1e-2,), lambda tol, tell: ours)


def test_every_method_holds_the_same_network_error(outputs_report):
    assert [t.method for t in outputs_report.totals] == list(METHODS)
    for total in outputs_report.totals:
        assert total.error is None or total.error <= 1e-2


def test_entropy_coded_quantisation_uses_the_network_error(outputs_report):
    total = next(t for t in outputs_report.totals if t.method == "quantization_entropy")
    assert total.error > 0.5e-2
    assert total.bytes < (20 * 9 + 60) * 4 / 3


def test_within_our_bytes_no_method_takes_more(outputs_report):
    budget = next(t.bytes for t in outputs_report.totals if t.method == "hmatrix")
    assert budget == 400
    assert all(total.bytes <= budget for total in outputs_report.at_our_bytes)
    assert [t.method for t in outputs_report.at_our_bytes] == [
        m for m in METHODS if m not in ("lossless", "rate_limit")
    ]


def test_layer_bytes_include_the_bias(outputs_report):
    rows = {(r.method, r.layer): r for r in outputs_report.rows}
    assert rows["hmatrix", "a"].ratio == pytest.approx((20 * 8 + 20) * 4 / 300)
    assert rows["svd32", "a"].bytes <= (20 * 8 + 20) * 4


def test_a_method_that_cannot_come_down_to_our_bytes_is_shown_at_its_fewest():
    odd = torch.full((8, 8), math.inf)  # has no relative error, so that others keep it
    contest = Contest([("a", "b"), ("odd", None)], {**LAYERS, "odd": odd}, network_error)
    report = compare_network(contest, (1e-2,), lambda tol, tell: Ours({"a": 30, "odd": 20}, {"a": 0.5}, 9e-3))
    ours, *others = report.at_our_bytes
    assert ours.bytes == 50 and all(total.bytes == 8 * 8 * 4 and total.error <= 1 for total in others)


@pytest.fixture(scope="module")
def pinn(tmp_path_factory):
    """A small PINN-like checkpoint and the settings of its network."""
    file = tmp_path_factory.mktemp("compare") / "pinn.pt"
    sizes = (2, 8, 1)
    state = {}
    for i, (n, m) in enumerate(pairwise(sizes)):
        state[f"net.{2 * i}.weight"] = noise(m, n, 10 + i) / n**0.5
        state[f"net.{2 * i}.bias"] = 0.1 * noise(m, 1, 20 + i)[:, 0]
    torch.save(state, file)
    return file, {
        "metric": "outputs",
        "network": {"mlp": {"activation": "tanh"}},
        "calibration": {"domain": {"x": [-1, 1], "t": [0, 1]}, "samples": 256, "held_out": 256},
        "ntk": "off",
        "effort": "fast",
    }


def test_compare_runs_a_network_from_its_settings(pinn):
    file, options = pinn
    report = compare(file, (1e-1,), **options)
    totals = {total.method: total for total in report.totals}
    assert set(totals) >= set(METHODS) - {"rate_limit"}
    assert all(total.error is None or total.error <= 1e-1 for total in report.totals)
    assert totals["hmatrix"].bytes < totals["quantization_entropy"].bytes
    assert {row.layer for row in report.rows} == {"net.0.weight", "net.2.weight"}


def test_what_is_kept_is_out_of_the_contest(pinn):
    file, options = pinn
    report = compare(file, (1e-1,), exclude=["net.2.*"], **options)
    assert {row.layer for row in report.rows} == {"net.0.weight"}
