"""Errors that are reported and not bounded are left blank, with a note, where the original network has no outputs."""

import json
import math
import re
from pathlib import Path

import gradient_networks
import numpy as np
import pytest
from small_networks import outputs_settings, saved

import hmcompress
from hmcompress.cli import run
from hmcompress.errors import NetworkError
from hmcompress.report.records import Report

HELPERS = Path(__file__).parent / "gradient_networks.py"
POSITIVE = {"x": [0.001, 1], "t": [0.001, 1]}


def compressed(name: str, folder: Path, **calibration: object) -> Report:
    source = saved(folder, gradient_networks.Energy().state_dict()).path
    given = {"samples": 256, "held_out": 128, **calibration}
    settings = outputs_settings(network={"factory": f"{HELPERS}:{name}"}, calibration=given)
    return hmcompress.compress(source, folder / "small.hmc.safetensors", settings=settings)


@pytest.mark.parametrize(("name", "why"), [("Logarithm", r"nan or inf on \d+ of 128 widened"), ("Strict", "positive")])
def test_a_wider_domain_on_which_the_original_does_not_run_is_a_note(name: str, why: str, tmp_path: Path) -> None:
    report = compressed(name, tmp_path, domain=POSITIVE)
    assert report.network is not None and report.network.widened_error is None
    assert report.network.error <= 1e-2
    (note,) = (n for n in report.notes if n.startswith("domain widened by 10 %: not measured, "))
    assert re.search(why, note)


def positive(folder: Path) -> str:
    """Points over three decades: one per cent of their deviation is more than the smallest of them."""
    x = np.exp(np.random.default_rng(0).uniform(np.log(1e-3), 0, (1024, 2))).astype(np.float32)
    np.save(folder / "x.npy", x)
    return str(folder / "x.npy")


def test_noise_that_leaves_the_domain_is_blank_wherever_it_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = compressed("Logarithm", tmp_path, inputs=positive(tmp_path))
    note = next(n for n in report.notes if n.startswith("1 % noise on the inputs: not measured, "))
    assert "noisy points" in note and "check the" not in note
    file, page = str(report.output), tmp_path / "page.html"
    capsys.readouterr()
    assert run(["report", file, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["network"]["noisy_error"] is None and note in data["notes"]
    assert run(["report", file, "--html", str(page)]) == 0
    shown = capsys.readouterr().out
    assert "1 % noise on the inputs: not measured" in " ".join(shown.split())
    assert "1 % noise on the inputs: not measured" in page.read_text(encoding="utf-8")
    assert hmcompress.verify(file, tmp_path / "model.pt").passed


def some_negative(folder: Path, bad: slice) -> str:
    """Positive points, of which some of those that the seed 0 deals out are negative."""
    rng = np.random.default_rng(0)
    order = rng.permutation(512)
    x = rng.uniform(0.1, 1, (512, 2)).astype(np.float32)
    x[order[bad]] *= -1
    np.save(folder / "x.npy", x)
    return str(folder / "x.npy")


def test_fresh_points_without_outputs_leave_the_verdict_to_the_held_out_ones(tmp_path: Path) -> None:
    report = compressed("Logarithm", tmp_path, inputs=some_negative(tmp_path, slice(128, 256)), seed=0)
    assert any(n.startswith("not measured on fresh points: ") for n in report.notes)
    verdict = hmcompress.verify(report.output, tmp_path / "model.pt")
    assert verdict.passed and verdict.network is not None and verdict.network.fresh_error is None


@pytest.mark.parametrize(("fold", "where"), [("held-out", 5), ("calibration", 300)])
def test_points_that_the_bound_is_measured_on_need_outputs(fold: str, where: int, tmp_path: Path) -> None:
    inputs = some_negative(tmp_path, slice(where, where + 1))
    with pytest.raises(NetworkError, match=f"nan or inf on 1 of [0-9]+ {fold} points: check the domain"):
        compressed("Logarithm", tmp_path, inputs=inputs, seed=0)


def test_figures_that_can_be_measured_are(tmp_path: Path) -> None:
    network = compressed("Logarithm", tmp_path, domain={"x": [1, 2], "t": [1, 2]}).network
    assert network is not None and network.widened_error is not None and network.noisy_error is not None
    assert math.isfinite(network.widened_error + network.noisy_error)
