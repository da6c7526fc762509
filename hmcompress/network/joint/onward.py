"""How the outputs of a user's own module follow from those of its chains, where that is no linear function: weights
of a mixture, factors of a product.

Outputs that are fewer than the chains' do not hold each chain near the original's, so slopes there say nothing about
where a small network takes them: they are taken anew wherever it is.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hmcompress.errors import NetworkError
from hmcompress.network.model.inputs import Points
from hmcompress.network.model.links import run_with
from hmcompress.network.model.network import DenseLayer, Network, replaced


@dataclass(frozen=True)
class Onward:
    """The module behind its chains, at some points. scale (k,): turns outputs into units of the tolerance's norm."""

    network: Network
    ends: tuple[DenseLayer, ...]
    points: Points
    scale: Tensor

    def part(self, rows: slice) -> "Onward":
        return replace(self, points=self.points.take(rows))

    def scaled(self, scale: Tensor) -> "Onward":
        return replace(self, scale=scale)

    def outputs(self, values: Tensor) -> Tensor:
        """The network's (N, k), where its chains give these values (N, m)."""
        try:
            return run_with(self.network, self.points, self._given(values)).y * self.scale
        except NetworkError:  # it fails where the original's own values do not lead
            return values.new_full((len(values), len(self.scale)), math.inf)

    def slopes(self, values: Tensor) -> Tensor:
        """Their derivatives (N, k, m) by the values."""
        given = {name: z.requires_grad_() for name, z in self._given(values).items()}
        with torch.enable_grad(), replaced(self.network, lambda layer, x, z: given.get(layer.weight)):
            y = self.network.call(self.points.tensors)
            found = [self._slopes_of(y[:, j], given) for j in range(y.shape[1])]
        return torch.stack(found, 1) * self.scale[:, None]

    def _slopes_of(self, y: Tensor, given: Mapping[str, Tensor]) -> Tensor:
        each = torch.autograd.grad(y.sum(), [*given.values()], retain_graph=True, materialize_grads=True)
        return torch.cat(each, 1)

    def _given(self, values: Tensor) -> dict[str, Tensor]:
        each = values.detach().split([self.network.shape(end)[0] for end in self.ends], 1)
        return {end.weight: z.clone() for end, z in zip(self.ends, each, strict=True)}
