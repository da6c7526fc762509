"""Outputs of a network, their derivatives with respect to its inputs, and the same for the inputs of each layer."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from hmcompress.network.model.formulas import Formulas
from hmcompress.network.model.inputs import Points
from hmcompress.network.model.network import DenseLayer, Inputs, Network, replaced


def directions(points: Points) -> Iterator[tuple[int, Tensor]]:
    """Unit directions of the coordinates that derivatives are taken along: those of the last input.

    The last input of a DeepONet is the point, of an mlp its only input.
    """
    which = len(points.tensors) - 1
    t = points.tensors[which]
    for d in range(t.shape[-1]):
        e = torch.zeros_like(t)
        e[..., d] = 1
        yield which, e


def along(points: Points, which: int, direction: Tensor, order: int, run: Callable[[Inputs], Tensor]) -> list[Tensor]:
    """run and its first (and second) derivative along a direction of one input."""

    def f(t: Tensor) -> Tensor:
        return run((*points.tensors[:which], t, *points.tensors[which + 1 :]))

    def first(t: Tensor) -> Any:
        return jvp(f, (t,), (direction,))

    with _differentiable_kernels(order):
        if order < 2:
            return list(first(points.tensors[which]))
        both: Any = jvp(first, (points.tensors[which],), (direction,))
    (value, slope), (_, curvature) = both
    return [value, slope, curvature]


@contextmanager
def _differentiable_kernels(order: int) -> Iterator[None]:
    """Without the fused kernels of recurrent layers and attention, of which torch knows no tangents, and with formulas
    for operations of which it knows no derivatives of this order."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    fused = torch.backends.mkldnn.set_flags(_enabled=False)[0]
    try:
        with sdpa_kernel(SDPBackend.MATH), Formulas(order):
            yield
    finally:
        torch.backends.mkldnn.set_flags(_enabled=fused)
        torch.backends.mha.set_fastpath_enabled(fast)


def jets(network: Network, points: Points, order: int, call: Callable[[Inputs], Tensor] | None = None) -> list[Tensor]:
    """Outputs (N, k), then their first derivatives, then second ones along the coordinates; keeps gradients."""
    call = call or network.call
    if order == 0:
        return [call(points.tensors)]
    value, slopes, curvatures = None, [], []
    for which, direction in directions(points):
        value, *rest = along(points, which, direction, order, call)
        slopes.append(rest[0])
        curvatures.extend(rest[1:])
    assert value is not None
    return [value, *slopes, *curvatures]


def layer_jets(
    network: Network,
    points: Points,
    order: int,
    layer: DenseLayer,
    forward: Callable[[DenseLayer, Tensor, Tensor], Tensor | None],
    tensors: Mapping[str, Tensor] | None = None,
) -> list[Tensor]:
    """Inputs of one layer (rows, d), and their derivatives as `jets` orders them, in a network whose layers' outputs
    `forward` replaces."""
    seen: list[Tensor] = []

    def note(which: DenseLayer, x: Tensor, z: Tensor) -> Tensor | None:
        if which == layer:
            seen.append(x)
        return forward(which, x, z)

    def run(inputs: Inputs) -> Tensor:
        seen.clear()
        network.call(inputs, tensors)
        return seen[0]

    with replaced(network, note), torch.no_grad():
        return [b.reshape(-1, b.shape[-1]) for b in jets(network, points, order, run)]


def run_with_tangents(network: Network, points: Points, tensors: Mapping[str, Tensor] | None = None) -> None:
    """One run on dual numbers that carries the first derivatives along every coordinate, one copy of the points each.

    Hooks see dual tensors; `split_dual` takes them apart.
    """
    pairs = list(directions(points))
    which = pairs[0][0]
    copies = len(pairs)
    with torch.no_grad(), _differentiable_kernels(1), forward_ad.dual_level():
        repeated = [torch.cat([t] * copies) if points.joint or k == which else t for k, t in enumerate(points.tensors)]
        repeated[which] = forward_ad.make_dual(repeated[which], torch.cat([e for _, e in pairs]))
        network.call(tuple(repeated), tensors)


def split_dual(x: Tensor, copies: int, joint: bool) -> list[Tensor]:
    """The values of a dual tensor from `run_with_tangents`, then its tangents along each direction."""
    value, tangent = forward_ad.unpack_dual(x)
    if tangent is None:  # does not depend on the coordinates; repeated only with them
        value = value.chunk(copies)[0] if joint else value
        return [value] + [torch.zeros_like(value)] * copies
    return [value.chunk(copies)[0], *tangent.chunk(copies)]
