"""A user's own module as a whole: groups of its neurons, of which a small network has a few, whatever the module does
with them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hmcompress.network.joint.ends import scaled_end
from hmcompress.network.joint.features import FEATURES_FOR_EACH
from hmcompress.network.joint.groups import COLUMNS, ROWS, Group
from hmcompress.network.joint.small import Data, Layer
from hmcompress.network.joint.vectors import narrowed
from hmcompress.network.model.inputs import Points
from hmcompress.network.model.network import DenseLayer, Inputs, Network, in_double, own_tensors
from hmcompress.network.model.outputs import stacked
from hmcompress.network.model.until import call_until, run_until

_MANY = 16  # inputs of a layer from outside that are features
_ENTRIES = 1 << 22  # of a layer's inputs or outputs that are held at once
_PROBED = 64


@dataclass(frozen=True)
class Web:
    """All dense layers of a module that runs in float64, and groups of their neurons."""

    network: Network
    original: Network
    groups: tuple[Group, ...]
    exchangeable: tuple[bool, ...]  # groups whose neurons may change places
    odd: tuple[bool, ...]  # groups whose neurons may change signs
    times: tuple[int, ...]  # that a sample passes each layer: of sequences and graphs, many
    vectors: tuple[tuple[str, int], ...] = ()  # other weights that lie along a group, and which that is
    largest: int = 0  # numbers of a sample that the original's module holds side by side, in attention
    by_samples: bool = False  # slopes by its weights are not those by its layers' outputs times inputs
    sliced: bool = False  # it runs with layers that are as small as the small network's
    uneven: bool = False  # also where one group has fewer neurons than the others
    end: DenseLayer | None = None  # the last layer, which makes all outputs, where these are many
    modes: Tensor | None = None  # (k, q) of these: small networks end with that layer, and learn what makes the modes
    scaled: Tensor | None = None  # (2, k) factors and offsets that make outputs of the layer's

    @property
    def too_many(self) -> bool:
        """Outputs, for which a small network is no good without their modes."""
        return self.end is not None and self.modes is None

    def beside(self, tensors: Mapping[str, Tensor]) -> "Web":
        """With some other weights changed; its outputs are to be the original's."""
        return replace(self, network=in_double(self.network, tensors)) if tensors else self

    def rescaled(self, points: Points) -> "Web":
        """With the factors and offsets of outputs as they are now; None where these are the layer's no longer."""
        if self.end is None:
            return self
        points = points.take(slice(min(_PROBED, self.at_once(1)))).to(torch.float64)
        return replace(self, scaled=scaled_end(self.network, self.end, points))

    def run(self, inputs: Inputs, tensors: Mapping[str, Tensor]) -> Tensor:
        """Outputs, or what makes their modes, with other weights."""
        if self.end is None or self.modes is None:
            return self.network.run(inputs, tensors)
        return run_until(self.network, self.end, inputs, tensors)

    def call(self, inputs: Inputs, tensors: Mapping[str, Tensor]) -> Tensor:
        """The same with gradients where the caller wants them."""
        if self.end is None or self.modes is None:
            return self.network.call(inputs, tensors)
        return call_until(self.network, self.end, inputs, tensors)

    def narrowed(self, counts: tuple[int, ...]) -> dict[str, Tensor]:
        """The vectors that lie along groups, for so many neurons of each."""
        own = own_tensors(self.network.module) if self.vectors else {}
        return {name: narrowed(own[self.network.places[name]].detach(), counts[k]) for name, k in self.vectors}

    def outputs(self, points: Points) -> Data:
        """What enters the module, and the original's outputs."""
        points, rows = points.to(torch.float64), self.at_once(1)
        parts = [points.take(slice(begin, begin + rows)) for begin in range(0, len(points), rows)]
        return Data(points.tensors, stacked([self.original.run(part.tensors).clone() for part in parts]))

    def at_once(self, points: int) -> int:
        """Samples of so many points that are run together."""
        widest = max(t * max(self.network.shape(x)) for t, x in zip(self.times, self.network.layers, strict=True))
        return max(_ENTRIES // (max(widest, self.largest) * points), 1)

    def widths(self, hidden: int) -> tuple[tuple[int, ...], ...]:
        """Neurons of each group in a small network of this width."""
        return (tuple(min(hidden, group.count) for group in self.groups),)

    def kept(self, k: int, axis: int, counts: tuple[int, ...]) -> Tensor:
        """Rows or columns of a layer that a small network has, with so many neurons of each group."""
        layer = self.network.layers[k]
        if axis == ROWS and self.modes is not None and layer == self.end:
            return torch.arange(self.modes.shape[1])
        live = torch.ones(self.network.shape(layer)[axis], dtype=torch.bool)
        for group, count in zip(self.groups, counts, strict=True):
            for place, own, first in group.places:
                if (place, own) == (k, axis):
                    live[first + count : first + group.count] = False
        return torch.nonzero(live)[:, 0]

    def dispensable(self, idle: Sequence[Tensor]) -> list[Tensor]:
        """Which of each group's idle neurons may go: where the module splits what a layer gives into parts of one size,
        as many stay in all groups."""
        if self.uneven or not self.sliced:
            return [*idle]
        busy = [int((~own).sum()) for own in idle]
        pairs = zip(busy, idle, self.exchangeable, strict=True)
        most = max((n if movable and n else len(own) for n, own, movable in pairs), default=0)
        return [own & (own.cumsum(0) > most - n) for n, own in zip(busy, idle, strict=True)]

    def zero(self, k: int, counts: tuple[int, ...]) -> Layer:
        """A layer of a small network, without any weights yet."""
        dense = self.network.layers[k]
        rows, columns = (self.kept(k, axis, counts) for axis in (ROWS, COLUMNS))
        matrix = torch.zeros(len(rows), len(columns) + (dense.bias is not None)).double()
        return Layer(dense, (), matrix, torch.ones_like(matrix, dtype=torch.bool), None, rows, columns)

    def outside(self, k: int) -> int:
        """Columns of a layer that are no neuron of a group."""
        here = (g.count for g in self.groups for layer, axis, _ in g.places if (layer, axis) == (k, COLUMNS))
        return self.network.shape(self.network.layers[k])[1] - sum(here)

    def reads_features(self, k: int) -> bool:
        """Whether a layer's inputs are features of few coordinates, of which a small network reads some."""
        return self.outside(k) == self.network.shape(self.network.layers[k])[1] > _MANY

    def inner_weights(self, hidden: int) -> int:
        """Weights of a small network of this width, not counting more inputs from outside than there are neurons."""
        (counts,), total = self.widths(hidden), 0
        for k in range(len(self.network.layers)):
            rows, columns = (len(self.kept(k, axis, counts)) for axis in (ROWS, COLUMNS))
            spared = max(self.outside(k) - (FEATURES_FOR_EACH if self.reads_features(k) else 1) * hidden, 0)
            total += rows * (columns - spared + 1)
        return total
