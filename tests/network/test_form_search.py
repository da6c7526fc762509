"""Claims about quantised forms of one small network: where distortions lie, and how far the next form goes."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from small_networks import outputs_settings, stack

import hmcompress.network.joint.form_search as form_search
import hmcompress.network.joint.smallest as smallest
from hmcompress.network.bound.error import reference
from hmcompress.network.bound.problem import Problem
from hmcompress.network.joint.distil import chains_of, fresh, with_outputs
from hmcompress.network.joint.form_search import _LOST, _MANY, FormSearch
from hmcompress.network.joint.least_squares import minimise
from hmcompress.network.joint.quantise import LayerKnobs, Quantised, additive_exponents, quantised
from hmcompress.network.joint.small import Data
from hmcompress.network.joint.smallest import JointStage, _holding
from hmcompress.network.model.build import build_network
from hmcompress.network.model.inputs import Points

SIZES = [2, 24, 24, 1]


@pytest.fixture(scope="module")
def made() -> Callable[..., FormSearch]:
    """A search over forms of a network of some neurons a layer."""
    settings = outputs_settings()
    network = build_network(settings, stack(SIZES))
    points = Points((torch.rand(512, 2, generator=torch.Generator().manual_seed(0)).double(),))
    ref = reference(network, points, 0, "test")
    problem = Problem(network, None, ref, ref, settings.calibration)  # type: ignore[arg-type]
    chains = chains_of(problem)
    assert chains is not None
    data, scale = with_outputs(problem, chains, points)

    def make(hidden: int, steps: int = 0, tol: float = 3e-2) -> FormSearch:
        small = fresh(chains, data, scale, hidden, 0)
        minimise(small, data, steps, damping=1.0)
        return FormSearch(network, small, 1e-7, data, lambda other: float(other.error(data) ** 0.5), tol, tol)

    return make


def distortions(power: float, holding: float = 0.0) -> np.ndarray:
    """Over the wanted ones, of entries whose wanted steps no sum of rows and columns meets."""
    rng = np.random.default_rng(0)
    live = rng.random((12, 16)) < 0.8
    wanted = np.ones(live.shape)
    wanted[live] = np.exp(1.5 * rng.standard_normal(live.sum()))
    rows, columns = additive_exponents(live, wanted[live], holding, power)
    return np.ma.masked_array(2.0 ** (rows[:, None] + columns) / wanted**2, ~live)


def mean(values: Any, axis: int | None, power: float) -> Any:
    return (values**power).mean(axis) ** (1 / power)


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_rows_and_columns_have_the_distortion_that_is_wanted(power: float) -> None:
    for axis in (0, 1):
        found = np.log2(mean(distortions(power), axis, power))
        assert np.abs(found).max() < 1.1  # exponents are whole, and one of them is a factor of two


def test_geometric_means_leave_a_few_entries_most_of_the_distortion() -> None:
    uneven, even = (distortions(power) for power in (0.0, 0.5))
    assert mean(uneven, None, 1.0) > 4 * mean(even, None, 1.0)
    assert np.abs(np.log2(uneven).mean(0)).max() < 1.1  # though these are as wanted


def test_exponents_held_firmly_are_all_alike_and_of_the_wanted_mean() -> None:
    found = distortions(0.5, holding=1e9)
    assert abs(np.log2(mean(found, None, 0.5))) < 1.1
    assert np.abs(np.log2(mean(found, 0, 0.5))).max() > 1.1


def test_more_even_distortions_compete_where_forms_are_few(
    made: Callable[..., FormSearch], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[float] = []
    scratch = FormSearch._scratch
    monkeypatch.setattr(FormSearch, "_scratch", lambda self, r: tried.append(r.power) or scratch(self, r))
    for hidden, powers in ((5, [0.0]), (14, [0.0, 0.5])):
        found = made(hidden, 30)
        tried.clear()
        found.begin()
        assert tried == powers and (found.network.weights() > _MANY) == (hidden == 14)
        assert found.forms


def test_a_form_that_competes_stays_only_where_it_promises_fewer_bytes(made: Callable[..., FormSearch]) -> None:
    found = made(5, 30)
    found.begin()
    first = found.forms[0]
    found._compete(first.quantised.knobs[0])
    assert found.forms == [first]  # the same once more promises no less
    found.forms = [replace(first, error=2 * first.error)]
    found._compete(first.quantised.knobs[0])
    assert len(found.forms) == 2 and found.forms[1].error == first.error


def test_more_patience_goes_on_for_longer(made: Callable[..., FormSearch]) -> None:
    found = made(5, 30)
    found.begin()
    first = replace(found.forms[0], error=0.5 * found.tol)
    found.forms = [first] + [replace(first, nbytes=first.nbytes + 1)] * 40
    assert found.holding() and found._is_idle(1) and not replace(found, patience=2)._is_idle(1)


def level(found: FormSearch, lost: int, error: float) -> float:
    found.lost = lost
    return found._varied(LayerKnobs(1e-6), error * found.tol, np.random.default_rng(0), 1.0).level


def test_after_forms_were_given_up_the_next_goes_half_as_far(made: Callable[..., FormSearch]) -> None:
    few = made(14)
    farther, nearer, other = (np.log(level(few, lost, 0.4)) for lost in (0, _LOST, 2 * _LOST))
    assert farther - nearer == pytest.approx(2 * (nearer - other)) and farther > nearer
    assert level(few, 0, 1.5) == level(few, _LOST, 1.5)  # what does not hold is made as much finer as before
    many = made(5)
    assert level(many, 0, 0.4) == level(many, _LOST, 0.4)


def test_forms_that_are_given_up_in_a_row_are_counted(made: Callable[..., FormSearch]) -> None:
    found = made(5, 30)
    found.begin()
    assert found.forms and not found.lost
    hopeless = made(5, tol=1e-9)
    hopeless.begin()
    assert not hopeless.forms and hopeless.lost == 3


def test_forms_that_are_alike_are_reordered_once(made: Callable[..., FormSearch]) -> None:
    found = made(5, 60)
    found.begin()
    found.settle(1e12)
    found.forms += found.forms
    pairs = _holding([found])
    assert 1 < len(pairs) <= len(found.holding()) / 2
    assert [form.cost for form, _ in pairs] == sorted(form.cost for form, _ in pairs)
    assert len({(form.cost, form.error) for form, _ in pairs}) == len(pairs)


def test_a_singular_metric_loses_a_form_and_no_more(
    made: Callable[..., FormSearch], monkeypatch: pytest.MonkeyPatch
) -> None:
    def singular(*args: object) -> None:
        torch.linalg.cholesky(torch.zeros(2, 2))

    search = made(4, steps=5)
    monkeypatch.setattr(form_search, "quantised", singular)
    search.draw(1e12)
    assert not search.forms and search.lost == 3


@pytest.mark.parametrize(("outputs", "rows"), [(1, 4096), (2, 4096), (4, 2048), (10, 1024)])
@pytest.mark.parametrize("many", [False, True])  # of whose modes each sample tells several
def test_fewer_samples_are_learned_from_where_each_has_several_outputs(
    made: Callable[..., FormSearch], outputs: int, rows: int, many: bool
) -> None:
    found = made(4)
    data = replace(found.data, outputs=found.data.outputs.expand(-1, outputs))
    stage = SimpleNamespace(data=data, many=many)
    expected = max(4096 // outputs, 512) if many else rows
    assert JointStage._enough(stage, found.network, 4096) == expected  # type: ignore[arg-type]


def test_where_forms_take_long_few_are_tried(made: Callable[..., FormSearch]) -> None:
    """However many are usual: the work bounds them."""
    found = made(5, 60)
    found.begin()
    each = form_search.form_work(found.network, found.data)
    for stage in (found.settle, found.scatter, found.polish):
        before = len(found.forms)
        stage(each / form_search._DEAR)
        assert 0 <= len(found.forms) - before <= 2


@pytest.mark.parametrize("stage", ["scatter", "polish"])
def test_forms_are_begun_again_as_long_as_smaller_ones_are_found(
    made: Callable[..., FormSearch], monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    monkeypatch.setattr(form_search, "_IDLE", 5)
    found = made(5, 60)
    found.begin()
    found.settle(1e12)
    (least, *_), tried = sorted(found.holding(), key=lambda form: form.cost), list[int]()

    def again(*args: object) -> float:
        tried.append(len(tried))
        smaller = len(tried) if len(tried) in (4, 7) else 0
        if len(tried) != 9:  # that one is given up
            found.forms.append(replace(least, nbytes=least.nbytes - smaller))
        return least.error

    monkeypatch.setattr(found, "_again", again)
    getattr(found, stage)(1e15)
    assert len(tried) == 7 + 1 + 5


@pytest.mark.parametrize(("dear", "parts", "forms"), [(False, 4, 2), (True, 2, 1)])
def test_forms_that_take_all_of_the_work_are_rounded_in_fewer_parts(
    made: Callable[..., FormSearch], monkeypatch: pytest.MonkeyPatch, dear: bool, parts: int, forms: int
) -> None:
    """And none competes with the first one, as it does where others of as many weights begin."""
    monkeypatch.setattr(form_search, "_MANY", 0)
    tried = list[LayerKnobs]()

    def noted(begun: Quantised, data: Data, level: float, knobs: list[LayerKnobs], most: float) -> Quantised | None:
        tried.append(knobs[0])
        return quantised(begun, data, level, knobs, most)

    monkeypatch.setattr(form_search, "quantised", noted)
    replace(made(4, steps=20), dear=dear).begin()
    assert [knobs.parts for knobs in tried] == [parts] * forms


def test_what_fewer_neurons_have_found_stays_where_more_of_them_hold_by_chance(
    made: Callable[..., FormSearch], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = made(4, steps=30)
    found.begin()
    found.tol = 1.01 * found.forms[0].error
    stage = SimpleNamespace(share=1.0, work=1e9)
    monkeypatch.setattr(smallest, "JointStage", lambda *args, **named: stage)
    for name in ("scatter", "polish"):
        monkeypatch.setattr(FormSearch, name, lambda self, work: None)
    for settled, kept in (([True, False], True), ([False], False)):
        stage.candidates, outcomes = lambda: iter([[found], []]), iter(settled)
        stage.settle = lambda *args, outcomes=outcomes: next(outcomes)
        settings: Any = (None, None, found.tol, "default", lambda parts: 0.0)
        trial = smallest.smallest_joint(*settings, lambda share: None)
        assert (trial is not None) == kept
