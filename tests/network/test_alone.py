"""Weights by themselves in the outputs metric: no larger than the weights metric, and cheap to rule out."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import alike_networks
import numpy as np
import pytest
import torch
from small_networks import outputs_settings, saved, stack
from torch import Tensor

import hmcompress
import hmcompress.network.alone as alone
from hmcompress.baselines.knobs import NetworkPart
from hmcompress.checkpoint import Checkpoint
from hmcompress.commands.compare_outputs import _our_bytes
from hmcompress.commands.encoding import Each
from hmcompress.network import NetworkResult, compress_network, pose
from hmcompress.network.allotment import Allotment, allotments, like_noise
from hmcompress.network.driver import load_tensors
from hmcompress.network.layerwise.subject import Subject
from hmcompress.settings.config import Settings

FACTORY = f"{Path(alike_networks.__file__)}:copies"
TOL = 1e-2


def settings_of_copies(folder: Path, **changes: Any) -> Settings:
    """Few samples of a network whose layers are nearly the same."""
    np.savez(folder / "x.npz", x=np.random.default_rng(0).standard_normal((48, 64)).astype("f"))
    calibration = {"inputs": str(folder / "x.npz"), "samples": 24, "held_out": 12}
    return outputs_settings(network={"factory": FACTORY}, calibration=calibration, tol=TOL, **changes)


def copies(folder: Path) -> tuple[Checkpoint, Settings]:
    return saved(folder, alike_networks.copies().state_dict()), settings_of_copies(folder)


@pytest.fixture(scope="module")
def of_copies(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, NetworkResult, NetworkResult]:
    """The checkpoint's folder, and what is found with and without weights by themselves."""
    folder = tmp_path_factory.mktemp("copies")
    checkpoint, settings = copies(folder)
    with_them = compress_network(checkpoint, settings, metric=Each(checkpoint, settings))
    return folder, with_them, compress_network(checkpoint, settings)


def layer_bytes(result: NetworkResult) -> int:
    return sum(len(layer.payload) for layer in result.layers)


def subject_of(checkpoint: Checkpoint, settings: Settings) -> Subject:
    tensors = load_tensors(checkpoint)
    problem = pose(settings, tensors, checkpoint.path)
    return Subject.of(problem, tensors, settings.tol, "fast", lambda *told: None)


def weights_metric_bytes(folder: Path, settings: Settings) -> int:
    """Of the file that the weights metric makes at one tolerance for all layers with which the outputs just hold."""
    problem = pose(settings, hmcompress.load_state_dict(_compressed(folder, 1e-6)), None)
    levels, least, most = (
        np.geomspace(1e-3, 1e-1, 32),
        0,
        32,
    )  # the first holds, and what is looser than the last does not
    held = []
    while most - least > 1:
        level = (least + most) // 2
        file = _compressed(folder, float(levels[level]))
        if max(problem.errors(problem.held_out, hmcompress.load_state_dict(file))) <= settings.tol:
            held.append(file.stat().st_size)
            least = level
        else:
            most = level
    return min(held)


def _compressed(folder: Path, tol: float) -> Path:
    file = folder / "weights.hmc.safetensors"
    hmcompress.compress(folder / "model.pt", file, tol=tol, force=True)
    return file


def test_layers_that_are_copies_stand_on_one_and_the_bound_holds(
    of_copies: tuple[Path, NetworkResult, NetworkResult],
) -> None:
    _, with_them, without = of_copies
    assert layer_bytes(with_them) < 0.6 * layer_bytes(without)
    assert with_them.record.error <= TOL and without.record.error <= TOL
    assert with_them.record.error > 0.7 * TOL


def test_the_file_is_no_larger_than_that_of_the_weights_metric_and_is_verified(tmp_path: Path) -> None:
    checkpoint, settings = copies(tmp_path)
    file = tmp_path / "outputs.hmc.safetensors"
    report = hmcompress.compress(checkpoint.path, file, settings=settings)
    assert report.output_bytes <= 1.02 * weights_metric_bytes(tmp_path, settings)
    assert hmcompress.verify(file, against=checkpoint.path).passed
    weights = [name for name in checkpoint.names if name.endswith("weight")]
    assert set(weights) <= {layer.name for layer in report.layers} and all(x.tol is None for x in report.layers)


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    checkpoint, settings = copies(tmp_path)
    subject, metric = subject_of(checkpoint, settings), Each(checkpoint, settings)
    first, second = (
        alone.smaller_alone(subject, metric, lambda: subject.measure_of_tensors(TOL, None), 1 << 20) for _ in range(2)
    )
    assert first is not None and second is not None
    assert [x.payload for x in first.layers] == [x.payload for x in second.layers]


def test_biases_that_are_coded_by_themselves_count_beside_others(
    of_copies: tuple[Path, NetworkResult, NetworkResult],
) -> None:
    names = {layer.row.name: len(layer.payload) for layer in of_copies[1].layers}
    part = NetworkPart("blocks.0.weight", "blocks.0.bias", (torch.zeros(64, 64), torch.zeros(64)), (), True)
    assert _our_bytes(names, part) == names["blocks.0.weight"] + names["blocks.0.bias"]
    joined = {"blocks.0.weight": 5}
    assert _our_bytes(joined, part) == 5 and _our_bytes({}, part) == part.source_bytes


