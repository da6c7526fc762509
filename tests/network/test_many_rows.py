"""Claims about layers that see many rows: moments are the same block by block, at a part of the time and memory."""

import math
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from large_networks import decoder, tokens
from small_networks import outputs_settings, stack

from hmcompress.hmatrix.grids import feedback, weighted
from hmcompress.hmatrix.grids.factors import factorise
from hmcompress.hmatrix.grids.grid import Grid
from hmcompress.network import pose
from hmcompress.network.bound import error
from hmcompress.network.bound import problem as problem_module
from hmcompress.network.layerwise import coded, moments
from hmcompress.network.layerwise.coded import Engine
from hmcompress.network.layerwise.moments import input_moments, ridge_target, sampling_noise, with_column
from hmcompress.network.layerwise.original import original_targets, prepare
from hmcompress.network.layerwise.others import perturbed_moments
from hmcompress.network.layerwise.propagate import Knobs, decoded, run_pass
from hmcompress.network.model.inputs import Points
from hmcompress.network.model.links import probed
from hmcompress.network.model.network import DenseLayer, Network


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(16, 1000, 24), (40, 20, 24), (5000, 24)])
def test_moments_targets_and_noise_are_those_of_all_rows_at_once(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    x, w = torch.randn(shape) * torch.logspace(0, -2, 24), torch.randn(8, 24 + bias, dtype=torch.float64)
    z, layer = torch.randn(*shape[:-1], 8), DenseLayer("", "w", "b" if bias else None)
    rows, targets = with_column(x, layer, True), z.reshape(-1, 8).double()
    whole, each = (rows.T @ rows / len(rows)).numpy(), rows.reshape(len(x), -1, 24 + bias)
    moment, cross = input_moments([x], [z], [], bias)
    assert np.allclose(moment, whole, rtol=1e-10, atol=1e-14)
    assert np.allclose(cross, targets.T @ rows / len(rows), rtol=1e-10, atol=1e-14)
    residual = (targets - rows @ w.T).T @ rows / len(rows)
    inverse = np.linalg.inv(whole + 1e-3 * np.trace(whole) / len(whole) * np.eye(len(whole)))
    assert np.allclose(ridge_target(w.numpy(), moment, cross, 1e-3), w.numpy() + residual.numpy() @ inverse, atol=1e-9)
    own = each.mT @ each / each.shape[1]
    noise, size = (own.square().sum() / len(x) - np.square(whole).sum()) / (len(x) - 1), np.square(whole).sum()
    share = float(noise) / (size - np.trace(whole) ** 2 / len(whole))
    assert sampling_noise(x, bias, moment) == pytest.approx(share / (1 - share), rel=1e-4)


def test_derivatives_count_by_their_weights_and_read_no_bias() -> None:
    torch.manual_seed(0)
    xs, zs = torch.randn(3, 50, 6).double(), torch.randn(3, 50, 2).double()
    moment, cross = input_moments([*xs], [*zs], [0.5, 0.1], True)
    rows = [torch.cat([x, torch.full((50, 1), float(k == 0)).double()], 1) for k, x in enumerate(xs)]
    weights = (1.0, 0.5, 0.1)
    assert np.allclose(moment, sum(w * x.T @ x for w, x in zip(weights, rows, strict=True)) / 50)
    assert np.allclose(cross, sum(w * z.T @ x for w, z, x in zip(weights, zs, rows, strict=True)) / 50)


def test_rows_are_not_copied_as_a_whole() -> None:
    x, z = torch.randn(64, 2000, 32), torch.randn(64, 2000, 16)
    tracemalloc.start()
    input_moments([x], [z], [], True)
    sampling_noise(x, True, np.eye(33))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < x.numel() * 4 / 4


def test_sensitivities_of_much_work_are_summed_in_single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    g = 1e-25 * torch.randn(500, 30, dtype=torch.float64)  # of which no square is a single number
    exact = moments._product(g)
    monkeypatch.setattr(moments, "_MUCH_WORK", 1.0)
    single = moments._product(g)
    assert single.dtype == np.float64 and np.abs(single - exact).max() < 1e-6 * np.abs(exact).max()
    assert not np.array_equal(single, exact)


def test_passes_share_the_factors_of_sensitivities(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).uniform(-1, 1, (100, 2)).astype(np.float32))
    factory = {"factory": f"{Path(__file__).parent / 'large_networks.py'}:tokens"}
    state = tokens().state_dict()
    problem = pose(outputs_settings(network=factory, calibration={"inputs": str(tmp_path / "x.npy")}), state)
    data, name = prepare(problem, state, "fast"), "net.0.weight"
    first = data.factor_of_rows(name, 1e-2)
    assert data.factor_of_rows(name, 1e-2) is first
    other = data.factor_of_rows(name, 1.0)
    assert other is not first and np.allclose(
        other.lower @ other.lower.T,
        moments.regularised(data.sensitivities[name], 1.0)[np.ix_(other.order, other.order)],
    )


