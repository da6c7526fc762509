"""Claims about the search where passes are dear: it begins near the tolerance, and goes by the slopes that it sees."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import large_networks
import numpy as np
import pytest
from small_networks import outputs_settings, saved, stack

from hmcompress.network import compress_network, pose
from hmcompress.network.bound.problem import Problem
from hmcompress.network.layerwise import budget, ways
from hmcompress.network.layerwise.brief import brief_search
from hmcompress.network.layerwise.budget import is_brief
from hmcompress.network.layerwise.propagate import Knobs
from hmcompress.network.layerwise.trial import Trial
from hmcompress.network.layerwise.way import Way

TOL = 1e-2
_PLAIN = Way()
Rule = Callable[[Knobs], float]


class Bytes:
    """Stands for a coded part."""

    def __init__(self, nbytes: float, error: float) -> None:
        self.nbytes, self.error = int(nbytes), error

    def payload(self, thorough: bool) -> bytes:
        return bytes(self.nbytes)


def found(
    nbytes: Rule, error: Rule, passes: int = 8, way: Way = _PLAIN, guard: float = 1.0
) -> tuple[Trial | None, list[Knobs]]:
    """What the search finds where a pass takes so many bytes, with such an error over the tolerance.

    guard: the error on guard points over that on held-out ones.
    """
    tried: list[Knobs] = []

    def run(knobs: Knobs) -> dict[str, Any]:
        tried.append(knobs)
        return {"w": Bytes(nbytes(knobs), TOL * error(knobs))}

    def measured(parts: Any) -> float:
        return float(parts["w"].error)

    def beyond(parts: Any) -> float:
        return guard * measured(parts) / TOL

    def prefer(parts: Any) -> bool:
        return beyond(parts) <= 1

    return brief_search(run, measured, TOL, passes, lambda done: None, way, prefer=prefer, guard=beyond), tried


@pytest.mark.parametrize("power", [0.5, 0.8, 1.2])
@pytest.mark.parametrize("level", [1e-6, 1e-4, 1e-2])
def test_the_tolerance_is_used_after_few_passes(power: float, level: float) -> None:
    trial, tried = found(lambda k: 50 / k.delta**0.5, lambda k: (k.delta / level) ** power)
    assert trial is not None and 0.96 <= trial.error / TOL <= 0.998
    assert len(tried) <= 7 and not any(k.shrinkage for k in tried)


def test_few_samples_begin_near_the_original_weights_and_the_other_way_is_looked_at_once() -> None:
    def nbytes(knobs: Knobs) -> float:
        return (500 if knobs.shrinkage else 1000) / knobs.delta**0.3

    trial, tried = found(nbytes, lambda k: 2e3 * k.delta, way=Way(few=True, near=None))
    assert trial is not None and trial.knobs.shrinkage
    assert [bool(k.shrinkage) for k in tried].count(False) == 1
    _, of_rows = found(nbytes, lambda k: 2e3 * k.delta, way=Way(few=True, near=None, rows=True))
    assert of_rows[0].shrinkage < tried[0].shrinkage
    other, _ = found(lambda k: 1e6 / nbytes(k) / k.delta, lambda k: 2e3 * k.delta, way=Way(few=True, near=None))
    assert other is not None and not other.knobs.shrinkage


def test_knobs_are_turned_where_there_are_passes_for_it() -> None:
    def nbytes(knobs: Knobs) -> float:
        return (1 + abs(knobs.variance - 0.6)) / knobs.delta**0.5

    (few, brief), (many, long) = (found(nbytes, lambda k: 2e3 * k.delta, passes) for passes in (8, 14))
    assert few is not None and many is not None
    assert many.nbytes < 0.9 * few.nbytes and len(brief) <= 8 < len(long) <= 19


@pytest.mark.parametrize("power", [0.6, 1.0, 1.4])
@pytest.mark.parametrize("guard", [1.03, 1.1, 1.3])
def test_one_that_does_not_hold_on_guard_points_leads_to_a_finer_one(guard: float, power: float) -> None:
    def error(knobs: Knobs) -> float:
        return float((2e3 * knobs.delta) ** power * (1 + 0.02 * np.sin(1e6 * knobs.delta)))

    trial, tried = found(lambda k: 5e4 / k.delta**0.5, error, guard=guard)
    assert trial is not None and 0.93 <= guard * trial.error / TOL <= 1 and len(tried) <= 5


@pytest.mark.parametrize("gain", [1.5e3, 3e3, 5e3])
def test_errors_that_jump_are_approached_from_further_below(gain: float) -> None:
    def error(knobs: Knobs) -> float:
        smooth = (gain * knobs.delta) ** 1.1
        return smooth if not 0.955 < smooth < 1.05 else 1.001 if smooth > 0.975 else 1.025

    trial, tried = found(lambda k: 50 / k.delta**0.5, error)
    assert trial is not None and 0.93 <= trial.error / TOL < 0.998 and len(tried) <= 11


def test_weights_that_do_not_lead_to_the_tolerance_are_kept_near_the_original_ones() -> None:
    trial, tried = found(lambda k: 50 / k.delta**0.5, lambda k: 2e3 * k.delta if k.shrinkage else 5.0)
    assert trial is not None and trial.knobs.shrinkage and len(tried) <= 10


def test_what_breaks_at_every_level_is_not_found() -> None:
    trial, tried = found(lambda k: 1.0, lambda k: float("inf"))
    assert trial is None and len(tried) < 40


def test_a_network_that_takes_long_is_searched_briefly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Way] = []

    def noted(*args: Any, **options: Any) -> Trial | None:
        calls.append(args[-1])
        return brief_search(*args, **options)

    monkeypatch.setattr(ways, "brief_search", noted)
    monkeypatch.setattr(budget, "_WORK", 1.0)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).uniform(-1, 1, (300, 2)))
    factory = f"{Path(large_networks.__file__)}:tokens"
    settings = outputs_settings(network={"factory": factory}, calibration={"inputs": str(tmp_path / "x.npy")})
    result = compress_network(saved(tmp_path, large_networks.tokens().state_dict()), settings)
    assert result.record.error <= TOL and [way.rows for way in calls] == [True]


def test_a_search_is_a_brief_one_where_the_size_of_the_network_leaves_few_passes() -> None:
    problem = posed_box(0)
    assert is_brief(problem, 8, "fast") and is_brief(problem, 14, "default")
    assert not is_brief(problem, 20, "fast") and not is_brief(problem, 100, "default")
    assert not is_brief(posed_box(1), 10, "fast")  # half as many, as each runs the network for each layer


def posed_box(derivatives: int) -> Problem:
    settings = outputs_settings(calibration={"samples": 64, "held_out": 64, "derivatives": derivatives})
    return pose(settings, stack([2, 8, 1]))
