"""The tensors of a checkpoint that a network is read from, and those of its weights that are to be coded."""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from itertools import groupby

from torch import Tensor, nn

from hmcompress.checkpoint import Checkpoint
from hmcompress.geometry import View
from hmcompress.layers import all_names, is_optimizer_state
from hmcompress.network.layerwise.moments import WIDEST
from hmcompress.network.model.network import DenseLayer, Network, own_tensors
from hmcompress.settings.config import Settings
from hmcompress.settings.rules import rule_of


def load_tensors(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Every tensor of a checkpoint but optimizer state, ties included, in the source's order."""
    bases = {tie.base for tie in checkpoint.ties.values()}
    wanted = [n for n in checkpoint.names if not is_optimizer_state(n)]
    stored = {n: e.load() for n, e in checkpoint.entries.items() if n in wanted or n in bases}
    ties = checkpoint.ties
    return {n: ties[n].of(stored[ties[n].base]) if n in ties else stored[n] for n in wanted}


def kept(checkpoint: Checkpoint, settings: Settings) -> set[str]:
    """Tensors that a rule keeps lossless, under any of their names."""
    names = all_names(checkpoint.entries, checkpoint.ties) | {name: [name] for name in checkpoint.ties}
    return {name for name in names if rule_of(names[name], settings).keep}  # patterns were checked before `drop`


def owned(network: Network, checkpoint: Checkpoint, keep: Set[str] = frozenset()) -> Network:
    """The network whose weights are to be coded: none that `keep` names, and a tied one once, under its base.

    Tied ones and very large ones are no dense layers any more, but other weights.
    """
    shared, sources = _shared(network, checkpoint), network.sources

    def is_stored(name: str) -> bool:
        return sources.get(name, name) in checkpoint.entries and not {name, sources.get(name)} & keep

    def is_coded(name: str | None) -> bool:
        return name is not None and is_stored(name) and sources.get(name, name) not in shared

    def dense(layers: Iterable[DenseLayer]) -> tuple[DenseLayer, ...]:
        quick = (x for x in layers if _is_quick(network, x))
        return tuple(x if is_coded(x.bias) else replace(x, bias=None) for x in quick if is_coded(x.weight))

    own, others = dense(network.layers), list(network.others)
    dense_weights = {layer.weight for layer in own}
    for layer in network.layers:
        if is_stored(layer.weight) and layer.weight not in dense_weights:
            others += [name for name in (layer.weight, layer.bias) if name is not None]
    others = [name for name in others if is_stored(name)]
    stacks = tuple(run for stack in network.stacks for run in _runs(stack, {x.weight: x for x in own}))
    return replace(
        network,
        layers=own,
        others=tuple(others),
        stacks=stacks,
        repeated=dense(network.repeated),
        ties=_untied(network, checkpoint),
        of_module=network.layers,
    )


def _runs(stack: Sequence[DenseLayer], coded: Mapping[str, DenseLayer]) -> Iterator[tuple[DenseLayer, ...]]:
    """The parts of a stack without layers that are not to be coded: what is before one does not feed what is after."""
    for is_coded, run in groupby(stack, lambda layer: layer.weight in coded):
        if is_coded:
            yield tuple(coded[layer.weight] for layer in run)


def _untied(network: Network, checkpoint: Checkpoint) -> dict[str, View]:
    """Ties of the checkpoint that the module does not have itself."""
    own, places = own_tensors(network.module), network.places

    def is_tied(name: str, base: str) -> bool:
        return base in places and own[places[name]] is own[places[base]]

    return {n: tie for n, tie in checkpoint.ties.items() if n in places and not is_tied(n, tie.base)}


def _is_quick(network: Network, layer: DenseLayer) -> bool:
    """Whether moments of a layer, and its rounding, take no longer than they may."""
    read = network.read(layer)
    return read <= WIDEST and network.shape(layer)[0] * read**2 <= WIDEST**3


def _shared(network: Network, checkpoint: Checkpoint) -> set[str]:
    """Tensors that others are tied to, but for further names of the same tensor of the same module."""
    modules = dict(network.module.named_modules(remove_duplicate=False))

    def held(name: str) -> tuple[nn.Module | None, str]:
        path, _, own = network.places.get(name, "").rpartition(".")
        return modules.get(path), own

    ties = ((name, tie.base) for name, tie in checkpoint.ties.items())
    return {base for name, base in ties if name not in network.places or held(name) != held(base)}
