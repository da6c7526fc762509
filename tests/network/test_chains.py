"""Dense chains of a user's own module: found by running it, learned by few neurons, whatever the module does around."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import chain_networks
import pytest
import torch
from small_networks import check_jacobian, outputs_settings, saved, stack
from torch import Tensor, nn

import hmcompress.network.joint.form_search as form_search
import hmcompress.network.joint.learned as learned
import hmcompress.network.joint.middle as middle
import hmcompress.network.joint.smallest as joint_module
import hmcompress.network.joint.widening as widening
import hmcompress.network.layerwise.budget as budget
import hmcompress.network.stages as stages
from hmcompress import compress, decompress, verify
from hmcompress.container.payload import decode_layer
from hmcompress.hmatrix.codecs import COMPACT
from hmcompress.network import NetworkResult, compress_network, pose
from hmcompress.network.bound.problem import Problem
from hmcompress.network.joint.chains import Chains
from hmcompress.network.joint.distil import chains_of, fresh, learning_data, with_outputs
from hmcompress.network.joint.krylov import descend
from hmcompress.network.joint.linearised import in_single, stacks_at
from hmcompress.network.joint.middle import as_middle
from hmcompress.network.layerwise.original import prepare
from hmcompress.network.layerwise.propagate import Knobs, decoded
from hmcompress.network.model.links import with_stacks
from hmcompress.network.stages import coded_beside

NETWORKS = Path(chain_networks.__file__)
BOXES = {"Product": {"a": [-1, 1], "b": [-1, 1], "c": [-1, 1], "y": [0, 1]}}
FOUND = {
    "Plain": ([(2, 16, 16, 1)], ["tanh"]),
    "Siren": ([(2, 16, 16, 1)], ["sin"]),
    "Swish": ([(2, 16, 16, 1)], ["swish"]),
    "Softplus": ([(2, 16, 16, 1)], ["softplus"]),
    "Condition": ([(2, 16, 16, 1)], ["tanh"]),
    "Positive": ([(2, 16, 16, 1)], ["tanh"]),
    "Two": ([(2, 16, 16, 1), (2, 8, 2)], ["tanh"]),
    "Product": ([(3, 16, 8), (1, 16, 8)], ["tanh"]),
    "Mixture": ([(2, 2), (2, 16, 1), (2, 16, 1)], ["tanh"]),
    "Modes": ([(2, 32, 32, 3)], ["tanh"]),
    "Heads": ([(2, 16, 16, 3)], ["tanh"]),
}
FOLLOWED = sorted(FOUND.keys() - {"Positive", "Heads"})
NEURONS = ["Plain", "Softplus", "Condition", "Positive", "Two", "Product", "Mixture", "Modes", "Heads"]


@pytest.fixture(autouse=True)
def _little_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joint_module, "_WORK", {"default": 2e9, "max": 2e9})
    monkeypatch.setattr(joint_module, "_SEEDS", 1)
    monkeypatch.setattr(form_search, "_LEAST", 2)
    monkeypatch.setattr(budget, "_MOST", {"fast": 8, "default": 8})


def module_of(name: str) -> nn.Module:
    """With weights that a few neurons can stand for."""
    torch.manual_seed(0)
    module = getattr(chain_networks, name)()
    state = module.state_dict()
    for k, (key, t) in enumerate(sorted(state.items())):
        if t.ndim == 2:
            state[key] = stack([t.shape[1], t.shape[0]], k)["net.0.weight"]
    module.load_state_dict(state)
    return module.eval()


def settings_of(name: str, **changes: Any) -> Any:
    calibration = changes.pop("calibration", {})
    if name in BOXES:
        calibration = {"inputs": "inputs.safetensors", **calibration}
    network = {"factory": f"{NETWORKS}:{name}"}
    return outputs_settings(effort="default", network=network, calibration=calibration, **changes)


@pytest.fixture(scope="module", autouse=True)
def _inputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    from safetensors.torch import save_file

    folder, generator = tmp_path_factory.mktemp("inputs"), torch.Generator().manual_seed(0)
    u, y = (torch.rand(1500, n, generator=generator) for n in (3, 1))
    save_file({"u": u, "y": y}, folder / "inputs.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield


def posed(name: str, **changes: Any) -> Problem:
    return pose(settings_of(name, **changes), module_of(name).state_dict())


def chains_in(problem: Problem) -> Chains:
    chains = chains_of(problem)
    assert chains is not None
    return chains


@pytest.mark.parametrize("name", FOUND)
def test_chains_are_found(name: str) -> None:
    chains = chains_in(posed(name))
    assert (list(chains.sizes), sorted({f.name for part in chains.parts for f in part.functions})) == FOUND[name]
    assert chains.product == (name == "Product") and not any(part.features for part in chains.parts)


@pytest.mark.parametrize(("name", "slope"), [("Siren", 3.7), ("Swish", 1.3)])
def test_a_factor_before_the_function_is_found(name: str, slope: float) -> None:
    functions = chains_in(posed(name)).parts[0].functions
    assert all(f.slope is not None and float(f.slope) == pytest.approx(slope) for f in functions)


@pytest.mark.parametrize("name", ["Skip", "Gated", "Normed", "Convolved", "Tokens"])
def test_what_is_no_chain_is_left_alone(name: str) -> None:
    assert chains_of(posed(name)) is None


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("name", ["Plain", "Condition", "Heads", "Product"])
def test_differences_are_the_derivatives(name: str, order: int) -> None:
    problem = posed(name, calibration={"derivatives": order, "samples": 64})
    chains = chains_in(problem)
    data, scale = with_outputs(problem, chains, problem.calibration.points)
    expected = torch.cat([b * s for b, s in zip(problem.calibration.blocks, scale, strict=True)], 1)
    torch.testing.assert_close(data.outputs, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    assert len(scale) == 1 + order * problem.calibration.points.tensors[-1].shape[1]


def test_jacobian_of_derivatives_is_the_derivative() -> None:
    network, data, _ = learner(posed("Condition", calibration={"derivatives": 1, "samples": 64}), 3)
    check_jacobian(network, data)


@pytest.mark.parametrize("name", ["Plain", "Condition"])
def test_few_neurons_keep_derivatives(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joint_module, "_WORK", {"default": 4e9})
    settings = settings_of(name, tol=3e-2, calibration={"derivatives": 1})
    result = compress_network(saved(tmp_path, module_of(name).state_dict()), settings)
    assert by_joint(result)
    assert 3e-3 < max(result.record.error, *result.record.derivative_errors) <= 3e-2


@pytest.mark.parametrize("name", FOLLOWED)
def test_outputs_follow_from_those_of_the_chains(name: str) -> None:
    """Of any small network in the chains' place, not only of one near the original."""
    problem = posed(name)
    small, data, scale = learner(problem, 5)
    network = as_middle(problem.network, small).network
    y = network.run(problem.calibration.points.tensors).double() * scale[0]
    predicted = small.outputs(data)[: len(y)]
    if name == "Modes":  # turned into fewer ones of the same size
        y, predicted = y.norm(), predicted.norm()
    torch.testing.assert_close(predicted, y, rtol=1e-4, atol=1e-5 * float(y.abs().max()))


