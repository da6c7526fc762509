"""Points that nothing is chosen by: what the search finds must hold there too, or it aims lower."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_networks import outputs_settings, saved, stack

import hmcompress.network.driver as driver
from hmcompress.network import compress_network
from hmcompress.network.bound.error import squared_rows
from hmcompress.network.bound.problem import Problem, pose
from hmcompress.network.layerwise.guard import Guard, _doubt
from hmcompress.network.layerwise.original import prepare
from hmcompress.network.layerwise.propagate import Knobs, decoded, run_pass
from hmcompress.network.layerwise.trial import Trial


def aims(monkeypatch: pytest.MonkeyPatch, errors: list[float], tmp_path: Path) -> tuple[list[float], list[int], float]:
    """What searches aim at, the bytes they find, and the bytes kept, where guard points show these errors in turn."""
    aimed, found, left = [], [], list(errors)
    search = driver._search

    def noted(subject: Any, settings: Any, small: Any) -> list[Trial]:
        aimed.append(settings.tol)
        trial = min(search(subject, settings, small), key=lambda trial: trial.cost)
        found.append(sum(len(part.payload(thorough=False)) for part in trial.parts.values()))
        monkeypatch.setattr(Guard, "error", lambda self, parts: left.pop(0))
        return [trial]

    def as_at_first(self: Guard, parts: Any) -> float:
        return 0.0

    def searched(*args: Any) -> list[Trial]:
        monkeypatch.setattr(Guard, "error", as_at_first)
        return noted(*args)

    monkeypatch.setattr(driver, "_search", searched)
    result = compress_network(saved(tmp_path, stack([2, 24, 24, 1])), outputs_settings())
    return aimed, found, result.record.error


def test_a_search_aims_lower_by_what_guard_points_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aimed, found, error = aims(monkeypatch, [1.5e-2, 0.9e-2], tmp_path)
    assert aimed == [1e-2, pytest.approx(0.66e-2)]
    assert found[1] > found[0] and error <= 0.66e-2


def test_one_search_is_enough_where_guard_points_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert aims(monkeypatch, [0.99e-2], tmp_path)[0] == [1e-2]


def test_a_search_aims_lower_by_what_calibration_points_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights were fitted to these: where held-out points show less by chance, they miss what is rare."""
    errors, aimed, search = Problem.errors, [], driver._search

    def rare(self: Problem, ref: Any, tensors: Any) -> list[float]:
        return [1.65e-2] if ref is self.calibration and tensors else errors(self, ref, tensors)

    def noted(subject: Any, settings: Any, small: Any) -> list[Trial]:
        aimed.append(settings.tol)
        return search(subject, settings, small)

    monkeypatch.setattr(Problem, "errors", rare)
    monkeypatch.setattr(driver, "_search", noted)
    result = compress_network(saved(tmp_path, stack([2, 24, 24, 1])), outputs_settings())
    assert aimed[:2] == [1e-2, pytest.approx(0.66e-2)]
    assert any("calibration points show an error of 0.0165, above the tolerance" in note for note in result.notes)


def test_searches_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that comes nearest is kept; the bound of the held-out points is that of every one."""
    aimed, _, error = aims(monkeypatch, [9e-2, 1.1e-2, 1.2e-2], tmp_path)
    assert aimed == [1e-2, pytest.approx(0.5e-2), pytest.approx(0.45e-2)]
    assert 0.45e-2 < error <= 0.5e-2


@pytest.mark.parametrize("level", [1e-4, 1e-2])
def test_guard_points_see_what_the_held_out_ones_see(level: float) -> None:
    state, settings = stack([2, 24, 24, 1]), outputs_settings()
    problem = pose(settings, state)
    data = prepare(problem, state, "fast")
    guard, parts = Guard.of(problem, data, settings.tol), run_pass(problem.network, data, Knobs(level))
    held = max(problem.errors(problem.held_out, decoded(problem.network, data, parts)))
    assert guard.error(parts) == pytest.approx(held, rel=0.2) and guard.error(parts) != held
    assert guard.holds(parts) == (guard.error(parts) <= settings.tol) == (level < 1e-3)


def test_few_points_and_rare_errors_leave_more_open() -> None:
    """The error of many even rows is taken as it is; that of few, or of some far larger ones, is known less well."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(4096, 3, generator=generator)
    even, none, rare = (
        squared_rows(rows),
        torch.zeros(4096),
        rows * torch.where(torch.arange(4096)[:, None] % 100 == 0, 10.0, 0.1),
    )
    assert _doubt(even) == 0.0 == _doubt(none) == _doubt(even[:1])
    assert 0.05 < _doubt(even[:16]) < 0.3
    errors = [float(rare[torch.randperm(4096, generator=generator)[:512]].norm()) for _ in range(200)]
    spread = float(torch.tensor(errors).std() / torch.tensor(errors).mean())
    assert _doubt(squared_rows(rare[:512])) + 0.02 == pytest.approx(spread, rel=0.3)
