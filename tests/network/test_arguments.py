"""Arrays go to the arguments they are named after; where neither name nor order says which, nothing is guessed."""

from pathlib import Path

import callable_networks
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from small_networks import outputs_settings, saved
from torch import Tensor, nn

from hmcompress.errors import NetworkError
from hmcompress.network import compress_network, pose
from hmcompress.network.model.arguments import Arguments, give_by_name, inputs_of, split_columns

HELPERS = Path(__file__).parent / "callable_networks.py"


class TwoOfThree(nn.Module):
    def forward(self, x: Tensor, t: Tensor | None = None, z: Tensor | None = None) -> Tensor:
        return x


class AllOptional(nn.Module):
    """As models are that take tokens, or what has been made of them."""

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Linear(2, 3)

    def forward(
        self, ids: Tensor | None = None, mask: Tensor | None = None, kinds: Tensor | None = None, *, by: float = 1.0
    ) -> Tensor:
        assert ids is not None and mask is None
        return self.read(ids) * by + (0.0 if kinds is None else kinds)


class Operator(nn.Module):
    def forward(self, u: Tensor, y: Tensor) -> Tensor:
        return u


class Any(nn.Module):
    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0]


def chosen(module: nn.Module, names: str, file: str = "points.npz") -> list[int]:
    arrays = {name: np.full((4, 1), k) for k, name in enumerate(names.split())}
    return [int(a[0, 0]) for a in inputs_of(arrays, Arguments.of(module), file).values()]


@pytest.mark.parametrize("file", ["points.npz", "points.safetensors"])
def test_names_of_arguments_count_more_than_the_order_of_the_file(file: str) -> None:
    assert chosen(TwoOfThree(), "t x", file) == [1, 0]
    assert chosen(TwoOfThree(), "t x y", file) == [1, 0]  # y holds targets
    assert chosen(Operator(), "y u", file) == [1, 0]  # here it does not
    assert chosen(torch.jit.script(Operator()), "y u", file) == [1, 0]


def test_arrays_of_other_names_come_in_their_order() -> None:
    assert chosen(TwoOfThree(), "second first") == [0, 1]
    assert chosen(Any(), "t x targets") == [0, 1]
    assert chosen(TwoOfThree(), "points", "points.safetensors") == [0]


def test_a_file_without_order_needs_names_or_numbers() -> None:
    assert chosen(Operator(), "in10 in2", "points.safetensors") == [1, 0]
    assert chosen(Operator(), "branch trunk", "points.safetensors") == [0, 1]
    with pytest.raises(NetworkError, match=r"keeps no order of its arrays params, sensors: .*\(u, y\), or use .npz"):
        chosen(Operator(), "sensors params", "points.safetensors")
    with pytest.raises(NetworkError, match="or number them"):
        chosen(Any(), "sensors params", "points.safetensors")


def test_what_is_left_over_is_said() -> None:
    with pytest.raises(NetworkError, match="holds weights beside x, t"):
        chosen(TwoOfThree(), "x t weights")


def test_arguments_that_stand_after_one_that_is_not_given_get_theirs(tmp_path: Path) -> None:
    assert chosen(TwoOfThree(), "z x") == [1, 0]
    assert chosen(AllOptional(), "kinds ids") == [1, 0] and chosen(AllOptional(), "first second") == [0, 1]
    rng, module = np.random.default_rng(0), AllOptional()
    given = {"by": rng.uniform(1, 2, (100, 1)), "kinds": rng.normal(size=(100, 3)), "ids": rng.normal(size=(100, 2))}
    np.savez(tmp_path / "in.npz", **given)
    inputs = {"calibration": {"inputs": str(tmp_path / "in.npz"), "samples": 64, "held_out": 64}}
    settings = outputs_settings(network={"factory": f"{__file__}:AllOptional"}, **inputs)
    problem = pose(settings, module.state_dict())
    ids, kinds, by = (t.float() for t in problem.held_out.points.tensors)
    assert torch.allclose(problem.held_out.blocks[0].float(), module(ids, kinds=kinds, by=by), atol=1e-6)
    y = module(torch.as_tensor(given["ids"]).float())
    np.savez(tmp_path / "exact.npz", ids=given["ids"], y=y.detach())
    settings = settings.model_copy(update={"reference": str(tmp_path / "exact.npz")})
    with pytest.raises(NetworkError, match=r"exact\.npz holds ids, the calibration ids, kinds, by"):
        pose(settings, module.state_dict())


def test_arguments_that_have_no_place_get_their_coordinates() -> None:
    class Named(nn.Module):
        def forward(self, *, x: Tensor, t: Tensor) -> Tensor:
            return x - 2 * t

    module, box = Named(), torch.rand(5, 2)
    split_columns(module, Arguments.of(module), ["t", "x"])
    assert torch.equal(module(box)[:, 0], box[:, 1] - 2 * box[:, 0])


def test_archives_take_arguments_by_their_places_alone() -> None:
    operator, optional = torch.jit.script(Operator()), torch.jit.script(TwoOfThree())
    with pytest.raises(NetworkError, match="archive takes its arguments by their places: give inputs: FILE"):
        split_columns(operator, Arguments.of(operator), ["u", "y"])
    with pytest.raises(NetworkError, match="archive takes its arguments by their places: give those before z too"):
        give_by_name(optional, Arguments.of(optional), ["x", "z"])
    give_by_name(optional, Arguments.of(optional), ["x", "t"])  # none between them is missing


def test_inputs_from_safetensors_are_those_from_npz(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, t = rng.uniform(-1, 1, (400, 1)), rng.uniform(0, 5, (400, 1))
    np.savez(tmp_path / "in.npz", x=x, t=t)
    save_file({"x": x, "t": t}, tmp_path / "in.safetensors")
    state = callable_networks.pinn().state_dict()
    outputs = []
    for suffix in ("npz", "safetensors"):
        calibration = {"inputs": str(tmp_path / f"in.{suffix}"), "samples": 64, "held_out": 64}
        settings = outputs_settings(network={"factory": f"{HELPERS}:pinn"}, calibration=calibration)
        outputs.append(pose(settings, state).held_out.blocks[0])
    assert torch.equal(*outputs)


@pytest.mark.parametrize("order", ["x t", "t x"])
def test_a_box_feeds_a_coordinate_to_each_argument(order: str, tmp_path: Path) -> None:
    domain = {name: {"x": [-1, 1], "t": [0, 5]}[name] for name in order.split()}
    calibration = {"domain": domain, "samples": 128, "held_out": 64, "derivatives": 1}
    settings = outputs_settings(network={"factory": f"{HELPERS}:pinn"}, calibration=calibration, effort="fast")
    problem = pose(settings, callable_networks.pinn().state_dict())
    (points,), x = problem.held_out.points.tensors, order.split().index("x")
    expected = callable_networks.pinn()(points[:, [x]], points[:, [1 - x]])
    assert torch.allclose(problem.held_out.blocks[0].float(), expected.float())
    result = compress_network(saved(tmp_path, callable_networks.pinn().state_dict()), settings)
    assert result.record.error <= settings.tol and len(result.record.derivative_errors) == 2


def test_a_box_of_other_names_is_refused() -> None:
    settings = outputs_settings(
        network={"factory": f"{HELPERS}:pinn"}, calibration={"domain": {"a": [0, 1], "b": [0, 1]}}
    )
    with pytest.raises(NetworkError, match="the network takes x, t: name the coordinates of domain: so, not a, b"):
        pose(settings, callable_networks.pinn().state_dict())
