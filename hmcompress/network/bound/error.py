"""What "error of the network" means: relative L2, largest deviation, or each output by itself; derivatives too."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hmcompress.errors import NetworkError
from hmcompress.network.model.inputs import Points
from hmcompress.network.model.network import Network, own_tensors
from hmcompress.network.model.tangents import jets

_BATCH, _LEAST_BATCH = 4096, 64  # samples at once
_INPUTS_AT_ONCE = 1 << 19  # numbers: what a network makes of a field is many times as large
_WRITTEN_AT_ONCE, _FEWEST = 5e7, 4  # numbers that a run may write before new pages take longer than sums; samples


@dataclass(frozen=True)
class Reference:
    """Outputs and derivatives of the original network on some points."""

    points: Points
    blocks: list[Tensor]  # float64: (N, k) outputs, then derivatives


def evaluate(network: Network, points: Points, order: int, tensors: Mapping[str, Tensor] | None = None) -> list[Tensor]:
    """Outputs and derivatives, in float64, in batches."""
    parts, step = [], _batch(points, network.written)
    with torch.no_grad(), network.holding(tensors) as call:
        for begin in range(0, len(points), step):
            part = points.take(slice(begin, begin + step))
            parts.append([b.double() for b in jets(network, part, order, call)])
    if len({part[0].shape[1] for part in parts}) > 1:
        raise NetworkError(
            "what the network returns has no row for each sample, so it cannot be asked in batches: give a factory "
            f"whose module returns what belongs to samples alone, or fewer samples ({step} at most)"
        )
    return [torch.cat(blocks) for blocks in zip(*parts, strict=True)]


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
    difference = y - y0
    if not torch.isfinite(difference).all():
        return float("inf")
    if kind == "max":
        return _ratio(difference.abs().max(), y0.abs().max())
    if kind == "each":
        return max(_ratio(a.norm(), b.norm()) for a, b in zip(difference.T, y0.T, strict=True))
    return _ratio(difference.norm(), y0.norm())


def _ratio(error: Tensor, size: Tensor) -> float:
    if float(size) == 0:
        return 0.0 if float(error) == 0 else float("inf")
    return float(error / size)


def scaled(kind: str, ref: list[Tensor], blocks: list[Tensor]) -> list[Tensor]:
    """Outputs and derivatives in units of the reference, so that squared errors add up to the squared relative one."""
    return [b / unit_of(kind, y0).to(b.dtype) for y0, b in zip(ref, blocks, strict=True)]


def unit_of(kind: str, y0: Tensor) -> Tensor:
    """What outputs (N, k) are divided by for that: one number, or one for each of them."""
    if kind == "each":
        return y0.norm(dim=0).clamp_min(1e-12 * float(y0.norm()) + 1e-30) * y0.shape[1] ** 0.5
    return y0.norm().clamp_min(1e-30)
