"""The joint stage: a small network takes the place of a large one, never at more bytes, always within the bound."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_networks import check_jacobian, decoded, forward, layer_bytes, outputs_settings, saved, stack
from threadpoolctl import threadpool_info, threadpool_limits
from torch import Tensor

import hmcompress.network.driver as driver
import hmcompress.network.joint.form_search as form_search
import hmcompress.network.joint.origin as origin_module
import hmcompress.network.joint.quantise as quantise_module
import hmcompress.network.joint.smallest as joint_module
import hmcompress.network.layerwise.budget as budget
import hmcompress.network.stages as stages
from hmcompress.hmatrix.codecs import COMPACT
from hmcompress.hmatrix.grids.compact import usual_model
from hmcompress.hmatrix.grids.weighted import integer_bits
from hmcompress.network import NetworkResult, compress_network, load_tensors, pose
from hmcompress.network.bound.error import reference
from hmcompress.network.bound.problem import Problem
from hmcompress.network.joint import nearest_plane as nearest_plane_module
from hmcompress.network.joint.distil import chains_of, fresh, learning_data, with_outputs
from hmcompress.network.joint.features import independent, leading
from hmcompress.network.joint.integer_moves import IntegerMoves
from hmcompress.network.joint.least_squares import Price, minimise
from hmcompress.network.joint.nearest_plane import nearest_plane
from hmcompress.network.joint.ordering import embedded, nbytes, reordered
from hmcompress.network.joint.quantise import LayerKnobs, Quantised, quantised
from hmcompress.network.joint.stack import apply, with_slope
from hmcompress.network.model.build import build_network
from hmcompress.network.model.inputs import Points
from hmcompress.network.model.modules import Activation

SIZES = [2, 32, 32, 1]
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "sin": torch.sin,
    "silu": torch.nn.functional.silu,
    "gelu": torch.nn.functional.gelu,
    "relu": torch.relu,
}


def joint_settings(**changes: Any) -> Any:
    return outputs_settings(**{"effort": "default", **changes})


@pytest.fixture(scope="module", autouse=True)
def _little_work() -> Iterator[None]:
    """The claims hold for any amount of work; little is enough for networks this small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(joint_module, "_WORK", {"default": 2e9, "max": 2e9})
        patch.setattr(joint_module, "_SEEDS", 1)
        patch.setattr(origin_module, "_PATIENCE", 2.0)
        patch.setattr(form_search, "_LEAST", 2)
        patch.setattr(budget, "_MOST", {"fast": 8, "default": 8})
        yield


def by_joint(result: NetworkResult) -> bool:
    return any(layer.payload[0] == COMPACT for layer in result.layers)


@pytest.fixture(scope="module")
def joint(tmp_path_factory: pytest.TempPathFactory) -> NetworkResult:
    return compress_network(saved(tmp_path_factory.mktemp("joint"), stack(SIZES)), joint_settings())


def test_joint_stage_is_smaller_than_layers_one_by_one(
    joint: NetworkResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "origins_of", lambda problem: ())
    alone = compress_network(saved(tmp_path, stack(SIZES)), joint_settings())
    assert by_joint(joint) and not by_joint(alone)
    assert layer_bytes(joint) < 0.7 * layer_bytes(alone)


def test_bound_holds_on_decoded_values(joint: NetworkResult) -> None:
    x = pose(joint_settings(), stack(SIZES)).held_out.points.tensors[0]
    y, z = forward(stack(SIZES), x, torch.tanh), forward(decoded(joint), x, torch.tanh)
    error = float((z - y).norm() / y.norm())
    assert error == pytest.approx(joint.record.error, rel=1e-6) and 0.5e-2 < error <= 1e-2


def test_same_input_gives_the_same_bytes(joint: NetworkResult, tmp_path: Path) -> None:
    again = compress_network(saved(tmp_path, stack(SIZES)), joint_settings())
    assert [layer.payload for layer in again.layers] == [layer.payload for layer in joint.layers]


def test_fewer_neurons_live(joint: NetworkResult) -> None:
    assert all(layer.dead_rows >= 16 for layer in joint.record.layers[:-1])


@pytest.mark.parametrize("effort", ["default", "max"])
def test_a_form_of_few_bytes_is_polished_at_effort_max_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, effort: str
) -> None:
    begun = []
    monkeypatch.setattr(joint_module.FormSearch, "polish", lambda self, work: begun.append(work))
    result = compress_network(saved(tmp_path, stack(SIZES)), joint_settings(tol=0.1, effort=effort))
    assert by_joint(result) and bool(begun) == (effort == "max")
    assert layer_bytes(result) <= joint_module._TINY + 16  # a network's bytes are a few more than its form's


