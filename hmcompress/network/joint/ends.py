"""Last layers that make all outputs of a module, where these are many: a small network then makes their modes."""

import torch
from torch import Tensor

from hmcompress.network.layerwise.fields import leading_modes
from hmcompress.network.model.inputs import Points
from hmcompress.network.model.links import Run, noisy, run_with, same
from hmcompress.network.model.network import DenseLayer, Network

MOST_OUTPUTS = 16  # that a small network makes itself
MOST_MODES = 64  # of more outputs, that the middle way learns
_LEFT = 0.45  # of the tolerance, that the modes leave at most
_LOOSE = 0.1  # tolerance at which too many modes are too many
_SAMPLES = 1024  # from which modes are found
_PROBED = 3


def scaling(own: Tensor, there: Tensor, y: Tensor, moved: Tensor) -> Tensor | None:
    """Factors and offsets (2, k) that make outputs y of a layer's, and those moved of those there; None: others do."""
    if own.shape != y.shape or own.shape[1] <= MOST_OUTPUTS:
        return None
    factors = ((moved - y) * (there - own)).sum(0) / (there - own).square().sum(0)
    offsets = (y - factors * own).mean(0)
    agree = same(factors * own + offsets, y) and same(factors * there + offsets, moved)
    return torch.stack([factors, offsets]) if agree and bool(factors.all()) else None


def scaled_end(network: Network, end: DenseLayer, points: Points) -> Tensor | None:
    """The scaling of a module's outputs, whatever else its layers give; None where there is none."""
    run = run_with(network, points)
    moved = noisy(run.outputs)
    return scaling(run.outputs[end.weight], moved[end.weight], run.y, run_with(network, points, moved).y)


def only_end(network: Network, points: Points, run: Run) -> DenseLayer | None:
    """The last layer, where all outputs are its own but for factors and offsets."""
    end = network.layers[-1]
    if not is_whole(network, end) or run.outputs[end.weight].ndim != 2:
        return None
    return end if scaled_end(network, end, points) is not None else None


def is_whole(network: Network, end: DenseLayer) -> bool:
    """Whether a layer has no bias that is kept beside it, which no grid holds."""
    return end.bias is not None or network.linear(end).bias is None


def modes_of(y: Tensor, offsets: Tensor | None, tol: float, most: int) -> Tensor | None:
    """Modes (k, q) of outputs (N, k) but for offsets (k,) that tell these well within the tolerance, or None."""
    y = y[:_SAMPLES]
    s, modes = leading_modes(y if offsets is None else y - offsets)
    left = s.square().flip(0).cumsum(0).flip(0).sqrt() / y.norm()  # by the modes before each
    few = max(int((left > _LEFT * tol).sum()), 1)
    return modes[:, :few].contiguous() if few <= most else None


def are_told(y: Tensor) -> bool:
    """Whether few modes may tell outputs (N, k) at all, whatever their offsets."""
    return modes_of(y, y[:_SAMPLES].mean(0), _LOOSE, MOST_MODES) is not None


def probing(outputs: int) -> Tensor:
    """Any modes (k, q), with which it is looked at what a small network does."""
    generator = torch.Generator().manual_seed(0)
    return torch.linalg.qr(torch.randn(outputs, _PROBED, generator=generator).double())[0]
