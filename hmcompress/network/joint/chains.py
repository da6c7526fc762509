"""Chains of dense layers, in whose place a small network may learn what they compute; and how the network's outputs
follow from those of the chains, whatever else it does with them.

Built-in networks say what their chains are; those of a user's own module are found by running it (tracing.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from hmcompress.network.bound.error import evaluate
from hmcompress.network.joint.ends import MOST_OUTPUTS
from hmcompress.network.joint.features import FEATURES_FOR_EACH
from hmcompress.network.joint.small import Data
from hmcompress.network.model.inputs import Points
from hmcompress.network.model.modules import Activation, OperatorNetwork, Stack
from hmcompress.network.model.network import DenseLayer, Network


@dataclass(frozen=True)
class Chain:
    """Dense layers, each of which feeds the next one through an elementwise function, and nothing else."""

    layers: tuple[DenseLayer, ...]
    functions: tuple[Activation, ...]  # one more where one follows the last layer
    features: bool  # many inputs are features of few coordinates, of which a small network reads some
    heads: tuple[DenseLayer, ...] = ()  # further layers that read what the last one does

    @property
    def ends(self) -> tuple[DenseLayer, ...]:
        """The layers that leave it, whose outputs stand side by side."""
        return (self.layers[-1], *self.heads)


@dataclass(frozen=True)
class Chains:
    """All dense layers of a network. product: outputs of two chains are multiplied, summed, and `shift` is added."""

    network: Network
    parts: tuple[Chain, ...]
    product: bool = False
    shift: float = 0.0
    bent: bool = field(default=False, kw_only=True)  # outputs are fewer than the chains', not linear in them
    modes: Tensor | None = field(default=None, kw_only=True)  # (k, q) of many outputs: small networks learn these alone
    scaled: Tensor | None = field(default=None, kw_only=True)  # (2, k) factors and offsets that make outputs of these

    @property
    def too_many(self) -> bool:
        """Outputs of one chain, for which a small network is no good without their modes."""
        return not self.product and self.modes is None and self.sizes[-1][-1] > MOST_OUTPUTS

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        """Of each chain: its inputs, and the outputs of each layer."""
        return tuple(self._sizes(part) for part in self.parts)

    def _sizes(self, part: Chain) -> tuple[int, ...]:
        inner = (self.network.shape(layer)[0] for layer in part.layers[:-1])
        last = sum(self.network.shape(layer)[0] for layer in part.ends)
        last = last if self.modes is None else self.modes.shape[1]
        return (self.network.shape(part.layers[0])[1], *inner, last)

    def beside(self, tensors: Mapping[str, Tensor]) -> "Chains":
        """Chains of the network with some other weights changed. Built-in networks hold none."""
        return self

    def reads(self, k: int, hidden: int) -> int:
        """How many inputs a chain reads in a small network of this width: all, unless they are features."""
        inputs = self.sizes[k][0]
        return min(inputs, FEATURES_FOR_EACH * hidden) if self.parts[k].features else inputs

    def widths(self, hidden: int) -> tuple[tuple[int, ...], ...]:
        """Every hidden layer, and the product of two chains, with `hidden` neurons, where it has as many."""
        full = [sizes[1:] for sizes in self.sizes]
        small = [tuple(min(hidden, m) for m in sizes) for sizes in full]
        return tuple(own if self.product else (*own[:-1], m[-1]) for own, m in zip(small, full, strict=True))

    def inner_weights(self, hidden: int) -> int:
        """Weights of a small network of this width, not counting more plain inputs than a layer has neurons."""
        total = 0
        for k, (sizes, chain) in enumerate(zip(self.widths(hidden), self.parts, strict=True)):
            read = self.reads(k, hidden)
            inputs = (read if chain.features else min(read, hidden), *sizes[:-1])
            total += sum(m * (n + 1) for m, n in zip(sizes, inputs, strict=True))
        return total

    def rescaled(self, points: Points) -> "Chains":
        """With the factors and offsets of outputs that follow from other weights as these are now."""
        return self

    def outputs(self, points: Points) -> Data:
        """What enters the chains and the network's outputs, in float64."""
        network = self.network.paired()
        with torch.no_grad():
            inputs = tuple(
                s.features(t).double() for s, t in zip(stacks_in(network.module), points.tensors, strict=True)
            )
        return Data(inputs, evaluate(network, points, 0)[0])


def built_in_chains(network: Network, outputs: int) -> Chains | None:
    """Those of a built-in network with so many outputs, where all of its weights are to be coded."""
    dense = sum(isinstance(module, nn.Linear) for module in network.module.modules())
    few = network.cartesian or outputs <= MOST_OUTPUTS  # or pairs of one function and many points
    few = few or network.kind == "mlp"  # or their modes
    return _built_in(network) if few and not network.others and dense == len(network.layers) else None


def stacks_in(module: nn.Module) -> list[Stack]:
    """Of a built-in network."""
    if isinstance(module, OperatorNetwork):
        return [module.branch, module.trunk]
    assert isinstance(module, Stack)
    return [module]


def _built_in(network: Network) -> Chains:
    stacks = zip(network.stacks, stacks_in(network.module), strict=True)
    parts = tuple(
        Chain(layers, tuple(f for f in s.activations if isinstance(f, Activation)), s.features.frequencies is not None)
        for layers, s in stacks
    )
    shift = getattr(network.module, "bias", None)
    return Chains(network, parts, len(parts) > 1, float(shift) if isinstance(shift, Tensor) else 0.0)
