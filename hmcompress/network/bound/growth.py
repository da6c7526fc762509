"""What each layer adds to the error: on original inputs, on compressed ones, and by how much it amplifies."""

from collections.abc import Mapping

import torch
from torch import Tensor

from hmcompress.network.bound.problem import Problem
from hmcompress.network.model.network import DenseLayer, Inputs, Network, replaced
from hmcompress.report.records import NetworkLayer

_ROWS, _LEAST = 2048, 4  # samples
_COUNTED, _NUMBERS = 2, 4e7  # samples of which the numbers of layers are counted; of these how many are looked at
_TINY = 1e-30


def growth_of_layers(problem: Problem, decoded: Mapping[str, Tensor]) -> tuple[NetworkLayer, ...]:
    """One record a layer, in the order of computation.

    local_error: ||(W - Q) x|| / ||W x|| on original inputs x. propagated_error: ||W x - Q y|| / ||W x|| with y the
    compressed network's inputs; both over the neurons that live. growth: propagated error over the error of the inputs,
    1 for the first layer. Of experts, which may see other samples in the compressed network, all is on original inputs.
    """
    network = problem.network
    inputs = problem.held_out.points.take(slice(0, _samples(problem))).tensors
    original, compressed = _traces(network, inputs, {}), _traces(network, inputs, decoded)
    return tuple(_row(network, layer, original, compressed, decoded) for layer in network.layers)


def _samples(problem: Problem) -> int:
    """As many as `_ROWS`, or fewer where layers see many rows of each: what enters and leaves them is held, twice."""
    few = problem.held_out.points.take(slice(0, _COUNTED))
    seen = _traces(problem.network, few.tensors, {})
    each = sum(x.numel() + z.numel() for x, z in seen.values()) / len(few)
    return min(max(int(_NUMBERS / max(each, 1)), _LEAST), _ROWS)


Trace = dict[str, tuple[Tensor, Tensor]]


def _traces(network: Network, inputs: Inputs, tensors: Mapping[str, Tensor]) -> Trace:
    seen: Trace = {}

    def note(layer: DenseLayer, x: Tensor, z: Tensor) -> None:
        seen[layer.weight] = (x.detach().clone().double(), z.detach().clone().double())  # what follows may change them

    with replaced(network, note):
        network.run(inputs, tensors)
    return seen


def _row(network: Network, layer: DenseLayer, original: Trace, compressed: Trace, decoded: Mapping) -> NetworkLayer:
    x, z = original[layer.weight]
    weight = decoded[layer.weight]
    bias = decoded.get(str(layer.bias), network.linear(layer).bias)  # may be kept where its weight is not
    bias = None if bias is None else bias.reshape(-1)  # may be a row
    dead = (weight == 0).all(1)
    if layer.bias is not None:
        dead &= bias == 0
    zero = (weight == 0).all(0)
    on_original = torch.nn.functional.linear(x, weight.double(), None if bias is None else bias.double())
    y, q = (x, on_original) if layer.weight in network.routed else compressed[layer.weight]
    local, propagated = _relative(on_original, z, ~dead), _relative(q, z, ~dead)
    entering = _relative(y, x, ~zero)
    growth = propagated / max(entering, _TINY) if entering > 0 else 1.0
    return NetworkLayer(layer.weight, local, propagated, growth, int(zero.sum()), int(dead.sum()))


def _relative(a: Tensor, b: Tensor, live: Tensor) -> float:
    """Relative difference over the live neurons: the others carry nothing."""
    return float((a - b)[..., live].norm() / b[..., live].norm().clamp_min(_TINY))
