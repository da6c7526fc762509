"""Weights that the engine of the weights metric or a product of two factors may code instead of the passes."""

from collections.abc import Mapping

from torch import Tensor

from hmcompress.network.bound.problem import Problem
from hmcompress.network.layerwise.coded import Engine

_LEAST_SIDE = 64  # of a square matrix in which structure is looked for
_STRUCTURED = 0.15  # share of what noise costs, below which the engine competes


def structured_layers(problem: Problem, tensors: Mapping[str, Tensor], engine: Engine) -> frozenset[str]:
    """Layers in which the engine finds structure: learned operators, heads on a grid, the few modes of a basis."""
    large = [n for n in _matrices(problem, tensors) if tensors[n].numel() >= _LEAST_SIDE**2]
    return frozenset(name for name in large if engine.share_of_noise(name, tensors[name]) < _STRUCTURED)


def wide_layers(problem: Problem, tensors: Mapping[str, Tensor]) -> frozenset[str]:
    """Layers that may be products of two factors."""
    return frozenset(n for n in _matrices(problem, tensors) if min(tensors[n].shape) >= _LEAST_SIDE)


def _matrices(problem: Problem, tensors: Mapping[str, Tensor]) -> list[str]:
    names = (*(layer.weight for layer in problem.network.layers), *problem.network.others)
    return [n for n in names if tensors[n].ndim == 2 and min(tensors[n].shape) > 1]
