"""Sensitivities found by perturbation: of weights that no second moment describes, of layers without gradients."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from hmcompress.errors import NetworkError
from hmcompress.layers import from_matrices, to_matrices
from hmcompress.network.bound.error import block_errors, evaluate
from hmcompress.network.model.inputs import Points
from hmcompress.network.model.network import DenseLayer, Network, replaced

_STEP, _UNITS = 1e-3, 2  # relative Frobenius size of the perturbation, at least so many units in the last place
_ROWS = 256
_FEW_ROWS = 16
_UNUSED = 1e-12
_SHOWN = 5  # names and patterns in a message
_LEAST_VARIANCE = 1e-300


def perturbed_sensitivities(
    network: Network, points: Points, tensors: Mapping[str, Tensor], kind: str, most: int = _ROWS
) -> dict[str, float]:
    """Relative error of the outputs over the relative error of each weight, for errors without a preferred direction.

    most: samples that are looked at, for each weight anew.

    Raises NetworkError for weights that the outputs do not depend on; of vectors, as statistics of inputs that nothing
    normalises, it is 0.
    """
    found = perturbed_errors(network, points, tensors, network.others, kind, most)
    none = [name for name, s in found.items() if s < _UNUSED and bool(tensors[name].any())]
    unused = [name for name in none if tensors[name].ndim > 1]
    if unused:
        more = " ..." * (len(unused) > _SHOWN)
        dense = {str(part) for layer in network.layers for part in (layer.weight, layer.bias)}
        used = dense | {name for name, s in found.items() if s >= _UNUSED}
        options = " ".join(f"--exclude '{pattern}'" for pattern in _patterns(unused, used))
        raise NetworkError(
            f"the network never uses {', '.join(unused[:_SHOWN])}{more}: keep what is no part of it lossless with "
            f"{options} (or exclude: in the YAML), bound it by a rule with a tol of its own (layers:), or is it "
            "another network, or one that reads copies of them?"
        )
    return {name: 0.0 if name in none else max(s, _UNUSED) for name, s in found.items()}


def perturbed_errors(
    network: Network, points: Points, tensors: Mapping[str, Tensor], names: Iterable[str], kind: str, most: int = _ROWS
) -> dict[str, float]:
    """The same of weights by their names, whether or not the outputs depend on them."""
    points = points.take(slice(0, min(_ROWS, most)))
    reference = evaluate(network, points, 0)
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name in names:
        w = tensors[name].to(torch.complex128 if tensors[name].is_complex() else torch.float64)
        noise = torch.randn(w.shape, generator=generator, dtype=w.dtype)
        step = _step(tensors[name].dtype)
        moved = w + step * w.norm() / noise.norm().clamp_min(1e-300) * noise
        found[name] = block_errors(kind, reference, evaluate(network, points, 0, {name: moved}))[0] / step
    return found


def _step(dtype: torch.dtype) -> float:
    """Less is lost in rounding, where there are 16 bits."""
    return max(_STEP, _UNITS * torch.finfo(dtype).eps)


def _patterns(unused: Sequence[str], used: Collection[str]) -> list[str]:
    """Patterns of the unused weights: of modules without any that is used, else of one ending that none of those has,
    else names; few are enough to show how."""
    last = Counter(name.rpartition(".")[2] for name in unused)
    taken = {name.rpartition(".")[2] for name in used}
    found: dict[str, None] = {}
    for name in unused:
        heads = [name[:at] for at, mark in enumerate(name) if mark == "."]
        free = (head for head in heads if not any(other.startswith(head + ".") for other in used))
        module = next(free, None)
        tail = name.rpartition(".")[2]
        own = name if last[tail] == 1 or tail in taken else f"*.{tail}"
        found[own if module is None else module + ".*"] = None
    return list(found)[:_SHOWN]


def without_zero_rows(
    network: Network, points: Points, tensors: Mapping[str, Tensor], most: int = _FEW_ROWS
) -> frozenset[str]:
    """Other weights of which no row may be zero, such as those that the module divides by their rows' sizes.

    most: samples that are looked at, for each weight anew.
    """
    points = points.take(slice(0, min(_FEW_ROWS, most)))
    return frozenset(name for name in network.others if _breaks(network, points, name, tensors[name]))


def _breaks(network: Network, points: Points, name: str, w: Tensor) -> bool:
    """Whether a row of zeros gives outputs that are not finite, or none."""
    matrices = to_matrices(w).clone()
    matrices[:, 0] = 0
    try:
        blocks = evaluate(network, points, 0, {name: from_matrices(matrices, w.shape, w.dtype)})
    except NetworkError:
        return True
    return not bool(torch.isfinite(blocks[0]).all())


def perturbed_moments(
    network: Network, points: Points, layers: Iterable[DenseLayer], kind: str
) -> dict[str, np.ndarray]:
    """G (m,) of some layers as `sensitivities` has it, without a preferred direction.

    White noise of variance s^2 on the pre-activations makes a squared relative error of s^2 trace(G).
    """
    if not (layers := list(layers)):
        return {}
    points = points.take(slice(0, _ROWS))
    reference = evaluate(network, points, 0)
    found = {}
    for layer in layers:
        noise = _Noise(layer)
        with replaced(network, noise):
            error = block_errors(kind, reference, evaluate(network, points, 0))[0]
        m = network.shape(layer)[0]
        found[layer.weight] = np.full(m, error**2 / max(noise.variance, _LEAST_VARIANCE) / m)
    return found


class _Noise:
    """Adds small white noise to the pre-activations of one layer."""

    def __init__(self, layer: DenseLayer) -> None:
        self.layer, self.variance = layer, 0.0
        self._generator = torch.Generator().manual_seed(0)

    def __call__(self, layer: DenseLayer, x: Tensor, z: Tensor) -> Tensor | None:
        if layer != self.layer:
            return None
        self.variance = _step(z.dtype) ** 2 * float(z.detach().double().square().mean())
        return z + self.variance**0.5 * torch.randn(z.shape, generator=self._generator, dtype=z.dtype)