@pytest.mark.parametrize("name", ["Plain", "Condition", "Two", "Product", "Mixture"])
def test_products_of_stacks_are_those_of_their_jacobian(name: str) -> None:
    small, data, _ = learner(posed(name), 4)
    point, generator = in_single(small, data).linearised(), torch.Generator().manual_seed(1)
    v = [torch.randn(layer.matrix.shape, generator=generator) for layer in small.layers]
    u = torch.randn(data.outputs.shape, generator=generator)
    forth, back, sent = point.forward(v), point.backward(u), point.sensitivities(u)
    assert float((forth * u).sum()) == pytest.approx(
        sum(float((a * b).sum()) for a, b in zip(v, back, strict=True)), rel=1e-3
    )
    for g, x, b in zip(sent, point.inputs, back, strict=True):
        torch.testing.assert_close(g.T @ x, b, rtol=1e-3, atol=1e-5 * float(b.abs().max()))
    moved, step = small.clone(), 1e-6
    for layer, dw in zip(moved.layers, v, strict=True):
        layer.matrix = layer.matrix + step * dw.double()
    differences = [n.outputs(replace(data, beyond=None)) for n in (moved, small)]
    slope = (differences[0] - differences[1]) / step
    torch.testing.assert_close(forth.double(), slope, rtol=1e-3, atol=1e-3 * float(slope.abs().max()))


@pytest.mark.parametrize("name", ["Two", "Product", "Mixture"])
def test_several_stacks_learn_by_conjugate_gradients(name: str) -> None:
    small, data, _ = learner(posed(name), 6)
    before = small.error(data)
    assert descend(small, data, 20, 40) < 0.1 * before


