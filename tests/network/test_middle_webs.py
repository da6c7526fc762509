"""Some tens of neurons of a module with skip connections, gates or graphs: they learn, the passes compress them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_networks import saved
from test_webs import module_of, posed, settings_of
from torch import Tensor

import hmcompress.network.joint.middle as middle
import hmcompress.network.layerwise.budget as budget
import hmcompress.network.stages as stages
from hmcompress.network import NetworkResult, compress_network
from hmcompress.network.bound.problem import Problem
from hmcompress.network.joint.distil import learning_data
from hmcompress.network.joint.krylov import descend
from hmcompress.network.joint.linearised import web_at
from hmcompress.network.joint.small import Data
from hmcompress.network.joint.small_web import SmallWeb
from hmcompress.network.joint.web_tracing import fresh_web, web_of
from hmcompress.network.layerwise.original import prepare
from hmcompress.network.layerwise.propagate import Knobs, tensors_of

LEARNED = ["Residual", "Gated", "Beside", "Ring", "Forces"]  # several points a sample; gradients of gradients


def learner(problem: Problem, hidden: int = 6, rows: int = 256) -> tuple[SmallWeb, Data]:
    web = web_of(problem)
    assert web is not None
    data, scale = learning_data(problem, web, rows)
    return fresh_web(web, data, scale, hidden, 0, everything=True), data


def random_moves(network: SmallWeb) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(layer.matrix.shape, generator=generator).double() for layer in network.layers]


@pytest.mark.parametrize("name", LEARNED)
def test_products_with_the_jacobian_are_those_of_the_jacobian(name: str) -> None:
    network, data = learner(posed(name))
    point, v = web_at(network, data), random_moves(network)
    u = torch.randn(data.outputs.shape, generator=torch.Generator().manual_seed(2)).double()
    jacobian, y = network.jacobian(data)
    flat = torch.cat([x.reshape(-1) for x in v])
    torch.testing.assert_close(point.outputs, y.T)
    torch.testing.assert_close(point.forward(v).T.reshape(-1), flat @ jacobian)
    back = torch.cat([x.reshape(-1) for x in point.backward(u)])
    torch.testing.assert_close(back, jacobian @ u.T.reshape(-1))


@pytest.mark.parametrize("name", ["Residual", "Forces"])
def test_pieces_of_a_jacobian_from_one_run_are_those_of_each_by_itself(name: str) -> None:
    network, data = learner(posed(name), rows=230)
    pieces = list(network.pieces(data, 50))
    parts = [data.part(begin, begin + 50) for begin in range(0, len(data), 50)]
    assert [j.shape[1] for j, _ in pieces] == [part.outputs.numel() for part in parts]
    for (slopes, r), part in zip(pieces, parts, strict=True):
        jacobian, y = network.jacobian(part)
        torch.testing.assert_close(slopes, jacobian)
        torch.testing.assert_close(r, (part.outputs.T - y).reshape(-1))


def test_products_stay_where_weights_move_on() -> None:
    network, data = learner(posed("Residual"))
    point, v = web_at(network, data), random_moves(network)
    before = point.forward(v)
    network.set_theta(2 * network.theta())
    torch.testing.assert_close(point.forward(v), before)


@pytest.mark.parametrize("name", ["Residual", "Gated", "Ring"])
def test_conjugate_gradients_learn_what_the_module_computes(name: str) -> None:
    network, data = learner(posed(name), 8)
    first = descend(network, data, 2, 20)
    last = descend(network, data, 25, 50, damping=1e-2)
    assert last < 0.1 * first
    assert last == pytest.approx(network.error(data), rel=1e-2)


@pytest.fixture
def eight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups of eight neurons are tried, whatever the rate says, which learn on few samples."""
    monkeypatch.setattr(middle, "_HIDDEN", (8,))
    monkeypatch.setattr(middle, "_WEIGHTS_PER_BYTE", (0.0, 0.0))
    monkeypatch.setattr(middle, "MIDDLE_ROWS", 1024)


def narrower(problem: Problem, tol: float = 2e-2) -> middle.Middle | None:
    web = web_of(problem)
    assert web is not None
    return middle.middle_network(problem, web, tol, "default", lambda share: None)


@pytest.mark.parametrize("name", ["Residual", "Scaled"])
def test_layers_sit_where_the_neurons_of_their_groups_do(name: str, eight: None) -> None:
    problem, tensors = posed(name), module_of(name).state_dict()
    narrow = narrower(problem)
    assert narrow is not None and {*narrow.network.shape(narrow.network.layers[1])} == {8}
    data = prepare(replace(problem, network=narrow.network), tensors, "default")
    parts = middle.compressed(problem.network, narrow, data, Knobs(1e-4))
    matrices = {key: part.dense() for key, part in parts.items()}
    layer = problem.network.layers[1]
    rows, columns = narrow.places[layer.weight]
    assert matrices[layer.weight].shape == (16, 17)
    outside = matrices[layer.weight].clone()
    outside[np.ix_(rows, [*columns, 16])] = 0
    assert not outside.any()
    if name == "Residual":  # the other's vectors would have to be alike
        assert max(problem.errors(problem.held_out, tensors_of(problem.network, matrices))) < 2e-2


def size(result: NetworkResult) -> int:
    return sum(len(layer.payload) for layer in result.layers)


def compressed(name: str, folder: Path, **changes: Any) -> NetworkResult:
    return compress_network(saved(folder, module_of(name).state_dict()), settings_of(name, effort="default", **changes))


def test_middle_of_a_web_is_smaller_than_passes_and_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, eight: None
) -> None:
    monkeypatch.setattr(stages, "smallest_joint", lambda *args: None)
    monkeypatch.setattr(stages, "smallest_whole", lambda *args: None)
    monkeypatch.setattr(budget, "_MOST", {"default": 14})
    result = compressed("Residual", tmp_path)
    monkeypatch.setattr(stages, "origins_of", lambda problem: iter(()))
    alone = compressed("Residual", tmp_path)
    assert size(result) < 0.8 * size(alone)
    assert 0.5e-2 < result.record.error <= 1e-2


@pytest.mark.parametrize("name", ["Fixed", "Forces"], ids=["fixed widths", "gradients of gradients"])
def test_no_middle_where_modules_cannot_be_narrowed_or_differentiated(name: str, eight: None) -> None:
    assert narrower(posed(name)) is None


def test_no_middle_where_it_does_not_run_in_single_precision(eight: None, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = posed("Residual")
    web = web_of(problem)
    assert web is not None

    def fails(*args: object, **kwargs: object) -> None:
        raise RuntimeError("expected Double but found Float")

    monkeypatch.setattr(middle, "descend", fails)
    assert middle.middle_network(problem, web, 1e-2, "default", lambda share: None) is None
