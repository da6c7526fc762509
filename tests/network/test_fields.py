"""Layers that write fields: passes find their mesh and code them as smooth functions. Outputs are known as such."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from field_networks import POINTS, Heads, build_denormalised, build_positive, field_state
from small_networks import decoded, forward, layer_bytes, outputs_settings, saved

import hmcompress.hmatrix.grids.smooth as smooth_module
import hmcompress.network.layerwise.budget as budget
import hmcompress.network.layerwise.fields as fields
import hmcompress.network.layerwise.original as original
from hmcompress.hmatrix.codecs import SMOOTH, WEIGHTED
from hmcompress.hmatrix.grids.factors import Factor, factorise
from hmcompress.hmatrix.grids.feedback import quantise
from hmcompress.network import NetworkResult, compress_network, pose
from hmcompress.network.layerwise.moments import sensitivities
from hmcompress.network.layerwise.original import prepare

FACTORY = str(Path(__file__).parent / "field_networks.py") + ":build"
TOL = 1e-2
LARGE = (73, 64)


def fast(**changes: Any) -> Any:
    """Passes alone."""
    return outputs_settings(**{"effort": "fast", "tol": TOL, **changes})


def head(result: NetworkResult) -> int:
    """The codec of the last layer."""
    return next(layer.payload[0] for layer in result.layers if layer.row.tensors[0] == "net.4.weight")


@pytest.fixture(scope="module", autouse=True)
def _few_passes() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(budget, "_MOST", {"fast": 8, "default": 8})
        yield


@pytest.mark.parametrize("changes", [{}, {"calibration": {"tolerance": "each"}}, {"network": {"factory": FACTORY}}])
def test_passes_write_fields_in_a_fraction_of_the_bytes(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smooth = compress_network(saved(tmp_path, field_state()), fast(**changes))
    monkeypatch.setattr(original, "layouts_of_fields", lambda *args: {})
    plain = compress_network(saved(tmp_path, field_state()), fast(**changes))
    assert head(smooth) == SMOOTH != head(plain)
    assert 2 * layer_bytes(smooth) < layer_bytes(plain)
    assert 0.7 * TOL < smooth.record.error <= TOL
    if not changes:
        x = pose(fast(), field_state()).held_out.points.tensors[0]
        y, z = (forward(state, x, torch.tanh) for state in (field_state(), decoded(smooth)))
        assert float((z - y).norm() / y.norm()) == pytest.approx(smooth.record.error, rel=1e-6)


@pytest.mark.parametrize(("name", "pairs"), [("denormalised", True), ("denormalised", False), ("positive", True)])
def test_points_may_weigh_differently(name: str, pairs: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not pairs:  # as on meshes of more points
        monkeypatch.setattr(smooth_module, "MOST_PAIRED", 100)
    module = {"denormalised": build_denormalised, "positive": build_positive}[name]()
    module.load_state_dict(field_state(), strict=False)
    settings = fast(network={"factory": f"{FACTORY}_{name}"}, tol=1e-3)
    smooth = compress_network(saved(tmp_path, module.state_dict()), settings)
    monkeypatch.setattr(original, "layouts_of_fields", lambda *args: {})
    plain = compress_network(saved(tmp_path, module.state_dict()), settings)
    assert head(smooth) == SMOOTH and layer_bytes(smooth) < 0.8 * layer_bytes(plain)
    assert smooth.record.error <= 1e-3


def test_noise_is_no_field(tmp_path: Path) -> None:
    state = field_state()
    state["net.4.weight"] = torch.randn(POINTS, 32, generator=torch.Generator().manual_seed(0))
    assert head(compress_network(saved(tmp_path, state), fast())) != SMOOTH


def test_hidden_layers_and_those_that_take_long_are_no_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = pose(fast(), field_state())
    assert [*prepare(problem, field_state(), "fast").fields] == ["net.4.weight"]
    monkeypatch.setattr(fields, "_MOST_WORK", POINTS * 32**2 - 1)
    assert not prepare(problem, field_state(), "fast").fields


def test_fields_may_have_more_points_than_pairs_of_them_are_looked_at(tmp_path: Path) -> None:
    state = field_state(mesh=LARGE)
    data = prepare(pose(fast(), state), state, "fast")
    assert data.sensitivities["net.4.weight"].shape == (math.prod(LARGE),) and data.fields
    result = compress_network(saved(tmp_path, state), fast())
    assert head(result) == SMOOTH and 0.7 * TOL < result.record.error <= TOL
    few = compress_network(saved(tmp_path, field_state()), fast())
    assert layer_bytes(result) < 1.3 * layer_bytes(few)


def test_wide_layers_that_write_no_field_are_rounded_in_the_metric_of_what_they_read(tmp_path: Path) -> None:
    state = field_state(mesh=LARGE)
    state["net.4.weight"] = torch.randn(math.prod(LARGE), 32, generator=torch.Generator().manual_seed(0))
    result = compress_network(saved(tmp_path, state), fast(tol=1e-1))
    assert head(result) == WEIGHTED and result.record.error <= 1e-1


@pytest.mark.parametrize("first", ["flipped", "relu", "sums", "twice"])
def test_outputs_are_known_as_such(first: str) -> None:
    """Signs of other outputs add nothing by chance, unlike to what makes several outputs or bends."""
    torch.manual_seed(0)
    module = Heads(first)
    settings = fast(network={"factory": f"{FACTORY}_{first}"})
    problem = pose(settings, module.state_dict())
    found = sensitivities(problem.network, problem.calibration.points, lambda blocks: blocks, 0, 0)
    size = len(problem.calibration.points)
    np.testing.assert_allclose(found["b.weight"], np.full(24, size), rtol=1e-6)
    if first == "flipped":
        np.testing.assert_allclose(found["a.weight"], np.full(40, 4 * size), rtol=1e-6)
    else:
        assert found["a.weight"].shape == (40, 40)


def test_rows_by_themselves_are_rounded_as_all_together() -> None:
    rng = np.random.default_rng(0)
    w, x = rng.standard_normal((300, 12)), rng.standard_normal((50, 12))
    columns, rows = factorise(x.T @ x / 50), factorise(np.diag(rng.uniform(0.5, 2, 300)))
    assert rows.is_diagonal and not rows.is_even
    q = quantise(w, columns, rows, 0.1, 0.1).q
    each = [Factor(np.arange(1), rows.lower[i : i + 1]) for i in range(300)]
    assert (q == np.concatenate([quantise(w[[i]], columns, row, 0.1, 0.1).q for i, row in enumerate(each)])).all()
