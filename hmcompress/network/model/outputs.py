"""What a module returns as one matrix."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass

import torch
from torch import Tensor

from hmcompress.errors import NetworkError


def flatten(outputs: object) -> Tensor:
    """The floating tensors in a module's outputs as one real matrix (samples, everything else)."""
    parts = [t.reshape(t.shape[0] if t.ndim else 1, -1) for t in tensors_in(outputs)]
    if not parts:
        raise NetworkError(
            f"the network returns a {type(outputs).__name__} without a floating tensor, so no output error can be "
            "bounded: give a factory whose module returns what matters of it"
        )
    if len({len(part) for part in parts}) > 1:
        return torch.cat([part.reshape(1, -1) for part in parts], 1)
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


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