@pytest.mark.parametrize("worse", ["nothing holds", "larger"])
def test_the_smaller_of_both_ways_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, worse: str) -> None:
    found = stages.smallest_joint

    def spoiled(*args: Any) -> Any:
        form = None if worse == "nothing holds" else found(*args)
        return form and replace(form, nbytes=10**6)

    monkeypatch.setattr(stages, "smallest_joint", spoiled)
    result = compress_network(saved(tmp_path, stack([2, 16, 1])), joint_settings())
    assert not by_joint(result) and result.record.error <= 1e-2


@pytest.mark.parametrize("name", ["sin", "silu", "gelu", "relu"])
def test_bound_holds_for_every_activation(tmp_path: Path, name: str) -> None:
    state = stack([2, 16, 16, 1])
    settings = joint_settings(network={"mlp": {"activation": name}}, tol=3e-2)
    result = compress_network(saved(tmp_path, state), settings)
    x = pose(settings, state).held_out.points.tensors[0]
    y, z = forward(state, x, ACTIVATIONS[name]), forward(decoded(result), x, ACTIVATIONS[name])
    assert float((z - y).norm() / y.norm()) <= 3e-2
    assert by_joint(result) or name == "relu"  # whose kinks may cost more than they save


@pytest.mark.parametrize("kind", ["max", "each"])
def test_other_tolerances_hold_with_several_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(joint_module, "_WORK", {"default": 5e9})  # several outputs are more work
    state = stack([2, 16, 16, 3])
    settings = joint_settings(calibration={"tolerance": kind}, tol=3e-2)
    result = compress_network(saved(tmp_path, state), settings)
    x = pose(settings, state).held_out.points.tensors[0]
    y, z = forward(state, x, torch.tanh), forward(decoded(result), x, torch.tanh)
    if kind == "max":
        assert float((y - z).abs().max() / y.abs().max()) <= 3e-2
    else:
        assert float(((y - z).norm(dim=0) / y.norm(dim=0)).max()) <= 3e-2
    assert by_joint(result)


def _without_biases(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t for name, t in state.items() if name.endswith("weight")}


def _normalised(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"mean": torch.tensor([0.2, -0.1]), "std": torch.tensor([2.0, 0.5]), **state}


def _fourier(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"B": torch.randn(2, 4, generator=torch.Generator().manual_seed(0)), **state}


def _swish(state: dict[str, Tensor]) -> dict[str, Tensor]:
    slopes = 1 + 0.3 * torch.rand(16, generator=torch.Generator().manual_seed(1))
    return {**state, "act.0.beta": slopes, "act.1.beta": torch.tensor([1.3])}


@pytest.mark.parametrize(
    ("sizes", "change", "network"),
    [
        ([2, 16, 16, 1], _without_biases, {"activation": "tanh"}),
        ([2, 16, 16, 1], _normalised, {"activation": "tanh", "input_mean": "mean", "input_std": "std"}),
        ([8, 16, 16, 1], _fourier, {"activation": "silu", "fourier": "B"}),
        ([2, 16, 16, 1], _swish, {"activation": "swish", "slopes": "act.*"}),
    ],
    ids=["no biases", "normalised", "fourier", "slopes"],
)
def test_variants_of_the_stack_hold(tmp_path: Path, sizes: list[int], change: Callable, network: dict) -> None:
    state = change(stack(sizes))
    settings = joint_settings(network={"mlp": {"layers": "net.*weight", **network}}, tol=3e-2)
    checkpoint = saved(tmp_path, state)
    result = compress_network(checkpoint, settings)
    problem = pose(settings, load_tensors(checkpoint))
    assert by_joint(result)
    assert max(problem.errors(problem.held_out, decoded(result))) == pytest.approx(result.record.error, rel=1e-6)
    assert result.record.error <= 3e-2


def test_kept_layers_are_left_to_the_layers(tmp_path: Path) -> None:
    settings = joint_settings(layers=[{"match": "net.2.weight", "keep": True}])
    result = compress_network(saved(tmp_path, stack(SIZES)), settings)
    assert not by_joint(result) and "net.2.weight" not in {layer.row.name for layer in result.layers}
    assert result.record.error <= 1e-2


