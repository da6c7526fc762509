"""Layers that the engine codes: bytes and errors go in steps, and the smallest form may lie far from the first one."""

from typing import Any

import pytest

from hmcompress.network.layerwise.propagate import Knobs
from hmcompress.network.layerwise.search import Search, search
from hmcompress.network.layerwise.trial import Trial
from hmcompress.network.layerwise.way import Way

TOL = 1e-2
FORMS = ((2e-5, 50, 26.0), (1.2e-5, 72, 2.5), (8.2e-6, 84, 1.2), (6.1e-6, 92, 0.9), (3.5e-6, 101, 0.5), (0.0, 180, 0.2))
"""Water levels above which a form is what the engine finds, its bytes, and its error in units of the tolerance."""


class Coded:
    """Stands for a coded part."""

    def __init__(self, nbytes: int, error: float) -> None:
        self.nbytes, self.error = nbytes, error

    def payload(self, thorough: bool) -> bytes:
        return bytes(self.nbytes)


def operator(knobs: Knobs) -> dict[str, Any]:
    """A pass over one structured operator: as a grid or a product of factors it takes much more."""
    if knobs.structured:
        return {"w": Coded(*next(form[1:] for form in FORMS if knobs.delta > form[0]))}
    if knobs.factored:
        return {"w": Coded(int(3 / knobs.delta**0.8), 6e3 * knobs.delta)}
    return {"w": Coded(int(50 / knobs.delta), 3e4 * knobs.delta)}


def found(run: Any = operator, holds: Any = lambda parts: True) -> tuple[Trial, list[Knobs]]:
    tried: list[Knobs] = []

    def noted(knobs: Knobs) -> dict[str, Any]:
        tried.append(knobs)
        return dict(run(knobs))

    some = frozenset({"w"})
    trial = search(
        noted,
        lambda parts: TOL * parts["w"].error,  # type: ignore[attr-defined]
        TOL,
        60,
        lambda done: None,
        Way(structured=some, factored=some),
        prefer=holds,
    )
    assert trial is not None
    return trial, tried


def test_the_coarsest_step_that_holds_is_found_in_few_passes() -> None:
    trial, tried = found()
    assert trial.nbytes == 92
    assert sum(bool(knobs.structured) for knobs in tried) <= 15
    assert not any(knobs.shrinkage for knobs in tried)  # grids are out of the question after one pass


def test_it_must_hold_on_guard_points_too() -> None:
    trial, _ = found(holds=lambda parts: parts["w"].error < 0.7)
    assert trial.nbytes == 101


def test_what_alone_holds_on_guard_points_is_not_taken_at_many_times_the_bytes() -> None:
    """The search then is to aim lower, where a small form may hold on them too."""
    trial, _ = found(holds=lambda parts: parts["w"].nbytes > 1000)
    assert trial.nbytes < 200


def test_steps_are_left_where_what_does_not_hold_is_dearer_already() -> None:
    def other(knobs: Knobs) -> dict[str, Any]:
        return {"w": Coded(5000, 1.3)} if knobs.structured else operator(knobs)

    trial, tried = found(other)
    assert trial.knobs.factored and trial.nbytes < 5000
    assert sum(bool(knobs.structured) for knobs in tried) == 1


@pytest.mark.parametrize("error", [0.3, 3.0])
def test_a_form_that_never_changes_does_not_hold_the_search_up(error: float) -> None:
    def one(knobs: Knobs) -> dict[str, Any]:
        return {"w": Coded(40, error)} if knobs.structured else operator(knobs)

    trial, tried = found(one)
    assert (trial.nbytes == 40) == (error < 1) and trial.error <= TOL
    assert sum(bool(knobs.structured) for knobs in tried) <= 20


def test_random_trials_around_a_lucky_one_come_down_to_what_holds() -> None:
    """Errors of loose tolerances jump: the trial that leads may be the only one of its level that holds."""

    def run(knobs: Knobs) -> dict[str, Any]:
        return {"w": Coded(1000, 0.66) if knobs.delta == 0.1 else Coded(int(900 / knobs.delta**0.02), 40 * knobs.delta)}

    search = Search(run, lambda parts: parts["w"].error, 1.0, 90, lambda done: None)
    search.trial(Knobs(0.1))
    search.scatter()
    assert len(search.holding()) > 1


def test_a_form_far_off_between_two_does_not_hide_what_lies_beside_it() -> None:
    levels = [(0.00042, 259, 0.94), (0.00075, 177, 1.75), (0.0015, 135, 6.3), (0.003, 126, 2.3)]

    def run(knobs: Knobs) -> dict[str, Any]:
        if 0.0018 < knobs.delta < 0.0026:
            return {"w": Coded(134, 0.84)}
        return {"w": Coded(*next(form[1:] for form in reversed(levels) if knobs.delta > 0.99 * form[0]))}

    search = Search(run, lambda parts: parts["w"].error, 1.0, 20, lambda done: None)
    for level, *_ in levels:
        search.trial(Knobs(level))
    search.fill(Knobs(1.0), 5)
    assert search.holding()[0].nbytes == 134
