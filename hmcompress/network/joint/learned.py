"""The smallest form of a network that has learned the outputs already, where its weights are few enough for it."""

from collections.abc import Callable

from hmcompress.network.bound.problem import Problem
from hmcompress.network.joint.distil import Origin
from hmcompress.network.joint.form_search import FormSearch, form_work
from hmcompress.network.joint.least_squares import Price, minimise
from hmcompress.network.joint.middle import MIDDLE_ROWS, Middle
from hmcompress.network.joint.small import Data, SmallNetwork
from hmcompress.network.joint.smallest import JointStage
from hmcompress.network.layerwise.propagate import Parts
from hmcompress.network.layerwise.trial import Trial
from hmcompress.settings.config import Settings

_ROWS_PER_WEIGHT = 8
_ROUNDS, _STEPS = (0.03, 0.03, 0.0), 10  # shares below which weights go, each after so many steps under a price
_SHARE = 0.5  # of the squared tolerance that the price counts on
_WORK = {"default": 1.5e12, "max": 1.5e13}  # multiplications after which no further form is begun
_DEAREST = 1.5  # times that, for the first one


def smallest_learned(
    problem: Problem,
    origin: Origin,
    settings: Settings,
    middle: Middle,
    measured: Callable[[Parts], float],
) -> Trial | None:
    """The smallest form of a middle network whose decoded layers hold the tolerance by `measured`, or None.

    Passes over that network take less work, and two or three times the bytes.
    """
    slim, work = settings.slim == "prefer", _WORK[settings.effort]
    stage = JointStage(problem, origin, settings.tol, work, slim, MIDDLE_ROWS)
    if form_work(middle.small, _few(stage, middle.small)) > _DEAREST * work:
        return None
    search = _pruned(stage, middle.small.clone())
    search.draw(work)
    trials = (search.held(form, measured) for form in sorted(search.holding(), key=lambda form: form.cost))
    return next((trial for trial in trials if trial is not None), None)


def _few(stage: JointStage, network: SmallNetwork) -> Data:
    return stage.data.first(_ROWS_PER_WEIGHT * network.weights())


def _pruned(stage: JointStage, network: SmallNetwork) -> FormSearch:
    """Without weights that are not worth their price."""
    network.unwind()
    level = 0.0
    for share in _ROUNDS:
        level = _SHARE * stage.fit_tol**2 / max(network.weights(), 1)
        minimise(network, _few(stage, network), _STEPS, Price.of(network.layers, level))
        if share:
            network.prune(share)
    network.compact()
    return stage.search_over(network, level, _few(stage, network))
