"""Layers that see only some samples, as experts that a gate chooses: which ones may change with the weights."""

from dataclasses import replace

import torch
from torch import Tensor

from hmcompress.network.model.network import DenseLayer, Inputs, Network, replaced

_COUNTED = 32  # samples


def with_routed(network: Network, inputs: Inputs) -> Network:
    """The network with those of its layers known whose rows do not grow by as many with each sample."""
    count = min(len(t) for t in inputs)
    if network.built_in or count < 3:
        return network
    count = min(count, _COUNTED)
    parts = slice(count), slice(count - 1), slice(count // 2), slice(count // 2, count // 2 * 2)
    all_rows, fewer, first, second = (_outputs(network, tuple(t[part] for t in inputs)) for part in parts)
    unlike = {n for n, z in all_rows.items() if _rows(z) * (count - 1) != _rows(fewer.get(n)) * count}
    fixed = {n for n in unlike if n in first and n in second and torch.equal(first[n], second[n])}  # see no sample
    return replace(network, routed=frozenset(unlike - fixed))


def _rows(z: Tensor | None) -> int:
    return 0 if z is None else z.numel() // z.shape[-1]


def _outputs(network: Network, inputs: Inputs) -> dict[str, Tensor]:
    """Of each layer in one run."""
    outputs: dict[str, Tensor] = {}

    def note(layer: DenseLayer, x: Tensor, z: Tensor) -> None:
        outputs[layer.weight] = z.detach().clone()

    with replaced(network, note):
        network.run(inputs)
    return outputs
