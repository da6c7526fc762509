"""Weights that the engine of the weights metric, a product of two factors or points may code instead of the passes."""

from collections.abc import Iterable, Mapping

import numpy as np
from torch import Tensor

from hmcompress.network.bound.problem import Problem
from hmcompress.network.layerwise.coded import Engine
from hmcompress.network.layerwise.original import Original
from hmcompress.network.layerwise.points import find_points

_LEAST_SIDE = 64  # of a square matrix in which structure is looked for
_OUTPUTS, _FEW_OUTPUTS = 256, 32  # samples of a layer's outputs that are looked at; fewer tell nothing
_STRUCTURED = 0.15  # share of what noise costs, below which the engine competes


def structured_layers(problem: Problem, tensors: Mapping[str, Tensor], engine: Engine) -> frozenset[str]:
    """Layers in which the engine finds structure: learned operators, heads on a grid, the few modes of a basis."""
    return frozenset(n for n in _matrices(problem, tensors) if has_structure(n, tensors[n], engine))


def has_structure(name: str, w: Tensor, engine: Engine) -> bool:
    """Whether the engine finds structure in a matrix."""
    return w.numel() >= _LEAST_SIDE**2 and engine.share_of_noise(name, w) < _STRUCTURED


def stays_with_engine(name: str, w: Tensor) -> bool:
    """Whether a weight that a module multiplies by is no layer, since the engine codes it in few bytes, whatever it
    multiplies."""
    return has_structure(name, w, Engine())


def wide_layers(problem: Problem, tensors: Mapping[str, Tensor]) -> frozenset[str]:
    """Layers that may be products of two factors."""
    return frozenset(n for n in _matrices(problem, tensors) if min(tensors[n].shape) >= _LEAST_SIDE)


def located_layers(names: Iterable[str], data: Original) -> frozenset[str]:
    """Layers, of some, whose outputs are smooth functions of where points lie that few coordinates tell."""
    return frozenset(name for name in names if _is_located(data.targets[name][0]))


def _is_located(outputs: Tensor) -> bool:
    rows = outputs.detach().reshape(-1, outputs.shape[-1])[:_OUTPUTS].double().numpy()
    if len(rows) < _FEW_OUTPUTS or not rows.any():
        return False
    _, sizes, leading = np.linalg.svd(rows, full_matrices=False)
    return find_points(leading.T, sizes) is not None


def _matrices(problem: Problem, tensors: Mapping[str, Tensor]) -> list[str]:
    names = (*(layer.weight for layer in problem.network.layers), *problem.network.others)
    return [n for n in names if tensors[n].ndim == 2 and min(tensors[n].shape) > 1]
