"""Few samples: the metric allows for what they do not say, and the file is not tied to the ones that were seen."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign_networks import Convolutions, Residual
from small_networks import outputs_settings, saved, stack
from torch import Tensor

import hmcompress
import hmcompress.network.layerwise.budget as budget
import hmcompress.network.layerwise.ways as ways
from hmcompress.network import NetworkResult, compress_network, pose
from hmcompress.network.bound.outcome import few_carry_the_error, too_few_samples
from hmcompress.network.layerwise.guard import Guard
from hmcompress.network.layerwise.moments import input_moments, regularised, sampling_noise
from hmcompress.network.layerwise.propagate import Knobs
from hmcompress.network.layerwise.search import search
from hmcompress.network.layerwise.subject import Subject
from hmcompress.network.layerwise.trial import Trial
from hmcompress.network.layerwise.way import Way
from hmcompress.network.layerwise.ways import trials_by_passes
from hmcompress.network.owned import load_tensors
from hmcompress.report.lines import fresh_line
from hmcompress.report.records import NetworkRecord, Report
from hmcompress.report.verdicts import VerifyReport
from hmcompress.work.progress import silent

FOREIGN = Path(__file__).parent / "foreign_networks.py"


def layer_bytes(result: NetworkResult) -> int:
    return sum(len(layer.payload) for layer in result.layers)


def samples_of(covariance: np.ndarray, count: int, seed: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.multivariate_normal(np.zeros(len(covariance)), covariance, count))


def distance(moment: np.ndarray, share: float, truth: np.ndarray) -> float:
    return float(np.linalg.norm(regularised(moment, share) / (1 + share) - truth))


def moment_of(x: Tensor) -> np.ndarray:
    return input_moments([x], [x], [], False)[0]


def noise_of(x: Tensor) -> float:
    return sampling_noise(x, False, moment_of(x))


@pytest.mark.parametrize("decay", [0.0, 0.3, 1.0])
def test_sampling_noise_is_about_the_share_that_fits_further_samples_best(decay: float) -> None:
    truth = np.diag(np.arange(1.0, 101.0) ** -decay)
    x = samples_of(truth, 60)
    moment = moment_of(x)
    best = min(distance(moment, share, truth) for share in np.geomspace(1e-3, 1e2, 100))
    assert distance(moment, noise_of(x), truth) < min(1.05 * best, distance(moment, 0.0, truth))


def test_rows_of_one_sample_are_not_further_samples() -> None:
    x = samples_of(np.eye(20), 30)
    repeated = x.repeat_interleave(4, 0)
    assert noise_of(repeated.reshape(30, 4, 20)) == pytest.approx(noise_of(x), rel=1e-4)
    assert noise_of(repeated) < 0.5 * noise_of(x)


def test_equal_inputs_have_no_sampling_noise() -> None:
    assert noise_of(torch.ones(10, 4, dtype=torch.float64)) < 1e-12


def test_few_samples_do_not_tie_the_file_to_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((200, 8, 16), np.float32))
    checkpoint = saved(tmp_path, Residual().state_dict())
    calibration = {"inputs": str(tmp_path / "x.npy"), "samples": 32, "held_out": 64}
    settings = outputs_settings(network={"factory": f"{FOREIGN}:Residual"}, calibration=calibration, tol=0.1)
    monkeypatch.setattr(budget, "_MOST", {"fast": 8})
    result = compress_network(checkpoint, settings)

    def refitted(*args: Any, **options: Any) -> Trial | None:
        *rest, way = args
        return None if way.near else search(*rest, replace(way, near=False), **options)

    monkeypatch.setattr(ways, "search", refitted)
    other = compress_network(checkpoint, settings)
    assert result.record.error <= 0.1 and other.record.error <= 0.1
    assert layer_bytes(result) < 0.8 * layer_bytes(other)
    assert result.record.calibration_error / result.record.error > other.record.calibration_error / other.record.error


def test_firm_regularisers_come_last_so_that_they_end_early_where_the_way_near_the_weights_is_much_smaller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[tuple[bool | None, bool, float]] = []

    def noted(*args: Any, **options: Any) -> Trial:
        way = args[-1]
        tried.append((way.near, way.firm, options["worth"]))
        return Trial(Knobs(1.0), {}, 1000 if way.near else 3000, 0.0)

    monkeypatch.setattr(ways, "search", noted)
    np.save(tmp_path / "x.npy", np.random.default_rng(3).uniform(-1, 1, (96, 2)))
    source = saved(tmp_path, stack([2, 48, 48, 1]))
    settings = outputs_settings(calibration={"inputs": str(tmp_path / "x.npy")})
    problem = pose(settings, load_tensors(source))
    subject = Subject.of(problem, load_tensors(source), settings.tol, settings.effort, silent)
    trials_by_passes(subject, settings, lambda parts: 0.0, None)
    assert [(near, firm) for near, firm, _ in tried] == [(False, False), (True, False), (False, True)]
    assert tried[-1][2] < 3000


class Bytes:
    """Stands for a coded part."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes

    def payload(self, thorough: bool) -> bytes:
        return bytes(self.nbytes)