def test_samples_of_which_a_network_writes_much_are_run_few_at_once(tmp_path: Path) -> None:
    points = Points((torch.zeros(500, 2),))
    assert [error._batch(points, written) for written in (0.0, 1e3, 1e4, 1e6, 1e9)] == [4096, 4096, 4096, 50, 4]
    assert error._batch(Points((torch.zeros(500, 2), torch.zeros(9, 2)), False), 1e9) == 4096  # what they share is most
    np.save(tmp_path / "x.npy", np.random.default_rng(0).uniform(-1, 1, (100, 2)).astype(np.float32))
    factory = {"factory": f"{Path(__file__).parent / 'large_networks.py'}:tokens"}
    settings = outputs_settings(network=factory, calibration={"inputs": str(tmp_path / "x.npy")})
    network = pose(settings, tokens().state_dict()).network
    assert network.written > 400 * 129
    assert [problem_module._repeated(replace(network, written=w)) for w in (0.0, 1e5, 5e6, 1e9)] == [64, 64, 20, 8]


def test_outputs_stay_what_they_were_when_a_module_writes_the_next_ones_there(monkeypatch: pytest.MonkeyPatch) -> None:
    network, own = pose(outputs_settings(), stack([2, 8, 1])).network, torch.ones(5, 1, dtype=torch.float64)
    monkeypatch.setattr(error, "jets", lambda *given: [own.add_(1)])
    first = error.evaluate(network, Points((torch.zeros(5, 2),)), 0)
    error.evaluate(network, Points((torch.zeros(5, 2),)), 0)
    assert first[0].eq(2).all()


