"""The way between the joint stage and the passes: some tens of neurons learn the outputs, the passes compress them."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from small_networks import outputs_settings, saved, stack

import hmcompress.network.joint.krylov as krylov
import hmcompress.network.joint.learned as learned
import hmcompress.network.joint.middle as middle
import hmcompress.network.joint.widening as widening
import hmcompress.network.layerwise.budget as budget
import hmcompress.network.stages as stages
from hmcompress.checkpoint import open_checkpoint
from hmcompress.network import NetworkResult, compress_network, load_tensors, pose
from hmcompress.network.bound.problem import Problem
from hmcompress.network.joint.chains import Chains
from hmcompress.network.joint.distil import chains_of, fresh, learning_data
from hmcompress.network.joint.krylov import descend
from hmcompress.network.joint.learned import smallest_learned
from hmcompress.network.joint.least_squares import minimise
from hmcompress.network.joint.linearised import stacks_at
from hmcompress.network.joint.widening import narrow_learned, widened
from hmcompress.network.layerwise.guard import Guard
from hmcompress.network.layerwise.original import prepare
from hmcompress.network.layerwise.propagate import Knobs, Parts, tensors_of
from hmcompress.network.layerwise.search import search
from hmcompress.network.layerwise.subject import Subject
from hmcompress.settings.config import load_settings
from hmcompress.work.progress import silent

SIZES = [2, 48, 48, 1]
SAMPLES = Path(__file__).parents[2] / "sample_models"


@pytest.fixture(scope="module")
def problem() -> Problem:
    return pose(outputs_settings(), stack(SIZES))


def chains_in(problem: Problem) -> Chains:
    chains = chains_of(problem)
    assert chains is not None
    return chains


def learner(problem: Problem, hidden: int = 12) -> tuple[Any, Any]:
    chains = chains_in(problem)
    data, scale = learning_data(problem, chains, 1024)
    return fresh(chains, data, scale, hidden, 0), data


def test_products_with_the_jacobian_are_each_others_transpose(problem: Problem) -> None:
    network, data = learner(problem)
    point = stacks_at(network, data.inputs, network.scale)
    generator = torch.Generator().manual_seed(1)
    v = [torch.randn(layer.matrix.shape, generator=generator).double() for layer in network.layers]
    u = torch.randn(data.outputs.shape, generator=generator).double()
    gram, _, _ = network.normal(data)
    network.set_theta(2 * network.theta())  # a trial step, which the point does not follow
    forth, back = point.forward(v), point.backward(u)
    assert float((forth * u).sum()) == pytest.approx(sum(float((a * b).sum()) for a, b in zip(v, back, strict=True)))
    flat = torch.cat([x.reshape(-1) for x in v])
    assert float(forth.pow(2).sum()) == pytest.approx(float(flat @ gram @ flat))


def test_steps_by_conjugate_gradients_learn_the_function(problem: Problem) -> None:
    network, data = learner(problem)
    first = descend(network, data, 2, 20)
    last = descend(network, data, 25, 50, damping=1e-2)
    assert last < 0.1 * first and last**0.5 < 2e-2
    assert last == pytest.approx(network.error(data), rel=1e-2)


def test_conjugate_gradients_leave_weights_that_are_not_free(problem: Problem) -> None:
    network, data = learner(problem)
    network.layers[1].drop_columns(torch.arange(12) < 4)
    before = network.error(data)
    assert descend(network, data, 10, 30, level=1e-6) < 0.5 * before
    assert not network.layers[1].matrix[:, :4].any() and network.layers[1].matrix[:, 4:].all()


@pytest.mark.parametrize(("far", "steps"), [(0.5, 9), (2.0, 20)])
def test_steps_end_where_a_large_error_hardly_falls(
    problem: Problem, monkeypatch: pytest.MonkeyPatch, far: float, steps: int
) -> None:
    taken: list[int] = []

    def step(self: Any, products: int) -> tuple[float, bool]:
        taken.append(products)
        return 1.0, True

    monkeypatch.setattr(krylov._Descent, "step", step)
    network, data = learner(problem)
    descend(network, data, 20, 1, far=far)
    assert len(taken) == steps


def test_no_wider_network_is_tried_after_one_that_learned_less(
    problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def worse(learner: middle._Learner, hidden: int) -> None:
        tried.append(hidden)
        learner.error = 1.2 ** len(tried)

    monkeypatch.setattr(middle, "_WEIGHTS_PER_BYTE", (0.0, 0.0))
    monkeypatch.setattr(middle._Learner, "learned", worse)
    assert middle.middle_network(problem, chains_in(problem), 1e-2, "default", lambda share: None) is None
    assert tried == [12, 16]


def test_a_price_makes_weights_smaller(problem: Problem) -> None:
    sizes = []
    for level in (0.0, 1e-4):
        network, data = learner(problem)
        descend(network, data, 15, 50, level=level)
        sizes.append(float(network.theta().abs().sum()))
    assert sizes[1] < sizes[0]


def test_a_wider_network_is_tried_where_a_narrow_one_does_not_learn(
    problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def not_learned(learner: middle._Learner, hidden: int) -> None:
        tried.append(hidden)
        learner.error = 1.4

    monkeypatch.setattr(middle, "_WEIGHTS_PER_BYTE", (0.0, 0.0))
    monkeypatch.setattr(middle._Learner, "learned", not_learned)
    assert middle.middle_network(problem, chains_in(problem), 1e-2, "default", lambda share: None) is None
    assert tried == [12, 16, 20, 24]  # half of the original's


def test_none_is_tried_where_the_rate_asks_for_more_than_half(
    problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(middle, "_WEIGHTS_PER_BYTE", (1e9, 1e9))
    monkeypatch.setattr(middle._Learner, "learned", lambda learner, hidden: pytest.fail("tried"))
    assert middle.middle_network(problem, chains_in(problem), 1e-2, "default", lambda share: None) is None


def test_a_wider_network_begins_with_what_a_narrow_one_has_learned(
    problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow, data = learner(problem, 4)
    minimise(narrow, data, 20, damping=1.0)
    wide, _ = learner(problem, 12)
    before = wide.error(data)
    widened(narrow, wide)
    assert narrow.error(data) < wide.error(data) < before  # the other neurons are hardly heard, but they are
    monkeypatch.setattr(widening, "_WHISPER", 0.0)
    silent_ones, _ = learner(problem, 12)
    torch.testing.assert_close(widened(narrow, silent_ones).outputs(data), narrow.outputs(data))


def branch_and_trunk(**changes: Any) -> Problem:
    part = {"activation": "tanh"}
    stacks = {f"{name}.{k}": t for name in ("branch", "trunk") for k, t in stack([2, 24, 24, 16]).items()}
    network = {name: part | {"layers": f"{name}.*"} for name in ("branch", "trunk")}
    network["cartesian"] = changes.pop("cartesian", False)
    settings = {"metric": "outputs", "tol": 1e-2, "network": {"deeponet": network}, "calibration": changes}
    return pose(load_settings(None, settings), stacks)


def test_further_products_are_hardly_heard(tmp_path: Path) -> None:
    """Of a branch and a trunk: no weight reads them, so one of the two whispers."""
    torch.manual_seed(0)
    save_file({"branch": torch.rand(400, 2), "trunk": torch.rand(400, 2)}, tmp_path / "pairs.safetensors")
    posed = branch_and_trunk(inputs=str(tmp_path / "pairs.safetensors"))
    narrow, data = learner(posed, 4)
    minimise(narrow, data, 20, damping=1.0)
    wide = widened(narrow, learner(posed, 12)[0])
    assert narrow.error(data) < 1e-4 and wide.error(data) < 1e-2


def test_a_random_field_gives_a_branch_further_functions_to_learn_from(tmp_path: Path) -> None:
    field = {"mean": torch.zeros(2), "factor": torch.eye(2), "trunk": torch.rand(30, 2)}
    save_file(field, tmp_path / "field.safetensors")
    gaussian = {"file": str(tmp_path / "field.safetensors"), "factor": "factor", "points": "trunk"}
    posed = branch_and_trunk(gaussian=gaussian, samples=64, held_out=64, cartesian=True)
    data, _ = learning_data(posed, chains_in(posed), 1024)
    assert len(data.inputs[0].unique(dim=0)) == 1024 and len(data.inputs[1].unique(dim=0)) == 30


@pytest.fixture
def sixteen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks of sixteen neurons a layer are tried, whatever the rate says, which learn on few samples."""
    monkeypatch.setattr(middle, "MIDDLE_ROWS", 2048)
    monkeypatch.setattr(learned, "MIDDLE_ROWS", 2048)
    monkeypatch.setattr(widening, "_ROWS", (512,))
    monkeypatch.setattr(middle, "_HIDDEN", (16,))
    monkeypatch.setattr(middle, "_WEIGHTS_PER_BYTE", (0.0, 0.0))


