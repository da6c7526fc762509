"""Random weights with which a layer of a small network begins."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hmcompress.network.joint.small import Layer
from hmcompress.network.model.network import DenseLayer, Network

_BIAS = 0.5  # standard deviation of the first biases, for inputs of each layer with deviation 1
_CONSTANT = 1e-6  # share of the largest deviation below which an input says nothing


def random_layer(
    network: Network,
    layers: Sequence[DenseLayer],
    x: Tensor,
    m: int,
    generator: torch.Generator,
    read: Tensor | None,
    size: float = 1.0,
) -> Layer:
    """Rows whose pre-activations have about this deviation on inputs x (N, n), of which only those in `read` count."""
    deviation = x.std(0)
    read = torch.ones_like(deviation, dtype=torch.bool) if read is None else read
    useful = read & (deviation > _CONSTANT * deviation.max())
    weight = torch.randn(m, x.shape[1], generator=generator).double() / useful.sum().clamp_min(1) ** 0.5
    weight = size * torch.where(useful, weight / deviation.clamp_min(1e-300), 0.0)
    bias = size * _BIAS * torch.randn(m, generator=generator).double() - weight @ x.mean(0)
    dense, module = layers[0], network.linear(layers[0])
    coded = dense.bias is not None
    offset = module.bias[:m].detach().double() if module.bias is not None and not coded else None
    matrix = torch.cat([weight, bias[:, None]], 1) if coded else weight
    live = torch.ones_like(matrix, dtype=torch.bool)
    live[:, : x.shape[1]] = read
    heads = tuple((head, network.shape(head)[0]) for head in layers[1:])
    return Layer(dense, heads, matrix, live, offset)
