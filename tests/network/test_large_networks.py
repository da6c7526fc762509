"""Claims about networks of a million numbers: modes have metrics of their own, and no stage sees more than it needs."""

from dataclasses import replace
from pathlib import Path

import large_networks
import numpy as np
import pytest
import torch
from small_networks import outputs_settings
from torch import Tensor, nn

from hmcompress.layers import to_matrices
from hmcompress.network import pose
from hmcompress.network.bound import error, growth
from hmcompress.network.bound.problem import Problem
from hmcompress.network.layerwise import gradients, original, ways
from hmcompress.network.layerwise.budget import budget_of, forward_cost_of
from hmcompress.network.layerwise.gradients import ModesMetric, WholeMetric
from hmcompress.network.layerwise.moments import sensitivities
from hmcompress.network.layerwise.original import Original, points_of_passes, prepare
from hmcompress.network.layerwise.others import without_zero_rows
from hmcompress.network.layerwise.propagate import Knobs, coded_others, decoded
from hmcompress.network.layerwise.subject import Subject
from hmcompress.network.model.forward_size import ForwardSize, forward_size
from hmcompress.network.model.inputs import Points
from hmcompress.network.model.network import Network

HELPERS = Path(__file__).parent / "large_networks.py"


def posed(name: str, inputs: np.ndarray, folder: Path) -> tuple[Problem, dict[str, Tensor]]:
    np.save(folder / "x.npy", inputs.astype(np.float32))
    calibration = {"inputs": str(folder / "x.npy"), "samples": len(inputs), "held_out": len(inputs) // 4}
    state = getattr(large_networks, name)().state_dict()
    return pose(outputs_settings(network={"factory": f"{HELPERS}:{name}"}, calibration=calibration), state), state


def fields(count: int = 160) -> np.ndarray:
    """Random fields of 16 x 16, of which a mode has the less the higher it is."""
    rng, k = np.random.default_rng(0), np.fft.fftfreq(16, 1 / 16)
    falling = np.exp(-(k[:, None] ** 2 + k**2) / 20)
    return np.fft.ifft2(np.fft.fft2(rng.standard_normal((count, 16, 16))) * falling).real * 4


def error_at(problem: Problem, data: Original, nbytes: int) -> float:
    """Of the outputs, where the other weights take so many bytes: between two water levels."""

    def tried(exponent: int) -> tuple[int, float]:
        parts = coded_others(data, Knobs(2.0**exponent))
        size = sum(len(part.payload(False)) for part in parts.values())
        return size, problem.errors(problem.held_out, decoded(problem.network, data, parts))[0]

    fine, coarse = -18, -9
    while coarse - fine > 1:
        exponent = (fine + coarse) // 2
        fine, coarse = (exponent, coarse) if tried(exponent)[0] > nbytes else (fine, exponent)
    (least, highest), (most, lowest) = tried(coarse), tried(fine)
    assert least <= nbytes < most
    return float(np.exp(np.interp(nbytes, [least, most], np.log([highest, lowest]))))


def test_modes_of_a_spectral_weight_have_metrics_of_their_own_and_a_smaller_error_at_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gradients, "_PROJECTED", 1)  # one of each sample is enough here
    problem, state = posed("operator", fields(), tmp_path)
    apart = prepare(problem, state, "fast")
    name = "layers.0.weight"
    (metric,) = apart.other_metrics[name]
    assert isinstance(metric, ModesMetric) and len(metric.parts) == 64
    assert np.array_equal(np.sort(np.concatenate([part.columns for part in metric.parts])), np.arange(16 * 128))
    monkeypatch.setattr(gradients, "_modes", lambda w: 1)
    together = prepare(problem, state, "fast")
    assert isinstance(together.other_metrics[name][0], WholeMetric)
    alone = replace(together, other_metrics={n: m for n, m in apart.other_metrics.items() if "layers" not in n})
    ours, whole, engine = (error_at(problem, data, 12_000) for data in (apart, together, alone))
    assert ours < 0.8 * whole and ours < 0.5 * engine


