"""Networks on which passes lead nowhere are compressed all the same: firmer knobs, then the weights themselves."""

from pathlib import Path

import pytest
from small_networks import outputs_settings, saved, stack

from hmcompress.network import compress_network, load_tensors, pose
from hmcompress.network.driver import owned
from hmcompress.network.layerwise.coded import Engine
from hmcompress.network.layerwise.fallback import nearest_weights
from hmcompress.network.layerwise.propagate import Parts, tensors_of


def nearest(folder: Path, least: float, tol: float = 1e-2):
    """The fallback where no error below `least` may be told from none, and the errors asked for."""
    checkpoint = saved(folder, stack((2, 24, 24, 1)))
    tensors = load_tensors(checkpoint)
    network = owned(pose(outputs_settings(), tensors).network, checkpoint)
    asked: list[float] = []

    def measured(parts: Parts) -> float:
        decoded = tensors_of(network, {name: part.dense().float() for name, part in parts.items()})
        off = max(float((decoded[name] - w).norm() / w.norm()) for name, w in tensors.items())
        asked.append(off if off == 0 or off > least else 1.0)
        return asked[-1]

    return nearest_weights(network, tensors, Engine(), measured, tol), asked


def test_weights_are_rounded_as_coarsely_as_the_bound_allows(tmp_path: Path) -> None:
    trial, asked = nearest(tmp_path, 0.0)
    assert trial is not None
    assert 0 < trial.error <= 1e-2
    assert all(error > 1e-2 for error in asked[:-1])


def test_where_no_rounding_holds_the_weights_are_kept_without_loss(tmp_path: Path) -> None:
    trial, _ = nearest(tmp_path, 1e-2)
    assert trial is not None
    assert trial.error == 0


def test_an_error_that_the_weights_themselves_have_is_no_result(tmp_path: Path) -> None:
    assert nearest(tmp_path, 1e-2, tol=-1.0)[0] is None


@pytest.mark.parametrize("ntk", [False, {"tol": 0.1, "samples": 64}])
@pytest.mark.parametrize("name", ["sin", "relu"])
def test_an_untrained_wide_network_holds_a_tight_tolerance(tmp_path: Path, ntk, name: str) -> None:
    state = stack((2, 64, 64, 64, 1), seed=1, gain=0.6)
    settings = outputs_settings(tol=1e-4, ntk=ntk, network={"mlp": {"activation": name}})
    result = compress_network(saved(tmp_path, state), settings)
    assert result.record.error <= 1e-4
    assert sum(len(layer.payload) for layer in result.layers) < sum(4 * w.numel() for w in state.values())
