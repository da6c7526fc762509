"""Weights that no second moment of an input describes: their sensitivity, found by perturbation."""

from collections.abc import Mapping

import torch
from torch import Tensor

from hmcompress.errors import NetworkError
from hmcompress.network.error import block_errors, evaluate
from hmcompress.network.inputs import Points
from hmcompress.network.model import Network

_STEP = 1e-3  # relative Frobenius size of the perturbation
_ROWS = 256
_UNUSED = 1e-12


def perturbed_sensitivities(
    network: Network, points: Points, tensors: Mapping[str, Tensor], kind: str
) -> dict[str, float]:
    """Relative error of the outputs over the relative error of each weight, for errors without a preferred direction.

    Raises NetworkError for weights that the outputs do not depend on.
    """
    points = points.take(slice(0, _ROWS))
    reference = evaluate(network, points, 0)
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name in network.others:
        w = tensors[name].double()
        noise = torch.randn(w.shape, generator=generator, dtype=torch.float64)
        moved = w + _STEP * w.norm() / noise.norm().clamp_min(1e-300) * noise
        found[name] = block_errors(kind, reference, evaluate(network, points, 0, {name: moved}))[0] / _STEP
    unused = [name for name, s in found.items() if s < _UNUSED and float(tensors[name].double().norm()) > 0]
    if unused:
        raise NetworkError(f"the network never uses {', '.join(unused[:5])}: leave them out, or is it another network?")
    return {name: max(s, _UNUSED) for name, s in found.items()}
