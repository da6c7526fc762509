"""Rules with a tolerance of their own beside a bound on the outputs: both hold."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_networks import outputs_settings, saved, stack

import hmcompress
from hmcompress.checkpoint import Checkpoint
from hmcompress.commands.encoding import encode_ruled
from hmcompress.errors import BoundError
from hmcompress.network import NetworkResult, compress_network, pose
from hmcompress.network.alone import decoded_layers
from hmcompress.network.owned import load_tensors, owned
from hmcompress.settings.config import Settings

SIZES = [2, 32, 32, 1]
YAML = """
metric: outputs
effort: fast
tol: 1.0e-2
network: {mlp: {activation: tanh}}
calibration: {domain: {x: [-1, 1], t: [0, 1]}, samples: 512, held_out: 512}
layers:
  - {match: "net.2.weight", tol: 3.0e-3}
"""


def ruled(folder: Path, *rules: dict[str, Any], **changes: Any) -> tuple[Checkpoint, Settings]:
    return saved(folder, stack(SIZES)), outputs_settings(layers=list(rules), **changes)


def compressed(checkpoint: Checkpoint, settings: Settings) -> NetworkResult:
    return compress_network(checkpoint, settings, ruled=encode_ruled(checkpoint, settings))


@pytest.mark.parametrize("kernel", ["off", {"tol": 0.1}])
def test_a_layer_keeps_its_own_tolerance_and_the_network_its_bound(tmp_path: Path, kernel: Any) -> None:
    result = compressed(*ruled(tmp_path, {"match": "net.2.weight", "tol": 3e-3}, ntk=kernel))
    rows = {layer.row.name: layer.row for layer in result.layers}
    assert rows["net.2.weight"].tol == 3e-3 and 0.9 * 3e-3 < rows["net.2.weight"].error <= 3e-3
    assert rows["net.0.weight"].tol is None
    assert result.record.error <= 1e-2
    assert result.record.ntk is None or result.record.ntk.error <= 0.1


def test_what_the_rule_takes_is_left_by_the_others(tmp_path: Path) -> None:
    checkpoint, settings = ruled(tmp_path, {"match": "net.2.weight", "tol": 8e-3}, ntk="off")
    coded = encode_ruled(checkpoint, settings)
    result = compressed(checkpoint, settings)
    assert [layer.row.name for layer in coded] == ["net.2.weight"]
    assert result.layers[-1].payload == coded[0].payload
    w, decoded = stack(SIZES)["net.2.weight"], decoded_layers(coded)["net.2.weight"]
    assert float((w - decoded).norm() / w.norm()) <= 8e-3 and 0.85e-2 < result.record.error <= 1e-2


def test_tolerances_that_break_the_bound_are_told(tmp_path: Path) -> None:
    with pytest.raises(BoundError, match=r"with the tolerances that rules give them, .* give them smaller ones"):
        compressed(*ruled(tmp_path, {"match": "net.*.weight", "tol": 0.3}, ntk="off"))


def test_every_layer_may_have_its_own(tmp_path: Path) -> None:
    result = compressed(*ruled(tmp_path, {"match": "*.weight", "tol": 1e-3}, ntk="off"))
    rows = {layer.row.name: layer.row for layer in result.layers}
    assert len(rows) == 3 and all(row.tol == 1e-3 and row.error <= 1e-3 for row in rows.values())
    assert result.record.error <= 1e-2


def test_kept_layers_and_rules_without_a_tolerance_are_as_before(tmp_path: Path) -> None:
    checkpoint, settings = ruled(tmp_path, {"match": "net.2.*", "keep": True}, {"match": "net.4.*", "norm": "max"})
    assert encode_ruled(checkpoint, settings) == ()


@pytest.mark.parametrize("rule", [{"keep": True}, {"tol": 1e-3}])
def test_what_is_before_a_layer_of_its_own_does_not_feed_what_is_after(tmp_path: Path, rule: dict[str, Any]) -> None:
    """Neurons of the first layer that no column of the third reads are read by the second all the same."""
    sizes = [2, 24, 20, 16, 12, 1]
    checkpoint = saved(tmp_path, stack(sizes))
    settings = outputs_settings(layers=[{"match": "net.4.weight", **rule}], ntk="off", effort="fast")
    network = owned(pose(settings, load_tensors(checkpoint)).network, checkpoint, {"net.4.weight"})
    pairs = [(before.weight, after.weight) for before, after in network.feeding_pairs()]
    assert pairs == [("net.0.weight", "net.2.weight"), ("net.6.weight", "net.8.weight")]
    assert compressed(checkpoint, settings).record.error <= 1e-2


def test_verify_checks_both(tmp_path: Path) -> None:
    saved(tmp_path, stack(SIZES))
    (tmp_path / "c.yaml").write_text(YAML)
    file = tmp_path / "model.hmc.safetensors"
    report = hmcompress.compress(tmp_path / "model.pt", file, config=tmp_path / "c.yaml")
    assert {layer.name: layer.tol for layer in report.layers}["net.2.weight"] == 3e-3
    found = hmcompress.verify(file, tmp_path / "model.pt")
    assert found.passed and found.network is not None
    assert {layer.name: layer.tol for layer in found.layers}["net.2.weight"] == 3e-3
    other = stack(SIZES)
    other["net.2.weight"] *= 1.01
    saved(tmp_path, other)
    assert hmcompress.verify(file, tmp_path / "model.pt").offending == ("net.2.weight",)
    back, source = hmcompress.load_state_dict(file), stack(SIZES)
    assert list(back) == list(source)
    w = source["net.2.weight"]
    assert float((back["net.2.weight"] - w).norm() / w.norm()) <= 3e-3
    torch.testing.assert_close(back["net.2.bias"], source["net.2.bias"])


@pytest.mark.parametrize("left_out", [True, False])
def test_a_source_may_have_tensors_that_the_file_has_not(tmp_path: Path, left_out: bool) -> None:
    more, file = stack(SIZES) | {"decoder.weight": torch.randn(20, 20)}, tmp_path / "model.hmc.safetensors"
    saved(tmp_path, more if left_out else stack(SIZES))
    (tmp_path / "c.yaml").write_text(
        YAML.replace("tanh", "tanh, layers: ['net.*']") + "drop: ['decoder.*']\n" * left_out
    )
    hmcompress.compress(tmp_path / "model.pt", file, config=tmp_path / "c.yaml")
    saved(tmp_path, more)
    assert hmcompress.verify(file, tmp_path / "model.pt").offending == (() if left_out else ("decoder.weight",))