def test_layers_sit_in_the_first_neurons(problem: Problem, sixteen: None) -> None:
    narrow = middle.middle_network(problem, chains_in(problem), 1e-2, "default", lambda share: None)
    assert narrow is not None and narrow.network.shape(narrow.network.layers[1]) == (16, 16)
    data = prepare(replace(problem, network=narrow.network), stack(SIZES), "default")
    parts = middle.compressed(problem.network, narrow, data, Knobs(1e-4))
    matrices = {name: part.dense() for name, part in parts.items()}
    assert matrices["net.2.weight"].shape == (48, 49)
    assert not matrices["net.2.weight"][16:].any() and not matrices["net.2.weight"][:, 16:48].any()
    assert max(problem.errors(problem.held_out, tensors_of(problem.network, matrices))) < 1e-2


def held_out_error(problem: Problem) -> Callable[[Parts], float]:
    def measured(parts: Parts) -> float:
        tensors = tensors_of(problem.network, {name: part.dense() for name, part in parts.items()})
        return max(problem.errors(problem.held_out, tensors))

    return measured


def test_forms_of_a_learned_network_are_smaller_than_passes_over_it(problem: Problem, sixteen: None) -> None:
    settings, chains, measured = (
        outputs_settings(tol=1e-3, effort="default"),
        chains_in(problem),
        held_out_error(problem),
    )
    found = middle.middle_network(problem, chains, 1e-3, "default", lambda share: None)
    assert found is not None
    form = smallest_learned(problem, chains, settings, found, measured)
    assert form is not None and 3e-4 < measured(form.parts) == form.error <= 1e-3
    own = replace(problem, network=found.network)
    data = prepare(own, stack(SIZES), "default")
    passes = search(
        lambda knobs: middle.compressed(problem.network, found, data, knobs), measured, 1e-3, 14, lambda done: None
    )
    assert passes is not None and form.nbytes < 0.8 * passes.nbytes


