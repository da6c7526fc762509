"""What "error of the network" means: relative L2, largest deviation, or each output by itself; derivatives too."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hmcompress.errors import NetworkError
from hmcompress.network.model.inputs import Points
from hmcompress.network.model.network import Network, own_tensors
from hmcompress.network.model.outputs import stacked
from hmcompress.network.model.tangents import jets

_BATCH, _LEAST_BATCH = 4096, 64  # samples at once
_INPUTS_AT_ONCE = 1 << 19  # numbers: what a network makes of a field is many times as large
_COMPARED_AT_ONCE = 1 << 18  # numbers: more leave caches, and many more take new pages
_WRITTEN_AT_ONCE, _FEWEST = 5e7, 4  # numbers that a run may write before new pages take longer than sums; samples


@dataclass(frozen=True)
class Reference:
    """Outputs and derivatives of the original network on some points."""

    points: Points
    blocks: list[Tensor]  # float64: (N, k) outputs, then derivatives


def evaluate(network: Network, points: Points, order: int, tensors: Mapping[str, Tensor] | None = None) -> list[Tensor]:
    """Outputs and derivatives, in float64, in batches."""
    parts, step = list[list[Tensor]](), _batch(points, network.written)
    with torch.no_grad(), network.holding(tensors) as call:
        for begin in range(0, len(points), step):
            part = points.take(slice(begin, begin + step))
            blocks = jets(network, part, order, call)
            parts.append([b.to(torch.float64, copy=True) for b in blocks])  # a module may write its next outputs there
    if len({part[0].shape[1] for part in parts}) > 1:
        raise NetworkError(
            "what the network returns has no row for each sample, so it cannot be asked in batches: give a factory "
            f"whose module returns what belongs to samples alone, or fewer samples ({step} at most)"
        )
    return [stacked([part.pop(0) for part in parts]) for _ in range(len(parts[0]))]


def _batch(points: Points, written: float = 0.0) -> int:
    """Samples at once. written: numbers that the network writes for one."""
    each = sum(t[0].numel() for t in points.tensors) if points.joint else points.tensors[0][0].numel()
    batch = min(max(_INPUTS_AT_ONCE // max(each, 1), _LEAST_BATCH), _BATCH)
    return min(batch, max(int(_WRITTEN_AT_ONCE / written), _FEWEST)) if written and points.joint else batch


def reference(network: Network, points: Points, order: int, what: str, advice: bool = True) -> Reference:
    """The original's outputs. Raises NetworkError where they are not finite or all zero, with advice if wanted."""
    blocks = evaluate(network, points, order)
    bad = int((~torch.isfinite(blocks[0])).any(1).sum())
    if bad:
        why = f": {_why_not_finite(network)}" if advice else ""
        raise NetworkError(
            f"the original network's outputs are nan or inf on {bad} of {len(blocks[0])} {what} points{why}"
        )
    if not blocks[0].any():
        why = ": check the activation" if advice else ""
        raise NetworkError(f"the original network's outputs are zero on all {what} points{why}")
    return Reference(points, blocks)


def _why_not_finite(network: Network) -> str:
    own = own_tensors(network.module)
    bad = [name for name, place in network.places.items() if place in own and not torch.isfinite(own[place]).all()]
    return f"{bad[0]} holds nan or inf" if bad else "check the domain and the activation"


def block_errors(kind: str, reference: list[Tensor], blocks: list[Tensor]) -> list[float]:
    """Relative error of the outputs and of each derivative; inf where something is not finite."""
    return [_error(kind, y0, y) for y0, y in zip(reference, blocks, strict=True)]


def network_error(
    network: Network, ref: Reference, order: int, kind: str, tensors: Mapping[str, Tensor]
) -> list[float]:
    """Errors of the network with some tensors replaced: outputs first, then derivatives."""
    return block_errors(kind, ref.blocks, evaluate(network, ref.points, order, tensors))


def _error(kind: str, y0: Tensor, y: Tensor) -> float:
    if kind == "max":
        return _ratio(_largest(a - b for a, b in _in_parts(y, y0)), _largest(b for (b,) in _in_parts(y0)))
    if kind == "each":
        errors = torch.stack([(a - b).square().sum(0) for a, b in _in_parts(y, y0)]).sum(0).sqrt()
        return max(_ratio(float(a), float(b.norm())) for a, b in zip(errors, y0.T, strict=True))
    return _ratio(float(squared_rows(y, y0).sum()) ** 0.5, float(squared_rows(y0).sum()) ** 0.5)


def squared_rows(y: Tensor, y0: Tensor | None = None) -> Tensor:
    """Squared norms (N,) of rows of y (N, k), or of y - y0."""
    differences = (a - b for a, b in _in_parts(y, y0)) if y0 is not None else (a for (a,) in _in_parts(y))
    return torch.cat([difference.square().sum(1) for difference in differences])


def _in_parts(*blocks: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Of several ones (N, k), the same rows of each."""
    rows = max(_COMPARED_AT_ONCE // max(blocks[0].shape[1], 1), 1)
    return zip(*(block.split(rows) for block in blocks), strict=True)


def _largest(parts: Iterator[Tensor]) -> float:
    """Magnitude; nan where there is one."""
    return float(torch.stack([part.abs().max() for part in parts]).max())


def _ratio(error: float, size: float) -> float:
    if not math.isfinite(error):
        return math.inf
    return error / size if size else math.inf if error else 0.0


def scaled(kind: str, ref: list[Tensor], blocks: list[Tensor]) -> list[Tensor]:
    """Outputs and derivatives in units of the reference, so that squared errors add up to the squared relative one."""
    return [b / unit_of(kind, y0).to(b.dtype) for y0, b in zip(ref, blocks, strict=True)]


def unit_of(kind: str, y0: Tensor) -> Tensor:
    """What outputs (N, k) are divided by for that: one number, or one for each of them."""
    if kind == "each":
        return y0.norm(dim=0).clamp_min(1e-12 * float(y0.norm()) + 1e-30) * y0.shape[1] ** 0.5
    return y0.norm().clamp_min(1e-30)
