"""Which tensors are layers, and how a tensor is read as matrices."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from hmcompress.errors import SettingsError
from hmcompress.geometry import View
from hmcompress.settings.config import LayerRule, Settings
from hmcompress.settings.patterns import matches
from hmcompress.settings.rules import rule_of

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
REAL_PARTS = {torch.complex128: torch.float64, torch.complex64: torch.float32, torch.complex32: torch.float16}
CODABLE = (*FLOATS, *REAL_PARTS)
LEAST_SIDE = 16
NARROW = 64  # below this side many slices are a one-dimensional convolution's kernel rather than matrices of their own
LEAST_VECTOR = 1 << 12  # numbers from which a vector that a rule names is a layer
_OPTIMIZER = re.compile(r"opts?|opt_?[dg]|opt_state|optims?|optims?_.+")
# What torch.optim keeps for each weight, wherever the state lies.
_BUFFERS = frozenset(
    ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "momentum_buffer", "square_avg", "grad_avg", "acc_delta")
)


class TensorLike(Protocol):
    """What a tensor must tell to be chosen."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> torch.dtype: ...


@dataclass(frozen=True)
class Layout:
    """A tensor read as `count` matrices of `rows` x `cols`, one after the other in its row-major order.

    kernel: of a convolution, how many columns in a row are one kernel.
    """

    count: int
    rows: int
    cols: int
    kernel: int = 1


def layout(shape: Sequence[int]) -> Layout:
    """How a tensor of this shape is read as matrices.

    (m, n) is one matrix; a conv kernel (out, in, k...) is (out, in*k...); a 3-D stack (count, m, n) is `count`
    matrices; a vector (n,) is a column. Any shape of at least one axis has one.
    """
    if len(shape) == 3 and _is_stack(*shape):
        return Layout(shape[0], shape[1], shape[2])
    return Layout(1, shape[0], math.prod(shape[1:]), max(1, math.prod(shape[2:])))


def _is_stack(count: int, m: int, n: int) -> bool:
    """Whether (count, m, n) is a stack: both sides at least 16, and at least 64 where there are 16 slices or more.

    Long kernels of one-dimensional convolutions have such shapes too. As matrices of their own, hundreds of small
    slices would each pay for a header and for a search.
    """
    return min(m, n) >= (LEAST_SIDE if count < LEAST_SIDE else NARROW)


def real_layout(shape: Sequence[int], dtype: torch.dtype) -> Layout:
    """`layout` in real numbers: a complex entry is two columns, its real and its imaginary part."""
    found = layout(shape)
    kernel = 2 * found.kernel if found.kernel > 1 else 1
    return replace(found, cols=2 * found.cols, kernel=kernel) if dtype in REAL_PARTS else found


def to_matrices(tensor: Tensor) -> Tensor:
    """A tensor as (count, rows, cols) real numbers after `real_layout`; shares memory where it can."""
    shape = real_layout(tensor.shape, tensor.dtype)
    real = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    return real.reshape(shape.count, shape.rows, shape.cols)


def from_matrices(matrices: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """The inverse of to_matrices; `dtype` is the tensor's, whose real parts the matrices hold."""
    if dtype in REAL_PARTS:
        return torch.view_as_complex(matrices.reshape(*shape, 2).contiguous())
    return matrices.reshape(tuple(shape))


def is_dense(shape: Sequence[int], dtype: torch.dtype) -> bool:
    """Whether a tensor is a layer if no rule says otherwise: floating, and its matrices at least 16 wide and high."""
    if dtype not in FLOATS or len(shape) < 2:
        return False
    matrix = layout(shape)
    return matrix.count > 0 and min(matrix.rows, matrix.cols) >= LEAST_SIDE


def is_optimizer_state(name: str) -> bool:
    """Whether a tensor lies under an optimizer's state in the pickled object."""
    return any(_names_optimizer(part) for part in name.lower().split("."))


def _names_optimizer(part: str) -> bool:
    return "optimizer" in part or _OPTIMIZER.fullmatch(part) is not None or part in _BUFFERS


def select(
    tensors: Mapping[str, TensorLike], settings: Settings, ties: Mapping[str, View] | None = None
) -> dict[str, LayerRule]:
    """The layers among `tensors`, in order, each with the rule that gives its tol and norm.

    ties: other names of them, or of parts; the strictest of what is said of any name holds. Optimizer state, small
    matrices, long vectors and complex tensors are layers only where a rule or `include` names them. Raises
    SettingsError for a grid that does not fit.
    """
    names = all_names(tensors, ties or {})
    rules = {name: rule_of(names[name], settings) for name in tensors}
    chosen = {n: rules[n] for n, tensor in tensors.items() if _is_layer(names[n], tensor, rules[n], settings)}
    for name, rule in chosen.items():
        _check_grid(name, real_layout(tensors[name].shape, tensors[name].dtype), rule, settings)
    return chosen


def all_names(tensors: Iterable[str], ties: Mapping[str, View]) -> dict[str, list[str]]:
    """Of each tensor its own name and those of its ties."""
    names = {name: [name] for name in tensors}
    for name, tie in ties.items():
        if tie.base in names:
            names[tie.base].append(name)
    return names


def _check_grid(name: str, matrix: Layout, rule: LayerRule, settings: Settings) -> None:
    """Raise SettingsError, which says where, for a grid that fits neither rows nor columns."""
    grid = rule.grid
    if grid is None or math.prod(grid) in (matrix.rows, matrix.cols):
        return
    i = [other.match for other in settings.layers].index(rule.match)
    where = settings.where("layers", i, "grid")
    size = f"{matrix.rows} x {matrix.cols}"
    raise SettingsError(f"{where}: grid {grid[0]} x {grid[1]} has {math.prod(grid)} points, {name} is {size}")


def _is_layer(names: Sequence[str], tensor: TensorLike, rule: LayerRule, settings: Settings) -> bool:
    if rule.keep:
        return False
    if is_dense(tensor.shape, tensor.dtype) and not is_optimizer_state(names[0]):
        return True
    size, shape = math.prod(tensor.shape), tensor.shape
    possible = tensor.dtype in CODABLE and (len(shape) >= 2 or size >= LEAST_VECTOR) and size > 0
    return possible and any(_is_named(name, settings) for name in names)


def _is_named(name: str, settings: Settings) -> bool:
    """Whether a pattern that is not a catch-all names the tensor."""
    patterns = [rule.match for rule in settings.layers if not rule.keep] + list(settings.include)
    return any(pattern not in ("*", "re:.*") and matches(pattern, name) for pattern in patterns)