@pytest.mark.parametrize("kind", ["l2", "max", "each"])
def test_errors_are_the_same_some_rows_at_a_time(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    y0, noise = (torch.randn(50, 3, generator=torch.Generator().manual_seed(k)).double() for k in (0, 1))
    whole = error.block_errors(kind, [y0], [y0 + 0.1 * noise])
    monkeypatch.setattr(error, "_COMPARED_AT_ONCE", 20)
    assert error.block_errors(kind, [y0], [y0 + 0.1 * noise]) == pytest.approx(whole, rel=1e-12)
    for bad in (math.nan, math.inf):
        broken = y0.clone()
        broken[17, 1] = bad
        assert error.block_errors(kind, [y0], [broken]) == [math.inf]
    assert error.block_errors(kind, [0 * y0], [0 * y0]) == [0.0]
    assert error.block_errors(kind, [0 * y0], [y0]) == [math.inf]


def test_large_matrices_of_even_metrics_are_rounded_in_single_precision() -> None:
    """Sums of rounding errors need no more; where pivots differ much, they are divided by small ones."""
    rng = np.random.default_rng(0)
    (rows, columns), w = (factorise(a @ a.T / 600) for a in (rng.standard_normal((200, 600)),) * 2), None
    w = rng.standard_normal((200, 200))
    assert feedback._even(rows.pivots) and not feedback._even(np.array([1.0, 1e-5]))
    q = feedback.nearest_plane_in_tiles(w, columns.lower, rows, 0.1 / columns.pivots, 1 / rows.pivots, 0.1)
    steps = np.outer(1 / rows.pivots, 0.1 / columns.pivots)
    left = rows.lower.T @ (w - q * steps) @ columns.lower
    assert np.sqrt(np.mean(left**2)) == pytest.approx(0.1 / 12**0.5, rel=0.1)


def test_structure_is_looked_for_in_a_corner_of_a_large_matrix_first(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[tuple[int, ...]] = []
    compress = coded.compress_matrix

    def noted(w: torch.Tensor, tol: float) -> object:
        looked.append(tuple(w.shape))
        return compress(w, tol)

    monkeypatch.setattr(coded, "compress_matrix", noted)
    monkeypatch.setattr(coded, "_CORNER", 64)
    torch.manual_seed(0)
    assert Engine().share_of_noise("noise", torch.randn(256, 200)) > 0.9
    assert looked == [(64, 64)]
    assert Engine().share_of_noise("product", torch.randn(256, 4) @ torch.randn(4, 200)) < 0.15
    assert looked[1:] == [(64, 64), (256, 200)]


def test_the_model_of_scales_of_a_large_grid_is_chosen_by_some_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    q = np.rint(rng.standard_t(3, (600, 300)) * 2.0).astype(np.int64)
    grid = Grid(q, np.zeros(600, np.int64), np.zeros(300, np.int64))
    whole = len(weighted.encode(grid))
    seen: list[int] = []
    bits = weighted._bits

    def noted(living: Grid, model: weighted.ScaleModel) -> float:
        seen.append(living.q.size)
        return bits(living, model)

    monkeypatch.setattr(weighted, "_bits", noted)
    monkeypatch.setattr(weighted, "_CHOSEN_BY", 1 << 14)
    assert len(weighted.encode(grid)) < 1.002 * whole
    assert set(seen) == {-(-600 // 10) * 300 if 600 * 300 // (1 << 14) == 10 else 0}


def test_passes_end_with_the_last_dense_layer(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).uniform(-1, 1, (100, 3)).astype(np.float32))
    factory = {"factory": f"{Path(__file__).parent / 'large_networks.py'}:decoder"}
    state = decoder().state_dict()
    problem = pose(outputs_settings(network=factory, calibration={"inputs": str(tmp_path / "x.npy")}), state)
    data, calls = prepare(problem, state, "fast"), list[int]()
    problem.network.module.get_submodule("after").register_forward_hook(lambda *given: calls.append(1))
    parts = run_pass(problem.network, data, Knobs(1e-3))
    assert parts.keys() == {"dense.weight", "after.weight"} and not calls
    problem.errors(problem.held_out, decoded(problem.network, data, parts))
    assert calls
    assert original_targets(replace(problem.network, layers=()), data.points, 0) == {} and len(calls) == 1


def test_links_are_looked_for_on_few_samples_of_a_network_that_takes_long(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).uniform(-1, 1, (400, 3)).astype(np.float32))
    factory = {"factory": f"{Path(__file__).parent / 'large_networks.py'}:decoder"}
    problem = pose(
        outputs_settings(network=factory, calibration={"inputs": str(tmp_path / "x.npy")}), decoder().state_dict()
    )
    points = problem.calibration.points
    assert [len(probed(replace(problem.network, written=w), points)[1]) for w in (1e3, 1e6, 1e9)] == [128, 10, 2]


def test_where_all_layers_have_gradients_none_is_perturbed() -> None:
    network = Network(torch.nn.Module(), (), {}, "factory", torch.float32)  # which cannot run
    assert perturbed_moments(network, Points((torch.zeros(4, 2),)), [], "l2") == {}
