"""Modules that are compiled, or spread over devices, are read as what is inside."""

from pathlib import Path

import pytest
import torch
import wrapped_networks
from small_networks import outputs_settings, saved
from torch import Tensor, distributions

from hmcompress.errors import NetworkError
from hmcompress.network import NetworkResult, compress_network
from hmcompress.network.model.outputs import tensors_in

HELPERS = Path(__file__).parent / "wrapped_networks.py"
BOX = {"domain": {"x": [-1, 1], "t": [0, 1]}, "samples": 256, "held_out": 128}
AROUND = ["compiled", "compiled_child", "compiled_in_place", "parallel"]


def compressed(name: str, state: dict, folder: Path) -> NetworkResult:
    settings = outputs_settings(network={"factory": f"{HELPERS}:{name}"}, calibration=BOX, effort="fast")
    return compress_network(saved(folder, state), settings)


def payloads(result: NetworkResult) -> list[bytes]:
    return [layer.payload for layer in result.layers]


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> list[bytes]:
    return payloads(compressed("Plain", wrapped_networks.Plain().state_dict(), tmp_path_factory.mktemp("plain")))


@pytest.mark.parametrize("name", AROUND)
def test_a_wrapped_module_gives_the_bytes_of_the_module_inside(tmp_path, plain, name):
    assert payloads(compressed(name, getattr(wrapped_networks, name)().state_dict(), tmp_path)) == plain


@pytest.mark.parametrize("name", AROUND)
def test_a_checkpoint_of_a_wrapped_module_fits_the_plain_one_and_the_other_way(tmp_path, plain, name):
    assert payloads(compressed("Plain", getattr(wrapped_networks, name)().state_dict(), tmp_path)) == plain
    assert payloads(compressed(name, wrapped_networks.Plain().state_dict(), tmp_path)) == plain


@pytest.mark.parametrize("name", ["Classed", "Spaced"])
def test_outputs_in_a_dataclass_or_a_namespace_are_found(tmp_path, plain, name):
    assert payloads(compressed(name, wrapped_networks.Plain().state_dict(), tmp_path)) == plain


def test_a_distribution_is_bounded_by_its_parameters(tmp_path):
    state = wrapped_networks.Plain().state_dict()
    assert payloads(compressed("Normal", state, tmp_path)) == payloads(compressed("Pair", state, tmp_path))


class Lazy(distributions.MultivariateNormal):
    """A normal distribution as of Gaussian processes: its covariance is kept in a form of its own."""

    def __init__(self, mean: Tensor, covariance: Tensor) -> None:
        self.loc, self._operator = mean, [covariance]

    @property
    def variance(self) -> Tensor:
        return self._operator[0].diagonal(dim1=-2, dim2=-1)


X = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
Y = X.exp()


@pytest.mark.parametrize(
    ("distribution", "parameters"),
    [
        (distributions.Independent(distributions.Normal(X, Y), 1), [X, Y]),
        (distributions.Categorical(logits=X), [X - X.logsumexp(1, keepdim=True)]),
        (distributions.MultivariateNormal(X, Y.diag_embed()), [X, Y.diag_embed()]),
        (distributions.LogNormal(X, Y), [X, Y]),
        (Lazy(X, Y.diag_embed()), [X, Y]),
        (
            distributions.TransformedDistribution(
                distributions.Normal(0 * X, 1), [distributions.AffineTransform(X, Y)]
            ),
            [X, Y],
        ),
        (
            distributions.MixtureSameFamily(distributions.Categorical(Y), distributions.Normal(X, Y)),
            [X, Y, Y / Y.sum(1, True)],
        ),
    ],
    ids=["independent", "categorical", "covariance", "log", "lazy", "transformed", "mixture"],
)
def test_all_parameters_of_a_distribution_are_found(distribution, parameters):
    found = list(tensors_in(distribution))
    assert all(any(torch.equal(p, f) for f in found) for p in parameters)


@pytest.mark.parametrize(
    ("name", "message"),
    [("Opaque", "returns Answer without a floating tensor"), ("Recomputed", r"torch\.utils\.checkpoint")],
)
def test_what_cannot_be_followed_is_told_in_one_line(tmp_path, name, message):
    with pytest.raises(NetworkError, match=message) as told:
        compressed(name, getattr(wrapped_networks, name)().state_dict(), tmp_path)
    assert "\n" not in str(told.value)
