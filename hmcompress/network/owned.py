"""The tensors of a checkpoint that a network is read from, and those of its weights that are to be coded."""

from collections.abc import Set
from dataclasses import replace

from torch import Tensor

from hmcompress.checkpoint import Checkpoint
from hmcompress.layers import is_optimizer_state
from hmcompress.network.layerwise.gradients import WIDEST
from hmcompress.network.model.network import Network
from hmcompress.settings.config import Settings
from hmcompress.settings.rules import rule_for


def load_tensors(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Every tensor of a checkpoint but optimizer state, ties included, in the source's order."""
    bases = {tie.base for tie in checkpoint.ties.values()}
    wanted = [n for n in checkpoint.names if not is_optimizer_state(n)]
    stored = {n: e.load() for n, e in checkpoint.entries.items() if n in wanted or n in bases}
    ties = checkpoint.ties
    return {n: ties[n].of(stored[ties[n].base]) if n in ties else stored[n] for n in wanted}


def kept(checkpoint: Checkpoint, settings: Settings) -> set[str]:
    """Tensors that a rule keeps lossless."""
    return {name for name in checkpoint.names if rule_for(name, settings).keep}  # patterns were checked before `drop`


def owned(network: Network, checkpoint: Checkpoint, keep: Set[str] = frozenset()) -> Network:
    """The network whose weights are to be coded: none that `keep` names, and a tied one once, under its base.

    Tied ones and very wide ones are no dense layers any more, but other weights.
    """
    bases = {tie.base for tie in checkpoint.ties.values()}
    own, others = [], list(network.others)
    for layer in network.layers:
        if layer.weight in keep:
            continue
        quick = max(network.shape(layer)) <= WIDEST  # moments of wider ones would take too long
        if quick and layer.weight in checkpoint.entries and layer.weight not in bases:
            coded = layer.bias in checkpoint.entries and layer.bias not in bases | keep
            own.append(layer if coded else replace(layer, bias=None))
        elif layer.weight in checkpoint.entries:
            others += [name for name in (layer.weight, layer.bias) if name is not None]
    others = [name for name in others if name in checkpoint.entries and name not in keep]
    stacks = tuple(tuple(layer for layer in own if layer.weight in {x.weight for x in s}) for s in network.stacks)
    return replace(network, layers=tuple(own), others=tuple(others), stacks=stacks)