def passes_of(**options: Any) -> list[Knobs]:
    """The knobs of every pass where finer steps cost bytes and firmer ridges save some."""
    tried: list[Knobs] = []

    def run(knobs: Knobs) -> dict[str, Any]:
        tried.append(knobs)
        return {"w": Bytes(int((500 if knobs.shrinkage else 1000) / knobs.delta**0.3))}

    search(run, lambda parts: 2 * tried[-1].delta, 1e-2, 60, lambda done: None, Way(**options))
    return tried


def test_few_samples_are_searched_near_the_original_weights_where_that_is_smaller() -> None:
    tried = passes_of(few=True, near=None)
    assert tried[0].shrinkage == 0.0 and all(knobs.shrinkage for knobs in tried[10:])
    assert len({knobs.shrinkage for knobs in tried}) > 3
    assert not any(knobs.shrinkage for knobs in passes_of())


def test_without_dense_layers_only_what_changes_a_pass_is_turned() -> None:
    tried = passes_of(dense=False)
    assert len(tried) <= 20 < len(passes_of())
    assert {replace(knobs, delta=1.0, dead_zone=0.0) for knobs in tried} == {Knobs(1.0, 0.0)}


def test_a_network_of_convolutions_is_searched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Way] = []

    def noted(*args: Any, **options: Any) -> Trial | None:
        calls.append(args[-1])
        return search(*args, **options)

    monkeypatch.setattr(ways, "search", noted)
    torch.manual_seed(0)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((96, 1, 8, 8), np.float32))
    calibration = {"inputs": str(tmp_path / "x.npy"), "samples": 64, "held_out": 32}
    settings = outputs_settings(network={"factory": f"{FOREIGN}:Convolutions"}, calibration=calibration)
    result = compress_network(saved(tmp_path, Convolutions().state_dict()), settings)
    assert result.record.error <= 1e-2
    assert [(way.dense, way.firm) for way in calls] == [(False, False)]


def few_rows(folder: Path) -> tuple[Report, VerifyReport]:
    np.save(folder / "x.npy", np.random.default_rng(3).uniform(-1, 1, (96, 2)))
    source = saved(folder, stack([2, 48, 48, 1], gain=3.0)).path
    settings = outputs_settings(tol=1e-3, calibration={"inputs": str(folder / "x.npy")})
    report = hmcompress.compress(source, folder / "small.hmc.safetensors", settings=settings, force=True)
    return report, hmcompress.verify(folder / "small.hmc.safetensors", source)


def test_what_few_held_out_points_hide_is_said_by_compress_and_verify(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fresh ones are far off where no others were looked at; the bound holds on 24 points and the file passes."""
    monkeypatch.setattr(Guard, "error", lambda self, parts: 0.0)
    report, verdict = few_rows(tmp_path)
    assert verdict.passed and verdict.network is not None and verdict.network.held_out == 24
    said = fresh_line(verdict.network)
    assert said is not None and said in report.notes
    assert "measured on 24 held-out points only: fresh points gave" in said


def test_points_that_nothing_was_chosen_by_bring_fresh_ones_near_the_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, guarded = few_rows(tmp_path)
    monkeypatch.setattr(Guard, "error", lambda self, parts: 0.0)
    _, alone = few_rows(tmp_path)
    assert guarded.network is not None and alone.network is not None
    assert guarded.network.fresh_error is not None and alone.network.fresh_error is not None
    assert guarded.network.fresh_error < 0.7 * alone.network.fresh_error


def test_too_few_samples_are_said_where_the_calibration_points_show_no_error_at_all() -> None:
    record = NetworkRecord(tol=1e-2, error=1e-3, calibration_error=0.0, samples=8, seed=0)
    assert "raise calibration samples above 8" in (too_few_samples(record) or "")


@pytest.mark.parametrize(("spread", "told"), [(4.0, True), (0.0, False)])
def test_few_points_that_carry_the_error_are_told(tmp_path: Path, spread: float, told: bool) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 4)) * np.exp(spread * rng.standard_normal((400, 1)))
    np.savez(tmp_path / "x.npz", x=x.astype("f"))
    calibration = {"inputs": str(tmp_path / "x.npz"), "samples": 200, "held_out": 200}
    weight = torch.from_numpy(rng.standard_normal((3, 4))).float()
    problem = pose(outputs_settings(network={"linear": {}}, calibration=calibration), {"weight": weight})
    line = few_carry_the_error(problem, {"weight": 1.001 * weight})
    assert (line is not None) == told and (
        not told or "of the squared error lies on 1 of 100 held-out points" in str(line)
    )
    assert few_carry_the_error(problem, {"weight": weight}) is None
