"""Which tensors are layers."""

from dataclasses import dataclass

import pytest
import torch

from hmcompress.errors import SettingsError
from hmcompress.geometry import View
from hmcompress.layers import Layout, from_matrices, is_dense, layout, select, to_matrices
from hmcompress.settings.config import load_settings


@dataclass(frozen=True)
class Tensor:
    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32


def chosen(tensors, **options):
    return select(tensors, load_settings(None, options))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((64, 32), Layout(1, 64, 32)),
        ((64, 16, 3, 3), Layout(1, 64, 144, 9)),
        ((64, 16, 3), Layout(1, 64, 48, 3)),
        ((64, 4, 3, 3, 3), Layout(1, 64, 108, 27)),
        ((8, 32, 16), Layout(8, 32, 16)),
        ((8, 32, 15), Layout(1, 8, 480, 15)),
        ((15, 40, 39), Layout(15, 40, 39)),
        ((40, 40, 39), Layout(1, 40, 1560, 39)),
        ((512, 256, 16), Layout(1, 512, 4096, 16)),
        ((128, 64, 64), Layout(128, 64, 64)),
        ((7,), Layout(1, 7, 1)),
    ],
)
def test_layout_is_a_function_of_the_shape(shape, expected):
    assert layout(shape) == expected
    tensor = torch.arange(torch.Size(shape).numel()).reshape(shape)
    matrices = to_matrices(tensor)
    assert matrices.shape == (expected.count, expected.rows, expected.cols)
    assert torch.equal(from_matrices(matrices, shape, tensor.dtype), tensor)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_floating_matrices_of_side_16_are_dense(dtype):
    assert is_dense((16, 16), dtype) and is_dense((16, 2, 3, 3), dtype) and is_dense((1, 16, 16), dtype)
    assert not is_dense((15, 400), dtype) and not is_dense((400,), dtype) and not is_dense((), dtype)
    assert not is_dense((0, 16, 16), dtype) and not is_dense((16, 0), dtype)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_complex_tensors_are_layers_where_they_are_named(dtype):
    assert not is_dense((64, 64), dtype)
    assert chosen({"a": Tensor((64, 64), dtype)}) == {}
    assert list(chosen({"a": Tensor((4, 4, 8, 8), dtype)}, layers=[{"match": "a", "tol": 1e-3}])) == ["a"]


@pytest.mark.parametrize("shape", [(4, 6, 8, 8), (3, 32, 32), (5, 7)])
def test_a_complex_tensor_is_read_as_real_matrices(shape):
    tensor = torch.randn(shape, dtype=torch.complex64)
    matrices = to_matrices(tensor.conj())
    assert matrices.dtype == torch.float32 and matrices.numel() == 2 * tensor.numel()
    assert torch.equal(from_matrices(matrices, shape, tensor.dtype), tensor.conj().resolve_conj())


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float8_e4m3fn])
def test_other_types_are_never_layers(dtype):
    assert not is_dense((64, 64), dtype)
    assert chosen({"a": Tensor((64, 64), dtype)}, include=["a"]) == {}


@pytest.mark.parametrize(
    "name",
    [
        "optimizer.state.0.exp_avg",
        "optimizer_state_dict.state.3.exp_avg",
        "optimizer_states.0.state.1.x",
        "opt_state.0.a",
        "optim.state.0.exp_avg",
        "Optimizer.m",
        "opt.state.0.exp_avg",
        "opt_g.m",
        "adam.state.0.exp_avg_sq",
        "state.0.momentum_buffer",
    ],
)
def test_optimizer_state_is_no_layer_unless_named(name):
    tensors = {name: Tensor((64, 64)), "w": Tensor((64, 64))}
    assert list(chosen(tensors)) == ["w"]
    assert list(chosen(tensors, layers=[{"match": name, "tol": 0.1}])) == [name, "w"]


def test_names_that_only_sound_like_optimizers_are_layers():
    names = ["optimal.weight", "optic.w", "opt_model.decoder.weight", "adaptive.exp_average"]
    assert list(chosen({name: Tensor((64, 64)) for name in names})) == names


def test_rules_choose_keep_and_set_tolerances():
    tensors = {name: Tensor((64, 64)) for name in ("head.a", "head.b", "embed", "body")}
    rules = [
        {"match": "head.a", "tol": 1e-5},
        {"match": "head.*", "tol": 1e-1, "norm": "max"},
        {"match": "re:.*embed.*", "keep": True},
    ]
    found = chosen(tensors, layers=rules, tol=1e-3)
    assert {name: (rule.tol, rule.norm) for name, rule in found.items()} == {
        "head.a": (1e-5, "fro"), "head.b": (1e-1, "max"), "body": (1e-3, "fro"),
    }  # fmt: skip


def test_long_vectors_are_layers_where_a_rule_names_them():
    tensors = {"irreps": Tensor((5000,)), "bias": Tensor((500,)), "large": Tensor((64, 64))}
    assert list(chosen(tensors)) == ["large"]
    assert list(chosen(tensors, layers=[{"match": "[ib]*"}])) == ["irreps", "large"]


def test_small_matrices_are_layers_where_a_rule_names_them():
    tensors = {"small": Tensor((8, 64)), "vector": Tensor((64,)), "large": Tensor((64, 64))}
    assert list(chosen(tensors)) == ["large"]
    assert list(chosen(tensors, layers=[{"match": "small"}])) == ["small", "large"]
    assert list(chosen(tensors, layers=[{"match": "*", "tol": 0.1}])) == ["large"]


def test_exclude_and_include():
    tensors = {name: Tensor((64, 64)) for name in "abc"}
    assert list(chosen(tensors, exclude=["b"])) == ["a", "c"]
    assert list(chosen(tensors, include=["b"])) == ["b"]


def rule_of_tied(**options):
    """The rule of `embed`, which is `head` too, beside a layer `other`."""
    tensors = {"embed": Tensor((64, 32)), "other": Tensor((64, 32))}
    return select(tensors, load_settings(None, options), {"head": View.whole("embed", (64, 32))}).get("embed")


@pytest.mark.parametrize(
    "options",
    [
        {"exclude": "head"},
        {"exclude": "embed"},
        {"include": ["embed", "other"], "exclude": "head"},
        {"layers": [{"match": "head", "keep": True}]},
        {"layers": [{"match": "embed", "tol": 0.1}, {"match": "head", "keep": True}]},
        {"include": "other"},
    ],
)
def test_a_tensor_that_is_kept_under_one_of_its_names_is_kept(options):
    assert rule_of_tied(**options) is None


@pytest.mark.parametrize(
    ("options", "tol"),
    [
        ({"layers": [{"match": "head", "tol": 1e-5}]}, 1e-5),
        ({"layers": [{"match": "embed", "tol": 0.1}, {"match": "head", "tol": 0.01}]}, 0.01),
        ({"layers": [{"match": "embed", "tol": 0.01}, {"match": "head", "tol": 0.1}]}, 0.01),
        ({"layers": [{"match": "embed", "tol": 0.1}, {"match": "*", "tol": 0.01}]}, 0.01),
        ({"layers": [{"match": "embed", "tol": 0.1}]}, 0.1),  # nothing is said of the other name
        ({"include": "head"}, 1e-3),
    ],
)
def test_of_several_names_the_strictest_of_what_is_said_holds(options, tol):
    assert rule_of_tied(**options).tol == tol


def test_a_grid_that_a_tied_name_brings_is_checked():
    with pytest.raises(SettingsError, match="grid 3 x 5 has 15 points, embed is 64 x 32"):
        rule_of_tied(layers=[{"match": "head", "grid": [3, 5]}])
