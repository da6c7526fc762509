"""The joint stage of networks of the user's own: all their numbers as one vector, quantised block after block."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import whole_networks
from small_networks import outputs_settings, saved

from hmcompress.network import NetworkResult, compress_network
from hmcompress.network.bound.problem import Problem, pose
from hmcompress.network.joint import smallest, whole_quantise
from hmcompress.network.joint.whole import Section, Whole, numbers
from hmcompress.network.layerwise.guard import Guard
from hmcompress.network.layerwise.original import Original, prepare
from hmcompress.network.layerwise.propagate import Knobs
from hmcompress.network.layerwise.subject import Subject
from hmcompress.network.layerwise.trial import Trial
from hmcompress.settings.config import Settings
from hmcompress.work.progress import silent

HELPERS = Path(__file__).parent / "whole_networks.py"


def settings_for(name: str, **changes: object) -> Settings:
    given = {"calibration": {"samples": 1024, "held_out": 512}, **changes}
    return outputs_settings(network={"factory": f"{HELPERS}:{name}"}, **given)


def posed(name: str, **changes: object) -> tuple[Problem, Original]:
    state = getattr(whole_networks, name)().state_dict()
    problem = pose(settings_for(name, **changes), state)
    return problem, prepare(problem, state, "fast")


def compressed(name: str, folder: Path, effort: str) -> NetworkResult:
    state = getattr(whole_networks, name)().state_dict()
    return compress_network(saved(folder, state), settings_for(name, effort=effort))


def nbytes(result: NetworkResult) -> int:
    return sum(len(layer.payload) for layer in result.layers)


def test_all_numbers_are_there_and_give_the_network_s_outputs() -> None:
    problem, data = posed("kinds")
    whole = Whole(problem, data)
    assert len(whole.start) + 9 == numbers(problem, data) == 3 * 8 + 8 * 8 + 2 * 8 * 3 + 8 + 9
    assert whole.error(whole.start) < 1e-20
    assert 1e-8 < whole.error(whole.start * (1 + 1e-3)) < 1e-4


def test_the_gauss_newton_matrix_is_that_of_differences() -> None:
    problem, data = posed("kinds", calibration={"samples": 40, "held_out": 40})
    whole = Whole(problem, data)
    live = torch.ones(len(whole.start), dtype=torch.bool)
    live[::3] = False
    moved = whole.start + 1e-3 * torch.randn(len(live), generator=torch.Generator().manual_seed(0)).double()

    def outputs(theta: torch.Tensor) -> torch.Tensor:
        return whole._run(theta.clone().requires_grad_(), slice(None)).detach().reshape(-1)

    steps = 1e-6 * torch.eye(len(live), dtype=torch.float64)[live]
    jacobian = torch.stack([(outputs(moved + s) - outputs(moved - s)) / 2e-6 for s in steps], 1)
    gram, gradient = whole.normal(moved, live, 10_000)
    assert torch.allclose(gram, jacobian.T @ jacobian, rtol=1e-5, atol=1e-8 * float(gram.max()))
    assert torch.allclose(gradient, jacobian.T @ (whole.outputs.reshape(-1) - outputs(moved)), rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize(("written", "most"), [(1e3, 64), (1e4, 22), (1e6, 20)])
def test_rows_are_found_for_fewer_samples_at_once_where_each_writes_much(written: float, most: int) -> None:
    """Each row is found for all samples of its chunk: a graph attention network took 2.5 times as long."""
    problem, data = posed("kinds")
    whole = Whole(problem, data)
    whole.network = replace(whole.network, written=written)
    found, jacobian = list[int](), whole._jacobian
    whole._jacobian = lambda theta, part, signs: found.append(len(signs)) or jacobian(theta, part, signs)
    whole.normal(whole.start, torch.ones(len(whole.start), dtype=torch.bool), 256)
    assert max(found) == most


def test_projections_of_many_samples_stand_for_all_outputs() -> None:
    problem, data = posed("forces")
    whole = Whole(problem, data)
    live = torch.ones(len(whole.start), dtype=torch.bool)
    exact, _ = whole.normal(whole.start, live, 2048)
    projected, _ = whole.normal(whole.start, live, 1024)
    assert 0 < float((exact - projected).norm()) < 0.1 * float(exact.norm())


def test_forces_take_fewer_bytes_than_by_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smallest, "_WORK", {"default": 5e9})
    ours = compressed("forces", tmp_path, "default")
    assert 0.4e-2 < ours.record.error <= 1e-2  # of 72 bytes: few integers, by which errors jump
    assert nbytes(ours) < 0.8 * nbytes(compressed("forces", tmp_path, "fast"))


def test_what_nothing_reads_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_quantise, "_MOST", 3)
    problem, data = posed("kinds")
    measured = Subject(problem, {}, data, Guard.of(problem, data, 1e-2), silent).measure(1e-2, None)
    trial = whole_quantise.smallest_whole(
        problem, data, 1e-2, "default", measured, lambda parts: True, lambda share: None, lambda: math.inf
    )
    assert trial is not None and trial.error <= 1e-2
    assert torch.equal(trial.parts["unread"].dense().float(), whole_networks.kinds().unread)
    assert trial.parts["waves"].dense().is_complex()


@pytest.mark.parametrize("changes", [{"samples": 24, "held_out": 64}, {"derivatives": 1}])
def test_few_samples_and_derivatives_are_left_to_the_passes(changes: dict) -> None:
    problem, data = posed("kinds", calibration=changes)
    trial = whole_quantise.smallest_whole(
        problem, data, 1e-2, "default", lambda parts: 0.0, bool, lambda share: None, lambda: math.inf
    )
    assert trial is None


def test_a_network_that_breaks_on_the_way_is_a_trial_that_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, data = posed("forces")
    stage = whole_quantise.WholeStage(Whole(problem, data), 1e-2, lambda parts: 0.0)
    stage.whole.start[0] = math.nan
    assert stage._trial(1e-9, 10.0).error == math.inf


def test_the_caution_stays_between_what_held_and_what_did_not() -> None:
    assert whole_quantise._next([(2.0, 0.5)]) > 2.0 > whole_quantise._next([(2.0, -0.5)])
    assert 1.0 < whole_quantise._next([(1.0, 0.4), (2.0, -0.4)]) < 2.0


def test_the_same_network_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_quantise, "_MOST", 1)
    monkeypatch.setattr(whole_quantise, "_FEWEST", 1)
    problem, data = posed("kinds")

    def payloads() -> list[bytes]:
        stage = whole_quantise.WholeStage(Whole(problem, data), 1e-2, lambda parts: 1e-2)
        return [part.payload(thorough=False) for part in stage._trial(1e-8, 10.0).parts.values()]

    assert payloads() == payloads()
    assert np.sum([len(p) for p in payloads()]) > 0


def test_a_number_that_is_alone_in_its_weight_is_rounded() -> None:
    whole = Whole(*posed("kinds"))
    sweep = whole_quantise.Sweep(whole, 1e-8, torch.full_like(whole.start, 1e-6))
    grid = sweep.quantise(Section("scale", (1, 1), np.array([5])))
    assert grid.q.shape == (1, 1) and grid.q.any()
    assert not sweep.live[5] and sweep.live.sum() == len(whole.start) - 1


def test_a_network_whose_gradients_are_found_one_by_one_is_left_to_the_passes() -> None:
    problem, data = posed("one_by_one")
    stage = whole_quantise.WholeStage(Whole(problem, data), 1e-2, lambda parts: 0.0)
    stage.search(2.4e11, lambda share: None, 1e4)
    assert [trial.error for trial in stage.trials] == [math.inf]


def test_a_network_of_many_operations_is_left_to_the_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, data = posed("kinds")
    whole = Whole(problem, data)
    assert 10 < whole.work() < 60
    stage = whole_quantise.WholeStage(whole, 1e-2, lambda parts: 0.0)
    assert not stage.is_slow(2.4e11)
    monkeypatch.setattr(whole_quantise, "_MOST_WORK", 10 * len(whole.start))
    assert not stage.is_slow(2.4e11)  # many samples pass each operation together
    monkeypatch.setattr(whole_quantise, "_MOST_CALLS", 100)
    assert stage.is_slow(2.4e11)


def test_a_network_that_writes_much_gets_fewer_trials_or_is_left_to_the_passes() -> None:
    problem, data = posed("kinds")
    whole = Whole(problem, data)
    stage = whole_quantise.WholeStage(whole, 1e-2, lambda parts: 0.0)
    usual = stage._each()
    whole.network = replace(whole.network, written=3e4)
    assert 2 * usual < stage._each()
    assert not stage.is_slow(2.4e11)
    whole.network = replace(whole.network, written=1e6)
    assert stage.is_slow(2.4e11)


@pytest.mark.parametrize(("worth", "trials"), [(math.inf, 3), (1.0, 1)])
def test_what_promises_more_bytes_than_passes_is_given_up(
    monkeypatch: pytest.MonkeyPatch, worth: float, trials: int
) -> None:
    monkeypatch.setattr(whole_quantise, "_MOST", 1)
    problem, data = posed("kinds")
    stage = whole_quantise.WholeStage(Whole(problem, data), 1e-2, lambda parts: 2e-2)
    stage.search(2.4e11, lambda share: None, worth)
    assert len(stage.trials) == trials


@pytest.mark.parametrize(("errors", "trials"), [([1.0, 1e-2, 1e-2], 2), ([1.0, 2.0, 1.0, 1.0], 3), ([math.inf], 1)])
def test_a_first_trial_that_is_far_too_coarse_gives_nothing_up(
    monkeypatch: pytest.MonkeyPatch, errors: list[float], trials: int
) -> None:
    problem, data = posed("kinds")
    stage = whole_quantise.WholeStage(Whole(problem, data), 1e-2, lambda parts: 0.0)
    left = iter(errors)
    monkeypatch.setattr(stage, "_trial", lambda level, caution: Trial(Knobs(level), {}, 100, next(left)))
    stage.search(2.4e11, lambda share: None, 50.0)
    assert len(stage.trials) == trials