def test_where_passes_win_clearly_one_run_of_the_network_is_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = saved(tmp_path, stack([2, 32, 32, 1]))
    settings = outputs_settings()
    runs, original = [], alone.like_noise
    monkeypatch.setattr(alone, "like_noise", lambda *given: runs.append(1) or original(*given))
    result = compress_network(checkpoint, settings, metric=Each(checkpoint, settings))
    assert len(runs) <= 1 and layer_bytes(result) == layer_bytes(compress_network(checkpoint, settings))


def test_weights_whose_rounding_breaks_the_network_are_left_to_passes(tmp_path: Path) -> None:
    checkpoint, settings = copies(tmp_path)
    subject, metric = subject_of(checkpoint, settings), Each(checkpoint, settings)
    most = sum(t.nbytes for t in subject.tensors.values())
    assert alone.smaller_alone(subject, metric, lambda: lambda tensors: math.inf, most) is None
    found = alone.smaller_alone(subject, metric, lambda: subject.measure_of_tensors(TOL, None), most)
    assert found is not None and found.error <= 1 and found.nbytes < most


def test_layers_with_structure_which_passes_ask_the_engine_for_are_not_coded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, settings = copies(tmp_path)
    subject, metric = subject_of(checkpoint, settings), Each(checkpoint, settings)
    names = frozenset(name for name in checkpoint.names if name.endswith("weight"))
    monkeypatch.setattr(alone, "structured_layers", lambda *given: names)
    monkeypatch.setattr(alone, "like_noise", lambda *given: pytest.fail("it is looked at"))
    assert alone.smaller_alone(subject, metric, lambda: subject.measure_of_tensors(TOL, None), 1 << 20) is None


def test_what_breaks_the_bound_on_guard_points_is_not_taken(tmp_path: Path) -> None:
    checkpoint, settings = copies(tmp_path)
    subject, metric = subject_of(checkpoint, settings), Each(checkpoint, settings)
    most = sum(t.nbytes for t in subject.tensors.values())
    assert subject.guard.points is not None
    blocks = [2 * block for block in subject.guard.points.blocks]  # as if the original were another network there
    other = replace(subject.guard, points=replace(subject.guard.points, blocks=blocks))
    found = alone.smaller_alone(
        replace(subject, guard=other), metric, lambda: subject.measure_of_tensors(TOL, None), most
    )
    assert found is None


def test_noise_of_the_allotted_sizes_makes_about_an_error_of_the_tolerance(tmp_path: Path) -> None:
    subject = subject_of(*copies(tmp_path))
    measured = subject.measure_of_tensors(TOL, None)
    for allotment in allotments(subject, {}):
        assert 0.3 * TOL < measured(like_noise(allotment, 1.0)) < 3 * TOL


def test_layers_that_stand_on_others_have_one_tolerance(tmp_path: Path) -> None:
    checkpoint, settings = copies(tmp_path)
    subject, alike = subject_of(checkpoint, settings), Each(checkpoint, settings).alike
    each = allotments(subject, alike)[0].tolerances(1.0)
    assert len(alike) == 3 and len({each[f"blocks.{k}.weight"] for k in range(4)}) == 1
    assert len({each[f"blocks.{k}.bias"] for k in range(4)}) == 4


def test_what_is_promised_falls_with_the_level_and_has_one_for_all_bytes(tmp_path: Path) -> None:
    subject = subject_of(*copies(tmp_path))
    even = Allotment.even(subject, {})
    promises = [even.promise(level) for level in (1e-4, 1e-3, 1e-2, 1e-1)]
    assert promises == sorted(promises, reverse=True)
    level = even.level_of(promises[2])
    assert level is not None and level == pytest.approx(1e-2, rel=1e-3)
    assert even.level_of(1.0) is None and even.level_of(1e9) is not None


def test_the_next_level_lies_between_what_holds_and_what_does_not() -> None:
    assert alone._next_level({1.0: 0.5}) == pytest.approx(2 * alone._AIM)
    assert alone._next_level({1.0: 2.0}) == pytest.approx(alone._AIM / 2)
    between = alone._next_level({1.0: 0.5, 2.0: 1.5})
    assert 1.0 < between < 2.0
    assert alone._next_level({1.0: 0.9, 1.001: 1.5}) == 1.0  # nothing is between them
    assert math.isfinite(alone._next_level({1.0: math.inf})) and alone._next_level({1.0: 0.0}) > 1.0


def test_layers_decode_to_what_the_file_gives_back(tmp_path: Path) -> None:
    checkpoint, settings = copies(tmp_path)
    tolerances = dict.fromkeys(checkpoint.names, 0.01)
    layers = Each(checkpoint, settings).code(tolerances)
    decoded: dict[str, Tensor] = alone.decoded_layers(layers)
    assert list(decoded) == list(checkpoint.names)
    for name, t in alike_networks.copies().state_dict().items():
        assert float((decoded[name] - t).norm()) <= 1e-2 * float(t.norm()) * (1 + 1e-6)
    assert torch.equal(decoded["blocks.0.weight"], alone.decoded_layers(layers)["blocks.0.weight"])
