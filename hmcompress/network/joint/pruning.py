"""Neurons of small stacks that are not worth their bytes: taken out, and what is left made compact."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from hmcompress.network.joint.small import Layer
from hmcompress.network.joint.stack import SmallStack, apply

Stacks = Sequence[SmallStack]


def settle(stacks: Stacks, product: bool) -> None:
    """Fix what no output depends on at zero, fold constant neurons into the next bias, until nothing changes."""
    before = -1
    while before != (before := sum(int(layer.live.sum()) for stack in stacks for layer in stack.layers)):
        for stack in stacks:
            for k in reversed(range(len(stack.layers) - 1)):
                _fold_constants(stack, k)
                stack.layers[k].drop_rows(~stack.layers[k + 1].reading.any(0))
        if product:
            ends = [stack.layers[-1] for stack in stacks]
            idle = torch.stack([~end.live.any(1) for end in ends]).any(0)
            for end in ends:
                end.drop_rows(idle)


def unwind(stacks: Stacks) -> None:
    """Bring phases of sines within half a turn by whole turns, half ones with the sign: a large phase costs bits, and
    beside it all other weights of its layer look small."""
    for stack in stacks:
        for k, (layer, after) in enumerate(pairwise(stack.layers)):
            if layer.has_bias and stack.functions[k].name == "sin" and stack.functions[k].slope is None:
                halves = (layer.matrix[:, -1] / math.pi).round() * layer.live[:, -1]
                layer.matrix[:, -1] -= math.pi * halves
                after.weight().mul_(1 - 2 * halves.remainder(2))


def drop_weakest(stacks: Stacks, inputs: Sequence[Tensor]) -> bool:
    """Fix everything that reads the hidden neuron of least variance in the next layer at zero. False: none is left."""
    found: list[tuple[float, Layer, int]] = []
    for stack, x in zip(stacks, inputs, strict=True):
        for layer, entering in zip(stack.layers[1:], stack.forward(x)[0][1:], strict=True):
            size = (layer.weight().pow(2).sum(0) / layer.weight().pow(2).sum().clamp_min(1e-300)) * entering.var(0)
            living = torch.nonzero(layer.reading.any(0))[:, 0].tolist()
            found += [(float(size[i]), layer, i) for i in living if len(living) > 1]
    if not found:
        return False
    _, layer, i = min(found, key=lambda item: item[0])
    layer.drop_columns(torch.arange(layer.inputs) == i)
    return True


def _fold_constants(stack: SmallStack, k: int) -> None:
    layer, after = stack.layers[k], stack.layers[k + 1]
    constant = ~layer.reading.any(1)
    if not after.has_bias or not after.reading[:, constant].any():
        return
    values = apply(stack.functions[k], layer.forward(torch.zeros(1, layer.inputs).double()))[0]
    folded = after.weight()[:, constant] @ values[constant]
    after.live[:, -1] |= folded != 0
    after.drop_columns(constant)
    after.matrix[:, -1] += folded


def compact(stacks: Stacks, product: bool) -> None:
    """Take idle hidden neurons out, so that the others come first. Neurons that a kept bias or slope names stay."""
    for stack in stacks:
        for k in range(len(stack.layers) - 1):
            if is_nameless(stack, k):
                _keep(stack.layers[k], stack.layers[k + 1], stack.layers[k + 1].reading.any(0))
    if product and all(is_nameless(stack, len(stack.layers) - 1) for stack in stacks):
        ends = [stack.layers[-1] for stack in stacks]
        alive = ends[0].live.any(1) & ends[1].live.any(1)
        for end in ends:
            _keep_rows(end, alive)


def is_nameless(stack: SmallStack, k: int) -> bool:
    """Whether neurons of a layer may change places: no kept bias or slope belongs to one of them."""
    slope = stack.functions[k].slope if k < len(stack.functions) else None
    return stack.layers[k].offset is None and (slope is None or slope.numel() == 1)


def _keep(layer: Layer, after: Layer, alive: Tensor) -> None:
    if not bool(alive.any()):
        alive = torch.arange(len(alive)) == 0
    _keep_rows(layer, alive)
    after.keep_columns(alive)


def _keep_rows(layer: Layer, alive: Tensor) -> None:
    if bool(alive.any()):
        layer.keep_rows(alive)