def test_bounds_on_derivatives_hold(tmp_path: Path) -> None:
    state = stack([2, 16, 1])
    settings = joint_settings(calibration={"derivatives": 1}, tol=3e-2)
    assert chains_of(pose(settings, state)) is not None
    result = compress_network(saved(tmp_path, state), settings)
    assert max(result.record.error, *result.record.derivative_errors) <= 3e-2


def test_tied_layers_are_left_to_the_layers(tmp_path: Path) -> None:
    state = stack([2, 16, 16, 16, 1])
    state["net.4.weight"] = state["net.2.weight"]
    checkpoint = saved(tmp_path, state)
    result = compress_network(checkpoint, joint_settings())
    assert not by_joint(result) and result.record.error <= 1e-2


def test_bound_on_the_kernel_leaves_the_neurons_alone(tmp_path: Path) -> None:
    result = compress_network(saved(tmp_path, stack([2, 16, 1])), joint_settings(ntk={"tol": 0.1, "samples": 64}))
    assert not by_joint(result) and result.record.ntk is not None and result.record.ntk.error <= 0.1


def test_slim_prefers_fewer_neurons(joint: NetworkResult, tmp_path: Path) -> None:
    result = compress_network(saved(tmp_path, stack(SIZES)), joint_settings(slim="prefer"))
    assert result.record.error <= 1e-2
    note = next(note for note in result.notes if note.startswith("slim: 2-32-32-1 -> 2-"))
    assert "1,120 -> " in note and "multiplications per sample" in note
    assert dead(result) >= dead(joint) and layer_bytes(result) < 1.3 * layer_bytes(joint)


def dead(result: NetworkResult) -> int:
    return sum(layer.dead_rows for layer in result.record.layers)


# ---- the parts ----


def test_columns_that_carry_the_outputs_are_chosen() -> None:
    x = torch.randn(400, 12, generator=torch.Generator().manual_seed(0)).double()
    x[:, 7] = 3 * x[:, 2] + 0.1 * x[:, 7]  # says little that column 2 does not
    y = x[:, [2]] - 0.5 * x[:, [9]] + 0.1 * x[:, [4]] + 3
    assert leading(x, y, 3).nonzero()[:, 0].tolist() == [2, 4, 9]
    assert leading(x, y, 12).all()


def test_inputs_that_follow_from_others_are_not_read() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 3, generator=generator).double() @ torch.randn(3, 9, generator=generator).double()
    x[:, 4] = 1e-6 * torch.randn(400, generator=generator)  # small, but nothing tells it
    x[:, 8] = 2.0
    chosen = independent(x)
    assert chosen.sum() == 4 and chosen[4] and not chosen[8]
    left = x - x.mean(0) - (x - x.mean(0))[:, chosen] @ torch.linalg.lstsq((x - x.mean(0))[:, chosen], x - x.mean(0))[0]
    assert left.norm() < 1e-9 * x.norm()
    assert independent(x[:40]).all()  # few samples
    assert independent(x[:, :0]).shape == (0,) and independent(x[:, :3]).all()


def test_inputs_that_only_rounding_moves_are_not_read_in_place_of_others() -> None:
    z = torch.randn(400, 3, generator=torch.Generator().manual_seed(0)).double()
    inner = torch.stack([z[:, 0], z[:, 0] + 0.1 * z[:, 1], z[:, 0] + 0.1 * z[:, 2]], 1)  # alike, unlike what follows
    walls = 1e-16 * torch.cat([z, torch.zeros(400, 1)], 1)
    assert independent(torch.cat([walls, inner], 1)).tolist() == [False] * 4 + [True] * 3
    inner[:, 2] *= 1e-9  # in a unit of its own
    assert independent(inner).all()


def test_a_small_network_reads_few_fourier_features() -> None:
    state = {"B": torch.randn(2, 24, generator=torch.Generator().manual_seed(0)), **stack([48, 16, 1])}
    settings = outputs_settings(network={"mlp": {"activation": "silu", "fourier": "B"}})
    problem = pose(settings, state)
    chains = chains_of(problem)
    assert chains is not None
    data, scale = learning_data(problem, chains, 512)
    first = fresh(chains, data, scale, 4, 0).layers[0]
    assert int(first.live[:, :48].any(0).sum()) == 12 and not first.matrix[~first.live].any()