def test_networks_of_many_weights_are_left_to_passes(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    network, _ = learner(problem)
    monkeypatch.setattr(learned, "_WORK", {"default": 1e6})
    monkeypatch.setattr(learned, "_pruned", lambda *args: pytest.fail("begun"))
    known = middle.as_middle(problem.network, network)
    settings = outputs_settings(effort="default")
    assert smallest_learned(problem, chains_in(problem), settings, known, lambda parts: 0.0) is None


@pytest.mark.parametrize(
    ("errors", "rounds"),
    [([0.9], 1), ([1.2, 1.1, 1.05, 0.92], 4), ([1.2, 1.15, 1.1], 3), ([3.0], 1), ([1.05] * 6, 6)],
    ids=["holds", "near", "not near enough", "hopeless", "never"],
)
def test_learning_goes_on_as_long_as_it_may_hold(
    problem: Problem, monkeypatch: pytest.MonkeyPatch, errors: list[float], rounds: int
) -> None:
    network, data = learner(problem)
    left, taken = [1e-2 * e for e in errors], list[int]()

    def step(*args: object, **kwargs: object) -> float:
        taken.append(1)
        return (left[len(taken) - 1] / 1.2) ** 2

    monkeypatch.setattr(middle, "descend", step)
    monkeypatch.setattr(middle.Middle, "error", lambda *args: left[len(taken) - 1])
    found, error = middle._holding(problem, network, data, 1e-2)
    assert (found is not None) == (errors[-1] < middle._FITS) and error == pytest.approx(errors[-1])
    assert len(taken) == rounds


@pytest.mark.parametrize(("error", "descents"), [(6.0, 1), (3.0, 2)])
def test_a_network_far_from_the_tolerance_after_the_first_steps_learns_no_further(
    problem: Problem, monkeypatch: pytest.MonkeyPatch, error: float, descents: int
) -> None:
    taken = list[float]()

    def descend(*args: object, far: float, **kwargs: object) -> float:
        taken.append(far)
        return (error * 1e-2) ** 2

    monkeypatch.setattr(middle, "descend", descend)
    assert middle._Learner(problem, chains_in(problem), 1e-2, 1e12, lambda share: None).learned(12) is None
    assert len(taken) == descents


def test_no_wider_network_is_tried_where_samples_are_learned_by_heart(
    problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, data = learner(problem)
    monkeypatch.setattr(middle, "descend", lambda *args, **kwargs: (0.5e-2) ** 2)
    monkeypatch.setattr(middle.Middle, "error", lambda *args: 3e-2)
    assert middle._holding(problem, network, data, 1e-2) == (None, math.inf)


@pytest.mark.parametrize(
    ("held", "descents", "error"),
    [(7e-2, 1, math.inf), (6e-2, 2, math.inf), (1.2e-2, 3, 0.9)],
    ids=["at once", "later", "not at all"],
)
def test_what_samples_teach_by_heart_ends_after_its_first_steps(
    problem: Problem, monkeypatch: pytest.MonkeyPatch, held: float, descents: int, error: float
) -> None:
    taken = list[float]()

    def descend(*args: object, **kwargs: object) -> float:
        taken.append((4.9e-2 if len(taken) < 1 else 0.9e-2) ** 2)
        return taken[-1]

    monkeypatch.setattr(middle, "descend", descend)
    monkeypatch.setattr(middle.Middle, "error", lambda *args: held)
    monkeypatch.setattr(middle, "_holding", lambda *args: taken.append(0.0) or (None, 0.9))
    found = middle._Learner(problem, chains_in(problem), 1e-2, 1e12, lambda share: None)
    assert found.learned(12) is None
    assert (len(taken), found.error) == (descents, error)


def test_a_narrow_network_of_too_many_weights_is_not_learned_first(
    problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, data = learner(problem)
    assert narrow_learned(chains_in(problem), data.first(64), network.scale, 12, 1.0) is not None
    monkeypatch.setattr(widening, "_MOST_WORK", 1e6)
    assert narrow_learned(chains_in(problem), data, network.scale, 12, 1e-2) is None
    monkeypatch.setattr(middle, "descend", lambda *args, **kwargs: math.inf)
    assert middle._Learner(problem, chains_in(problem), 1e-2, 1e12, lambda share: None).learned(12) is None


def test_a_network_that_reads_all_fourier_features_may_begin_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without that start its first samples are learned by heart, and the sample takes 91 kB at 1e-3 instead of 6."""
    samples = {"calibration": {"samples": 4096, "held_out": 256}, "ntk": False, "tol": 1e-3}
    problem = pose(
        load_settings(SAMPLES.parent / "configs" / "fourier.yaml", samples),
        load_tensors(open_checkpoint(SAMPLES / "fourier.pt")),
    )
    data, scale = learning_data(problem, chains_in(problem), 4096)
    monkeypatch.setattr(widening, "minimise", lambda *args, **kwargs: 0.0)
    assert narrow_learned(chains_in(problem), data, scale, 32, 1e-3) is not None


def test_the_middle_way_tells_of_each_step(problem: Problem) -> None:
    network, data = learner(problem)
    told = list[float]()
    descend(network, data, 4, 3, tick=told.append)
    assert told == [0.25, 0.5, 0.75, 1.0]


def test_a_network_that_still_holds_is_not_learned_again(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    network, few = learner(problem)
    descend(network, few, 10, 30)
    known, calls = middle.as_middle(problem.network, network), list[float]()
    data = prepare(problem, stack(SIZES), "default")
    subject = Subject(problem, stack(SIZES), data, Guard.of(problem, data, 1e-2), silent)
    monkeypatch.setattr(stages, "middle_network", lambda problem, origin, tol, *args: calls.append(tol))
    monkeypatch.setattr(stages, "smallest_learned", lambda *args: None)
    monkeypatch.setattr(stages, "search", lambda *args: None)
    small = stages.SmallNetworks(subject, middle=known)
    error = known.error(problem)
    for tol in (1.1 * error / middle._FITS, 0.9 * error / middle._FITS):
        small._middle(chains_in(problem), outputs_settings(tol=tol), lambda parts: 0.0)
    assert calls == [0.9 * error / middle._FITS]


def test_narrower_network_is_never_larger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sixteen: None) -> None:
    monkeypatch.setattr(stages, "smallest_joint", lambda *args: None)
    monkeypatch.setattr(budget, "_MOST", {"default": 14})
    checkpoint, settings = saved(tmp_path, stack(SIZES)), outputs_settings(effort="default")
    result = compress_network(checkpoint, settings)
    monkeypatch.setattr(stages, "origins_of", lambda problem: ())
    alone = compress_network(checkpoint, settings)
    assert size(result) <= size(alone) and result.record.error <= 1e-2


def size(result: NetworkResult) -> int:
    return sum(len(layer.payload) for layer in result.layers)


@pytest.mark.parametrize("hidden", [(), (256,)], ids=["none wide enough", "wider than half"])
def test_no_narrower_network_where_no_width_fits(
    problem: Problem, monkeypatch: pytest.MonkeyPatch, hidden: tuple[int, ...]
) -> None:
    monkeypatch.setattr(middle, "_HIDDEN", hidden)
    assert middle.middle_network(problem, chains_in(problem), 1e-2, "default", lambda share: None) is None


def test_slopes_go_along(problem: Problem) -> None:
    slopes = 1 + 0.3 * torch.rand(48, generator=torch.Generator().manual_seed(1))
    state = {**stack(SIZES), "act.0.beta": slopes, "act.1.beta": torch.tensor([1.3])}
    settings = outputs_settings(network={"mlp": {"activation": "swish", "slopes": "act.*", "layers": "net.*weight"}})
    swish = pose(settings, state)
    network, data = learner(swish)
    descend(network, data, 3, 20)
    narrow = middle.as_middle(swish.network, network).network
    x = swish.calibration.points.tensors[0]
    expected = network.stacks[0].forward(x.double())[1]
    torch.testing.assert_close(narrow.run((x,)).double(), expected)
