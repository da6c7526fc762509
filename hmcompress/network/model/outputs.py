"""What a module returns as one matrix."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from types import SimpleNamespace

import torch
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal, Transform

from hmcompress.errors import NetworkError

_PARAMETERS_OF_A_NORMAL = 2  # its mean, and its covariance in one form or another


def flatten(outputs: object) -> Tensor:
    """The floating tensors in a module's outputs as one real matrix (samples, everything else).

    What is one number for all samples, such as a loss beside the outputs, stands with each; of several rows a sample,
    as nodes beside their graphs have, these stand in one.
    """
    parts = [t.reshape(t.shape[0] if t.ndim else 1, -1) for t in tensors_in(outputs)]
    if not parts:
        raise NetworkError(
            f"the network returns {type(outputs).__name__} without a floating tensor, so no output error can be "
            "bounded: give a factory whose module returns what matters of it"
        )
    if len(parts) == 1:
        return parts[0]
    rows = min((len(part) for part in parts if len(part) > 1), default=1)
    if any(len(part) % rows for part in parts if len(part) > 1):
        return torch.cat([part.reshape(1, -1) for part in parts], 1)
    return torch.cat([part.expand(rows, -1) if len(part) == 1 else part.reshape(rows, -1) for part in parts], 1)


def stacked(parts: list[Tensor]) -> Tensor:
    """Parts (n, ...) one below the other. They are taken from the list one by one: many outputs are large, and would be
    held twice."""
    if len(parts) == 1:
        return parts.pop()
    whole, begin = parts[0].new_empty(sum(map(len, parts)), *parts[0].shape[1:]), 0
    while parts:
        part = parts.pop(0)
        whole[begin : begin + len(part)] = part
        begin += len(part)
    return whole


def tensors_in(outputs: object) -> Iterator[Tensor]:
    """The floating tensors in a module's outputs, complex ones as real ones."""
    if isinstance(outputs, Tensor):
        if outputs.is_complex():
            yield torch.view_as_real(outputs.resolve_conj())
        elif outputs.is_floating_point():
            yield outputs
    elif isinstance(outputs, Mapping):
        for value in outputs.values():
            yield from tensors_in(value)
    elif isinstance(outputs, list | tuple):
        for value in outputs:
            yield from tensors_in(value)
    elif is_dataclass(outputs) and not isinstance(outputs, type):
        for field in fields(outputs):
            yield from tensors_in(getattr(outputs, field.name))
    elif isinstance(outputs, Distribution):
        yield from tensors_in(_parameters(outputs))
    elif isinstance(outputs, SimpleNamespace | Transform):
        yield from tensors_in({name: value for name, value in vars(outputs).items() if not name.startswith("_")})


def _parameters(distribution: Distribution) -> list[object]:
    """What a distribution was made of: its parameters, and the distributions and transforms that it is built from."""
    held = vars(distribution)
    try:
        named = [held[name] for name in distribution.arg_constraints if name in held]
    except NotImplementedError:  # a class of the user's own need not name any
        named = []
    if isinstance(distribution, MultivariateNormal) and len(named) < _PARAMETERS_OF_A_NORMAL:
        named.append(distribution.variance)  # a Gaussian process may keep its covariance to itself, as an operator
    # With parameters of its own, what is private only repeats them; without, they are all that there is.
    inner = [value for name, value in held.items() if not (named and name.startswith("_"))]
    return named + [value for value in inner if isinstance(value, Distribution | Transform | list)]
