"""Other weights that lie along a group of neurons: vectors whose i-th entry acts on the i-th neuron alone (scales,
slopes, statistics of normalisation). Where all their entries are alike, neurons may change places."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from hmcompress.errors import NetworkError
from hmcompress.hmatrix.grids.grid import Grid
from hmcompress.layers import to_matrices
from hmcompress.network.joint.groups import COLUMNS, Group
from hmcompress.network.layerwise.coded import Coded, Engine, Slices, Weighted, lossless
from hmcompress.network.model.inputs import Points
from hmcompress.network.model.links import Run, run_with
from hmcompress.network.model.network import Network, own_tensors

_SAMPLES = 16
_EXACTLY = 1e-7
_FACTOR, _SHIFT = 1.25, 0.25  # of entries that move: signs stay, which variances need


def vectors_along(network: Network, points: Points, groups: Sequence[Group]) -> dict[str, int]:
    """Their names in the checkpoint, and which group each of them lies along. Raises NetworkError."""
    points = points.take(slice(0, _SAMPLES))
    run, own = run_with(network, points), own_tensors(network.module)
    found = dict[str, int]()
    for name in network.others:
        t = own[network.places[name]].detach()
        if t.numel() == max(t.shape, default=0) and t.is_floating_point():
            alike = [k for k, group in enumerate(groups) if group.count == t.numel()]
            first = next((k for k in alike if _lies_along(network, points, run, name, t, groups[k])), None)
            if first is not None:
                found[name] = first
    return found


def mean(t: Tensor) -> Tensor:
    """A vector of its mean."""
    return torch.full_like(t, float(t.double().mean()))


def coded(t: Tensor) -> Coded:
    """A vector whose entries are alike."""
    if not t.any():
        return Slices(tuple(_zeros(matrix) for matrix in to_matrices(t)), tuple(t.shape), t.dtype)
    return min((Engine().tensor("", t, _EXACTLY), lossless(t)), key=lambda part: len(part.payload(thorough=False)))


def _zeros(matrix: Tensor) -> Coded:
    m, n = matrix.shape
    return Weighted(Grid(np.zeros((m, n), np.int64), np.zeros(m, np.int64), np.zeros(n, np.int64)))


def narrowed(t: Tensor, count: int) -> Tensor:
    """Its first entries."""
    return t.narrow(int(np.argmax(t.shape)), 0, count)


def _lies_along(network: Network, points: Points, run: Run, name: str, t: Tensor, group: Group) -> bool:
    """Whether nothing but the columns of the same neurons moves with entries, those with a bit in their numbers and the
    others, while the outputs of all layers stay."""
    numbers, moved_any = torch.arange(t.numel()), False
    for bit in range(max((t.numel() - 1).bit_length(), 1)):
        for value in (0, 1):
            some = ((numbers >> bit & 1) == value).reshape(t.shape)
            size = t.abs().mean().clamp_min(1e-3)
            moved = torch.where(some, _FACTOR * t + _SHIFT * size * torch.sign(t + (t == 0)), t)
            try:
                found = run_with(network, points, run.outputs, {name: moved})
            except NetworkError:  # it takes gradients of what the layers give
                return False
            if not found.calls_as(run) or not bool((found.y == run.y).all()):
                return False
            allowed = _columns(network, group, some.reshape(-1).numpy())
            for layer in network.layers:
                a, b = found.inputs[layer.weight], run.inputs[layer.weight]
                columns = (a != b).reshape(-1, a.shape[-1]).any(0).numpy()
                if (columns & ~allowed[layer.weight]).any():
                    return False
                moved_any |= bool(columns.any())
    return moved_any


def _columns(network: Network, group: Group, some: np.ndarray) -> Mapping[str, np.ndarray]:
    """Of each layer, those that read some of a group's neurons."""
    found = {layer.weight: np.zeros(network.shape(layer)[1], np.bool_) for layer in network.layers}
    for k, axis, first in group.places:
        if axis == COLUMNS:
            found[network.layers[k].weight][first : first + group.count] |= some
    return found