@pytest.mark.parametrize("name", ["Two", "Basis"])
def test_the_middle_way_of_several_stacks_and_beside_other_weights_holds(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "smallest_joint", lambda *args: None)
    monkeypatch.setattr(stages, "smallest_whole", lambda *args: None)
    monkeypatch.setattr(middle, "_HIDDEN", (4, 6, 8))
    monkeypatch.setattr(middle, "_WEIGHTS_PER_BYTE", (0.0, 0.0))
    monkeypatch.setattr(middle, "MIDDLE_ROWS", 1024)
    monkeypatch.setattr(learned, "MIDDLE_ROWS", 1024)
    monkeypatch.setattr(widening, "_ROWS", (512,))
    monkeypatch.setattr(middle, "_PRODUCTS", 40)
    narrow: list[middle.Middle] = []
    found = middle.middle_network
    monkeypatch.setattr(stages, "middle_network", lambda *args: narrow.append(found(*args)) or narrow[-1])
    result = compress_network(saved(tmp_path, module_of(name).state_dict()), settings_of(name))
    assert narrow[0] is not None
    assert 5e-3 < result.record.error <= 1e-2
    assert len(result.layers) == len(posed(name).network.layers) + len(posed(name).network.others)


def test_of_many_outputs_errors_have_the_same_size() -> None:
    problem = posed("Modes")
    small, data, _ = learner(problem, 5)
    assert data.outputs.shape[1] == 4 < 40
    narrow = as_middle(problem.network, small).network
    y, z = (n.run(problem.calibration.points.tensors) for n in (problem.network, narrow))
    rows = len(y)
    error = (data.outputs - small.outputs(data))[:rows].norm() / data.outputs[:rows].norm()
    assert float(error) == pytest.approx(float((z - y).norm() / y.norm()), rel=1e-4)


def learner(problem: Problem, hidden: int) -> tuple[Any, Any, Tensor]:
    chains = chains_in(problem)
    data, scale = with_outputs(problem, chains, problem.calibration.points)
    return fresh(chains, data, scale, hidden, 0), data, scale


@pytest.mark.parametrize("name", ["Condition", "Positive", "Two", "Product", "Mixture", "Modes", "Heads"])
def test_jacobian_is_the_derivative(name: str) -> None:
    network, data, _ = learner(posed(name), 3)
    check_jacobian(network, data)
    assert network.normal(data)[2] == pytest.approx(network.error(data))


def test_products_with_the_jacobian_are_each_others_transpose() -> None:
    network, data, _ = learner(posed("Condition"), 4)
    point = stacks_at(network, data.inputs, data.mix)
    generator = torch.Generator().manual_seed(1)
    v = [torch.randn(layer.matrix.shape, generator=generator).double() for layer in network.layers]
    u = torch.randn(data.outputs.shape, generator=generator).double()
    forth, back = point.forward(v), point.backward(u)
    assert float((forth * u).sum()) == pytest.approx(sum(float((a * b).sum()) for a, b in zip(v, back, strict=True)))


def test_conjugate_gradients_learn_through_the_module() -> None:
    network, data, _ = learner(posed("Condition"), 12)
    first = descend(network, data, 2, 20)
    last = descend(network, data, 25, 50, damping=1e-2)
    assert last < 0.1 * first and last == pytest.approx(network.error(data), rel=1e-2)


def test_more_points_than_the_calibration_has_teach() -> None:
    problem = posed("Condition")
    data, _ = learning_data(problem, chains_in(problem), 2000)
    assert len(data) == 2000 > len(problem.calibration.points)


def by_joint(result: NetworkResult) -> bool:
    return any(layer.payload[0] == COMPACT for layer in result.layers)