def small(kind: str = "mlp", hidden: int = 5) -> tuple[Any, Any]:
    settings, state = outputs_settings(), stack(SIZES)
    if kind == "deeponet":
        part = {"activation": "tanh"}
        branch, trunk = stack([2, 16, 8], 1), stack([2, 16, 8], 2)
        state = {f"branch.{k}": v for k, v in branch.items()} | {f"trunk.{k}": v for k, v in trunk.items()}
        settings = outputs_settings(network={"deeponet": {"branch": part, "trunk": part}})
    network = build_network(settings, state)
    x = torch.rand(512, 2, generator=torch.Generator().manual_seed(0)).double()
    points = Points((x,) * len(network.stacks))
    ref = reference(network, points, 0, "test")
    assert settings.calibration is not None
    problem = Problem(network, None, ref, ref, settings.calibration)  # type: ignore[arg-type]
    chains = chains_of(problem)
    assert chains is not None
    data, scale = with_outputs(problem, chains, points)
    return fresh(chains, data, scale, hidden, 0), data


@pytest.mark.parametrize("kind", ["mlp", "deeponet"])
def test_jacobian_is_the_derivative(kind: str) -> None:
    check_jacobian(*small(kind))


@pytest.mark.parametrize("kind", ["mlp", "deeponet"])
def test_a_few_neurons_learn_the_function(kind: str) -> None:
    network, data = small(kind, 8)
    error, _ = minimise(network, data, 100, damping=1.0)
    assert error**0.5 < 1e-2


def test_every_step_lowers_error_and_price() -> None:
    network, data = small()
    price = Price.of(network.layers, 1e-4)
    values = []
    for _ in range(6):
        error, _ = minimise(network, data, 1, price)
        values.append(error + price.value(network.theta()))
    assert values == sorted(values, reverse=True) and values[-1] < 0.9 * values[0]


def test_idle_neurons_go_without_changing_the_function() -> None:
    network, data = small()
    first, second = network.layers[:2]
    first.live[1, :-1], first.matrix[1, :-1] = False, 0.0
    second.live[:, 2], second.matrix[:, 2] = False, 0.0
    before = network.outputs(data)
    network.settle()
    network.compact()
    assert len(network.layers[0].matrix) == 3
    torch.testing.assert_close(network.outputs(data), before)


def test_phases_of_sines_lie_within_half_a_turn_without_changing_the_function() -> None:
    network, data = small()
    network.stacks[0].functions = [Activation("sin")] * 2
    for k, turn in ((0, 5.0), (1, -300.0)):
        network.layers[k].matrix[0, -1] += turn
    before = network.outputs(data)
    network.unwind()
    assert all(float(layer.matrix[:, -1].abs().max()) <= np.pi / 2 for layer in network.layers[:2])
    torch.testing.assert_close(network.outputs(data), before)


def test_no_step_is_taken_where_no_weight_is_free() -> None:
    network, data = small()
    for layer in network.layers:
        layer.live = torch.zeros_like(layer.live)
    assert minimise(network, data, 5, Price.of(network.layers, 1e-4)) == (network.error(data), 0)


def test_nearest_plane_beats_rounding_in_its_metric() -> None:
    rng = np.random.default_rng(0)
    lower = np.tril(rng.standard_normal((30, 30)) * 0.9 ** np.arange(30)[:, None]) + 0.05 * np.eye(30)
    w, steps = 5 * rng.standard_normal(30), np.full(30, 0.5)
    planned = nearest_plane(w, np.arange(30), lower, steps, 0.0)
    errors = [np.linalg.norm(lower.T @ (w - q * steps)) for q in (planned, np.rint(w / steps))]
    assert errors[0] < 0.7 * errors[1]


def rounded(network: Any, data: Any, most: float = 1e9) -> Any:
    knobs = [LayerKnobs(1e-6)] * len(network.layers)
    return quantised(Quantised.of(network), data, 1e-6, knobs, most)


def test_neurons_change_places_for_no_more_bytes_and_the_same_function() -> None:
    network, data = small()
    minimise(network, data, 20, damping=1.0)
    found = rounded(network, data)
    original = build_network(outputs_settings(), stack(SIZES))
    before = embedded(original, found.network, found.grids)
    after = reordered(original, found.network, found.grids)
    assert nbytes(after) <= nbytes(before)
    assert any(not torch.equal(before[name].dense(), after[name].dense()) for name in before)
    x = torch.rand(64, 2, generator=torch.Generator().manual_seed(0)).double()
    outputs = []
    for parts in (before, after):
        matrices = [parts[layer.weight].dense() for layer in original.layers]
        y = x
        for k, matrix in enumerate(matrices):
            y = torch.nn.functional.linear(y, matrix[:, :-1], matrix[:, -1])
            y = torch.tanh(y) if k < len(matrices) - 1 else y
        outputs.append(y)
    torch.testing.assert_close(*outputs)