def test_outputs_of_few_samples_are_projected_several_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One projection of each sample leaves out most of what its many outputs are sensitive to."""
    problem, state = posed("operator", fields(), tmp_path)
    points = problem.calibration.points.take(slice(0, 8))
    few = replace(problem, calibration=problem.reference(points, "few"))
    assert gradients._rounds(problem.network, points, 1e4) == 64
    assert gradients._rounds(problem.network, points, 1e7) == 3  # each takes long
    assert gradients._rounds(problem.network, points, 0.0) == 1
    often = error_at(problem, prepare(few, state, "fast"), 12_000)
    monkeypatch.setattr(gradients, "_rounds", lambda *given: 1)
    assert often < 0.95 * error_at(problem, prepare(few, state, "fast"), 12_000)


def test_columns_of_a_part_are_those_of_its_mode(tmp_path: Path) -> None:
    """Other modes of a weight keep the gradient of one away from its moments."""
    w = torch.randn(16, 16, 3, 2, dtype=torch.cfloat)
    moments = gradients._moments(w, to_matrices(w)[0].numpy())
    mode = torch.zeros_like(w)
    mode[:, :, 1, 1] = w[:, :, 1, 1]
    moments.add(to_matrices(mode)[0].double().numpy())
    assert isinstance(moments, gradients._ModeMoments)
    assert [bool(m.any()) for m in moments._modes] == [False, False, False, True, False, False]


def test_long_kernels_are_weighed_tap_by_tap_and_short_ones_as_a_whole() -> None:
    assert gradients._modes(torch.zeros(64, 64, 3, 3)) == 1
    assert gradients._modes(torch.zeros(32, 512, 3, 3, 3)) == 27  # 13,824 columns
    assert gradients._modes(torch.zeros(8192, 8192)) == 0


def test_a_pass_sees_as_many_rows_as_its_layers_need_and_all_samples_of_small_networks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem, _ = posed("tokens", np.random.default_rng(0).uniform(-1, 1, (800, 2)), tmp_path)
    points = problem.calibration.points
    assert len(points_of_passes(problem.network, points)) == len(points)
    monkeypatch.setattr(original, "_LAYER_NUMBERS", 100 * 400 * 131.0)  # 100 samples
    assert len(points_of_passes(problem.network, points)) == 100
    monkeypatch.setattr(original, "_LAYER_NUMBERS", 1.0)
    assert len(points_of_passes(problem.network, points)) == original._FEW_SEEN


def test_a_forward_pass_is_counted_by_what_it_writes_and_multiplies(tmp_path: Path) -> None:
    problem, _ = posed("tokens", np.ones((64, 2)) * np.arange(1, 65)[:, None], tmp_path)
    size = forward_size(problem.network, problem.calibration.points)
    assert size.multiplications == 400 * (2 * 64 + 64)
    assert 400 * (2 + 64 + 64 + 1) <= size.numbers <= 400 * (2 + 64 + 64 + 1) + 500


def test_fields_are_evaluated_few_at_once_and_points_many(tmp_path: Path) -> None:
    batches = [error._batch(Points((torch.zeros(1, *shape),))) for shape in ((3,), (64, 64), (1024, 1024))]
    assert batches == [4096, 128, 64]
    problem, _ = posed("operator", fields(640), tmp_path)
    points = Points((problem.calibration.points.tensors[0].repeat(8, 1, 1),))
    assert error._batch(points) < len(points)
    (y,) = error.evaluate(problem.network, points, 0)
    assert torch.allclose(y, problem.network.run(points.tensors).double(), atol=1e-5)


def test_sensitivities_are_the_same_whatever_is_held_at_once(tmp_path: Path) -> None:
    problem, _ = posed("tokens", np.random.default_rng(0).uniform(-1, 1, (64, 2)), tmp_path)
    points = problem.calibration.points
    whole, few = (sensitivities(problem.network, points, lambda b: b, 0, 0, at_once) for at_once in (4096, 5))
    for name, moment in whole.items():
        assert np.allclose(few[name], moment, rtol=1e-4, atol=1e-6 * np.abs(moment).max())


def test_many_other_weights_are_begun_where_no_rounding_helps_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the level of small networks half of the passes went by until the error was near the tolerance."""
    problem, state = posed("operator", fields(), tmp_path)
    subject = Subject.of(problem, state, 1e-2, "fast", lambda *done: None)
    assert ways._first_level(subject) == ways.START
    monkeypatch.setattr(ways, "_MANY", 1000)
    level = ways._first_level(subject)
    parts = coded_others(subject.data, Knobs(level * 1e-2))
    assert 3e-3 < subject.measure(1e-2, None)(parts) < 4e-2


def test_weights_are_tried_one_by_one_on_few_samples_of_a_network_that_takes_long(tmp_path: Path) -> None:
    problem, _ = posed("operator", fields(64), tmp_path)
    small, large = ForwardSize(1e4, 0.0), ForwardSize(1e8, 0.0)
    assert original._tried(problem.network, small) >= 16 and original._perturbed(problem.network, small) >= 256
    assert (original._tried(problem.network, large), original._perturbed(problem.network, large)) == (2, 4)
    seen: list[int] = []
    watched = replace(problem.network, module=Watched(problem.network.module, seen))
    state = {name: t for name, t in problem.network.module.state_dict().items() if name in problem.network.others}
    watched = replace(watched, places={name: f"module.{name}" for name in state})
    without_zero_rows(watched, problem.calibration.points, state, 2)
    assert set(seen) == {2}


class Watched(nn.Module):
    def __init__(self, module: nn.Module, seen: list[int]) -> None:
        super().__init__()
        self.module, self.seen = module, seen

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        return self.module(x)


def test_growth_is_looked_at_on_fewer_samples_where_layers_see_many_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that enters and leaves the layers of a transformer would be too much of 400 samples."""
    problem, _ = posed("tokens", np.random.default_rng(0).uniform(-1, 1, (800, 2)), tmp_path)
    assert growth._samples(problem) == growth._NUMBERS // (400 * (2 + 64 + 64 + 1)) > 200
    whole = growth.growth_of_layers(problem, {k: t * 1.01 for k, t in problem.network.module.state_dict().items()})
    monkeypatch.setattr(growth, "_NUMBERS", 1.0)
    few = growth.growth_of_layers(problem, {k: t * 1.01 for k, t in problem.network.module.state_dict().items()})
    assert growth._samples(problem) == growth._LEAST
    assert [row.local_error for row in few] == pytest.approx([row.local_error for row in whole], rel=0.05)


def test_a_network_that_takes_long_itself_gets_few_passes(tmp_path: Path) -> None:
    problem, state = posed("operator", fields(), tmp_path)
    data = prepare(problem, state, "fast")
    runs = len(problem.calibration.points) + len(problem.held_out.points)
    forward = forward_cost_of(problem, data)
    assert runs * 4 * data.size.numbers < forward < runs * 5 * data.size.numbers
    assert budget_of(problem, 10**8, "default", forward=forward) == 100
    assert budget_of(problem, 10**8, "default", forward=1000 * forward) == 14
    assert budget_of(problem, 10**8, "fast", forward=1000 * forward) == 8


def test_a_network_that_cannot_be_watched_has_no_size() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError

    network = Network(Broken(), (), {}, "factory", torch.float32)
    assert forward_size(network, Points((torch.ones(8, 2),))).numbers == 0
