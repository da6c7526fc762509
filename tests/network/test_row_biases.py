"""Biases are saved as vectors, and by networks that are multiplied out by hand as rows, columns or single numbers."""

from pathlib import Path

import pytest
import torch
from torch import nn

import hmcompress

SETTINGS = {
    "metric": "outputs",
    "tol": 1e-2,
    "effort": "fast",
    "network": {"mlp": {"activation": "tanh"}},
    "calibration": {"domain": {"x": [-1, 1], "t": [0, 1]}, "samples": 128, "held_out": 64},
    "ntk": "off",
}


HIDDEN, LAST = ((1, 20), (20, 1), (1, 1, 20)), ((), (1, 1))


@pytest.mark.parametrize(("name", "shape"), [*(("2.bias", s) for s in HIDDEN), *(("4.bias", s) for s in LAST)])
def test_a_network_is_known_by_biases_of_any_shape(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 20), nn.Tanh(), nn.Linear(20, 20), nn.Tanh(), nn.Linear(20, 1))
    state = network.state_dict()
    state[name] = state[name].reshape(shape)
    source, file = tmp_path / "model.pt", tmp_path / "file.hmc.safetensors"
    torch.save(state, source)
    assert hmcompress.compress(source, file, **SETTINGS).passed
    assert hmcompress.verify(file, source).passed
    restored = hmcompress.load_state_dict(file)
    assert {n: t.shape for n, t in restored.items()} == {n: t.shape for n, t in state.items()}
    network.load_state_dict({n: t.reshape(network.state_dict()[n].shape) for n, t in restored.items()})
    x = torch.rand(50, 2)
    torch.testing.assert_close(hmcompress.load_model(file)(x), network(x), rtol=1e-4, atol=1e-5)