@pytest.mark.parametrize("name", NEURONS)
def test_few_neurons_take_the_chains_place(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name in ("Heads", "Modes", "Two"):  # several outputs or stacks are more work
        monkeypatch.setattr(joint_module, "_WORK", {"default": 5e9})
    module, settings = module_of(name), settings_of(name, tol=2e-2)
    result = compress_network(saved(tmp_path, module.state_dict()), settings)
    assert by_joint(result) and 0.1 * 2e-2 < result.record.error <= 2e-2
    problem = pose(settings, module.state_dict())
    tensors: dict[str, Tensor] = {}
    for layer in result.layers:
        tensors |= dict(zip(layer.row.tensors, decode_layer(layer.payload, layer.shapes, layer.dtype), strict=True))
    assert max(problem.errors(problem.held_out, tensors)) == pytest.approx(result.record.error, rel=1e-6)
    monkeypatch.setattr(stages, "origins_of", lambda problem: ())
    monkeypatch.setattr(stages, "smallest_whole", lambda *args: None)
    alone = compress_network(saved(tmp_path, module.state_dict()), settings)
    assert sizes(result) < 0.8 * sizes(alone)


def sizes(result: NetworkResult) -> int:
    return sum(len(layer.payload) for layer in result.layers)


def test_what_else_the_module_holds_is_kept(tmp_path: Path) -> None:
    module = chain_networks.Condition()
    module.register_buffer("other", torch.rand(12))
    checkpoint = tmp_path / "model.pt"
    torch.save(module.state_dict(), checkpoint)
    (tmp_path / "own.py").write_text(
        f"import sys\nsys.path.append({str(NETWORKS.parent)!r})\nimport torch, chain_networks\n"
        "def build():\n    m = chain_networks.Condition()\n"
        "    m.register_buffer('other', torch.rand(12))\n    return m\n"
    )
    out = tmp_path / "small.hmc.safetensors"
    network = {"factory": f"{tmp_path / 'own.py'}:build"}
    compress(checkpoint, out, settings=outputs_settings(effort="default", network=network))
    back = tmp_path / "back.pt"
    decompress(out, back)
    state = torch.load(back, weights_only=True)
    assert torch.equal(state["other"], module.other) and torch.equal(state["high"], module.high)
    assert verify(out, against=checkpoint).passed


def test_sizes_are_those_of_the_module() -> None:
    chains = chains_in(posed("Two"))
    for part, of_part in zip(chains.parts, chains.sizes, strict=True):
        shapes = [chains.network.shape(layer) for layer in part.layers]  # without heads
        assert shapes == [(m, n) for n, m in itertools.pairwise(of_part)]


def test_functions_in_the_code_let_dead_rows_go() -> None:
    problem = posed("Condition")
    assert not problem.network.stacks
    network = with_stacks(problem.network, problem.calibration.points)
    assert [len(run) for run in network.stacks] == [3] and len(network.feeding_pairs()) == 2
    gated = posed("Gated")
    assert not with_stacks(gated.network, gated.calibration.points).stacks


def test_of_a_skipped_layer_only_what_nothing_else_reads_is_linked() -> None:
    problem = posed("Skip")
    network = with_stacks(problem.network, problem.calibration.points)
    assert [[layer.weight for layer in run] for run in network.stacks] == [["net.0.weight", "net.1.weight"]]


def test_chains_learn_around_what_others_have_become() -> None:
    problem = posed("Condition")
    chains = chains_in(problem)
    changed = chains.beside({"high": torch.tensor([2.5, 2.5])})
    points = problem.calibration.points
    before, after = chains.outputs(points), changed.outputs(points)
    torch.testing.assert_close(after.outputs, before.outputs)
    assert not torch.allclose(after.inputs[0], before.inputs[0])


def test_other_weights_use_a_part_of_the_tolerance(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = posed("Basis")
    tensors = module_of("Basis").state_dict()
    data = prepare(problem, tensors, "fast")
    parts = coded_beside(problem, data, 1e-2, frozenset())
    error = max(problem.errors(problem.calibration, decoded(problem.network, data, parts)))
    assert 1e-3 < error < 1e-2 and set(parts) == {"modes"}
    assert len(parts["modes"].payload(thorough=True)) < 0.5 * tensors["modes"].nbytes


def test_other_weights_come_near_where_their_error_jumps(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = posed("Basis")
    data = prepare(problem, module_of("Basis").state_dict(), "fast")
    levels: list[float] = []

    def coded(data: object, knobs: Knobs, exact: bool = False) -> float:
        levels.append(knobs.delta)
        return knobs.delta

    def error(problem: object, data: object, level: float) -> float:
        return 2e-2 if level > 0.7 * levels[1] else 1e-3  # of the first that is tried

    monkeypatch.setattr(stages, "coded_others", coded)
    monkeypatch.setattr(stages, "_error_beside", error)
    found = coded_beside(problem, data, 1e-2, frozenset())
    assert 0.5 < found / levels[1] <= 0.7
