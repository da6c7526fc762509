"""Networks that keep factors of their weights from one call to the next are measured as if they did not."""

from pathlib import Path

import keeping_networks
import pytest
import torch
from small_networks import outputs_settings, saved

import hmcompress
from hmcompress.errors import NetworkError
from hmcompress.network import NetworkResult, compress_network, pose
from hmcompress.network.bound.anew import _moved
from hmcompress.network.model.network import own_tensors

HELPERS = Path(__file__).parent / "keeping_networks.py"


def compressed(name: str, folder: Path) -> NetworkResult:
    settings = outputs_settings(network={"factory": f"{HELPERS}:{name}"}, calibration={"samples": 256}, effort="fast")
    return compress_network(saved(folder, keeping_networks.Keeping().state_dict()), settings)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> NetworkResult:
    return compressed("Keeping", tmp_path_factory.mktemp("keeping"))


@pytest.mark.parametrize("name", ["InNewAttribute", "InNone", "InDict", "InObject"])
def test_what_a_module_keeps_changes_nothing(name: str, tmp_path: Path, plain: NetworkResult) -> None:
    result = compressed(name, tmp_path)
    assert [layer.payload for layer in result.layers] == [layer.payload for layer in plain.layers]
    assert result.record.error == plain.record.error


@pytest.mark.parametrize("name", ["Drifting", "DriftingAttribute", "Counting"])
def test_what_calls_change_is_as_the_checkpoint_has_it_in_each(name: str, tmp_path: Path, plain: NetworkResult) -> None:
    """By little a call, but a search makes hundreds of them."""
    result = compressed(name, tmp_path)
    assert [layer.payload for layer in result.layers] == [layer.payload for layer in plain.layers]
    assert result.record.error == plain.record.error
    told = [note for note in result.notes if "changes its own mean with each call" in note]
    assert len(told) == (name != "Counting")


def test_what_calls_change_may_be_coded_too(tmp_path: Path) -> None:
    """A call with decoded numbers in its place leaves these alone."""
    state = keeping_networks.DriftingMeans().state_dict()
    settings = outputs_settings(network={"factory": f"{HELPERS}:DriftingMeans"}, calibration={"samples": 64})
    problem, decoded = pose(settings, state), {"means": torch.full((16,), 0.25)}
    assert "means" in problem.network.others
    first, again = (problem.errors(problem.held_out, decoded) for _ in range(2))
    assert first == again
    assert (decoded["means"] == 0.25).all()


def test_a_hidden_state_is_named(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match=r"differ by .* from one call to the next.*each call changes its hidden"):
        compressed("Recurrent", tmp_path)


def test_what_is_kept_of_earlier_inputs_is_no_factor_of_the_weights(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match=r"from one call to the next.*keep state between calls"):
        compressed("Attending", tmp_path)


def test_derivatives_and_the_tangent_kernel_are_bounded_too(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path, keeping_networks.Keeping().state_dict())
    calibration = {"samples": 128, "held_out": 64, "derivatives": 1}
    found = [
        compress_network(
            checkpoint,
            outputs_settings(
                network={"factory": f"{HELPERS}:{name}"}, calibration=calibration, ntk={"samples": 16}, effort="fast"
            ),
        )
        for name in ("Keeping", "InDict")
    ]
    assert [layer.payload for layer in found[0].layers] == [layer.payload for layer in found[1].layers]


def test_what_is_kept_out_of_reach_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="runs from what it kept of an earlier call") as told:
        compressed("Elsewhere", tmp_path)
    assert "\n" not in str(told.value)


def test_the_bound_holds_in_a_first_call_with_the_weights_that_come_back(tmp_path: Path) -> None:
    module = keeping_networks.InNone()
    saved(tmp_path, module.state_dict())
    (tmp_path / "c.yaml").write_text(
        f"metric: outputs\neffort: fast\ntol: 1.0e-2\nnetwork: {{factory: '{HELPERS}:InNone'}}\nntk: off\n"
        "calibration: {domain: {x: [-1, 1], t: [0, 1]}, samples: 256, held_out: 256}\n"
    )
    hmcompress.compress(tmp_path / "model.pt", tmp_path / "m.hmc.safetensors", config=tmp_path / "c.yaml")
    again = keeping_networks.InNone()
    again.load_state_dict(hmcompress.load_state_dict(tmp_path / "m.hmc.safetensors"))
    x = torch.rand(2000, 2, generator=torch.Generator().manual_seed(1)) * torch.tensor([2.0, 1.0]) - torch.tensor(
        [1, 0]
    )
    y, z = module(x).detach(), again(x).detach()
    assert 1e-3 < float((y - z).norm() / y.norm()) <= 1.2e-2  # points of its own
    assert hmcompress.verify(tmp_path / "m.hmc.safetensors", tmp_path / "model.pt").passed


def test_a_module_that_takes_no_other_weights_is_no_error_of_its_own(tmp_path: Path) -> None:
    state = keeping_networks.Keeping().state_dict()
    problem = pose(outputs_settings(network={"factory": f"{HELPERS}:Sealed"}, calibration={"samples": 64}), state)
    assert not problem.network.kept


@pytest.mark.parametrize("name", ["Keeping", "Half"])
def test_weights_of_any_precision_are_moved(name: str) -> None:
    state = getattr(keeping_networks, name)().state_dict()
    network = pose(
        outputs_settings(network={"factory": f"{HELPERS}:{name}"}, calibration={"samples": 64}), state
    ).network
    own = own_tensors(network.module)
    for weight, moved in _moved(network).items():
        before = own[network.places[weight]]
        assert before.dtype == moved.dtype == state[weight].dtype
        assert float((moved != before).double().mean()) > 0.5 and float((moved - before).norm() / before.norm()) < 0.1