def test_integers_that_move_together_lower_error_and_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest_plane_module, "_MOST", 0)  # in a reduced basis little is left to gain
    network, data = small()
    minimise(network, data, 20, damping=1.0)
    found = rounded(network, data)
    price = found.network.error(data) / network.weights()

    def value(network: Any, grids: Any) -> float:
        bits = [integer_bits(grid, usual_model(grid), 0).sum() for grid in grids]
        return network.error(data) + price * float(sum(bits))

    moves = IntegerMoves(found.network, found.grids, data, price)
    moves.descend()
    assert value(moves.network, moves.grids) < 0.98 * value(found.network, found.grids)
    for layer, grid in zip(moves.network.layers, moves.grids, strict=True):
        np.testing.assert_allclose(layer.matrix.numpy(), grid.to_dense())


def test_the_metric_of_each_part_is_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    network, data = small()
    taken = list[float]()
    metric = quantise_module._metric
    monkeypatch.setattr(quantise_module, "_metric", lambda *given: taken.append(given[3]) or metric(*given))
    quantised(Quantised.of(network), data, 1e-6, [LayerKnobs(1e-4, parts=3)], 1e9)
    assert len(taken) == 3


def test_a_rounding_begun_again_keeps_the_layers_before() -> None:
    network, data = small()
    found = rounded(network, data)
    again = quantised(found.until(1), data, 1e-6, [LayerKnobs(1e-4)] * 2, 1e9)
    assert again is not None and again.grids[0] is found.grids[0]
    assert not np.array_equal(again.grids[1].to_dense(), found.grids[1].to_dense())
    assert [r.level for r in again.knobs] == [1e-6, 1e-4, 1e-4]


def test_a_rounding_that_cannot_hold_is_given_up() -> None:
    network, data = small()
    assert rounded(network, data, most=0.0) is None


def test_a_network_that_no_rounding_suits_has_no_forms() -> None:
    network, data = small()
    found = form_search.FormSearch(
        build_network(outputs_settings(), stack(SIZES)), network, 1e-6, data, float, 1e-9, 1e-9
    )
    found.begin()
    found.settle(1e12)
    found.scatter(1e9)
    assert not found.forms and found.promise == float("inf")


def test_last_layers_begun_again_leave_the_first_ones_and_hold_in_no_more_bytes() -> None:
    network, data = small("mlp", 8)
    minimise(network, data, 60, damping=1.0)

    def measured(other: Any) -> float:
        return float(other.error(data) ** 0.5)

    original = build_network(outputs_settings(), stack(SIZES))
    found = form_search.FormSearch(original, network, 1e-7, data, measured, 3e-2, 3e-2)
    found.begin()
    found.settle(1e12)
    before, count = min(form.cost for form in found.holding()), len(found.forms)
    found.polish(1e10)
    assert len(found.forms) > count and min(form.cost for form in found.holding()) <= before
    first = {id(form.quantised.grids[0]) for form in found.forms[:count]}
    assert any(id(form.quantised.grids[0]) in first for form in found.forms[count:])


def test_threads_of_the_linear_algebra_do_not_wait_beside_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    search = driver._search

    def watched(*args: Any) -> Any:
        seen.extend(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")
        return search(*args)

    monkeypatch.setattr(driver, "_search", watched)
    with threadpool_limits(2, "blas"):
        compress_network(saved(tmp_path, stack([2, 16, 1])), joint_settings())
    assert seen and set(seen) == {1}


def test_slopes_of_single_neurons_stretch_any_function() -> None:
    z = torch.randn(5, 2, generator=torch.Generator().manual_seed(0)).double()
    function = Activation("tanh", torch.tensor([0.5, 2.0, 3.0]).double())
    torch.testing.assert_close(apply(function, z), torch.tanh(z * torch.tensor([0.5, 2.0]).double()))
    for name, derivative in (("sin", torch.cos(z)), ("tanh", 1 - torch.tanh(z) ** 2), ("silu", None)):
        y, slope = with_slope(Activation(name), z)
        torch.testing.assert_close(y, Activation(name)(z))
        step = (Activation(name)(z + 1e-6) - Activation(name)(z - 1e-6)) / 2e-6
        torch.testing.assert_close(slope, step if derivative is None else derivative, atol=1e-8, rtol=1e-6)
