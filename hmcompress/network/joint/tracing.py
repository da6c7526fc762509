"""The dense chains of a user's own module: all of its layers, and how its outputs follow from what leaves them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from hmcompress.errors import NetworkError
from hmcompress.network.joint.chains import Chain, Chains
from hmcompress.network.joint.ends import MOST_OUTPUTS, scaling
from hmcompress.network.joint.onward import Onward
from hmcompress.network.joint.small import Data, mixed
from hmcompress.network.model.inputs import Points
from hmcompress.network.model.links import Links, Run, links_in, noisy, probed, run_with, same, size_of
from hmcompress.network.model.modules import FUNCTIONS, Activation
from hmcompress.network.model.network import DenseLayer, Network, in_double

_MOST_OTHERS = 4.0  # numbers of other weights for each of the dense layers
_BATCH, _PROBED = 4096, 64
_ROUGH = 1e-3  # share of the largest slope up to which differences tell the others
_STEP = 1e-4  # of a difference, in deviations of what is moved
_MANY, _FEATURES = 16, 3  # inputs of a layer that are features: more than this, and than so many for each coordinate


@dataclass(frozen=True)
class FoundChains(Chains):
    """Of a user's own module, which runs in float64."""

    original: Network = field(kw_only=True)
    direct: bool = field(default=False, kw_only=True)  # outputs are the chain's own
    reduced: bool = field(default=False, kw_only=True)  # only the size of an error counts, so many outputs become few

    @property
    def _ends(self) -> list[DenseLayer]:
        return [end for part in self.parts for end in part.ends]

    def beside(self, tensors: Mapping[str, Tensor]) -> Chains:
        """Of a network in which some other weights are changed; its outputs are to be the original's."""
        return replace(self, network=in_double(self.network, tensors)) if tensors else self

    def rescaled(self, points: Points) -> Chains:
        if self.scaled is None:
            return self
        points = points.take(slice(_PROBED)).to(torch.float64)
        return replace(self, scaled=_scaled(self, points, run_with(self.network, points)))

    def outputs(self, points: Points) -> Data:
        found = [self._of_batch(part) for part in _batches(points.to(torch.float64))]
        inputs = tuple(torch.cat(xs) for xs in zip(*(part.inputs for part in found), strict=True))
        mixes = [part.mix for part in found if part.mix is not None]
        rests = [part.rest for part in found if part.rest is not None]
        y = torch.cat([part.outputs for part in found])
        if not mixes:
            return Data(inputs, y)
        onward = self._onward(points.to(torch.float64)) if self.bent else None
        return Data(inputs, y, mix=torch.cat(mixes), rest=torch.cat(rests), beyond=onward)

    def _onward(self, points: Points) -> Onward:
        return Onward(self.network, tuple(self._ends), points, torch.ones(1).double())

    def bends(self, points: Points, run: Run) -> bool:
        """Whether the outputs, fewer than the chains', are no linear function of these, but have slopes by them."""
        own, onward = self.values(run.outputs), self._onward(points)
        if own.shape[1] <= run.y.shape[1]:
            return False
        mix, moved = self._slopes(points, run), noisy(run.outputs)
        there = self.values(moved)
        if same(mixed(mix, there - own) + run.y, run_with(self.network, points, moved).y):
            return False
        try:
            slopes = onward.slopes(own)
        except (RuntimeError, NetworkError):  # not by torch's gradients
            return False
        return bool((slopes - mix).abs().max() <= _ROUGH * mix.abs().max())

    def _of_batch(self, points: Points) -> Data:
        run, exact = run_with(self.network, points), self.network is self.original
        y = run.y if exact else self.original.run(points.tensors)
        inputs = tuple(run.inputs[part.layers[0].weight] for part in self.parts)
        if self.direct:
            return Data(inputs, y)
        own = self.values(run.outputs)
        mix = self._slope_of_product(points, run) if self.product else self._slopes(points, run)
        rest = run.y - mixed(mix, own)
        outputs = Data(inputs, y, mix=mix, rest=rest)
        return _fewer(outputs, exact) if self.reduced else outputs

    def values(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Of the chains (N, m), from their last layers' outputs."""
        ends = [_after(part, torch.cat([outputs[end.weight] for end in part.ends], 1)) for part in self.parts]
        return (ends[0] * ends[1]).sum(1, keepdim=True) if self.product else torch.cat(ends, 1)

    def _slopes(self, points: Points, run: Run) -> Tensor:
        """Derivatives (N, k, m) of the network's outputs by those of its chains, by central differences."""
        found = []
        for end in self._ends:
            z = run.outputs[end.weight]
            for j in range(z.shape[1]):
                step = torch.zeros_like(z)
                step[:, j] = _STEP * size_of(z[:, j])
                up, down = (run_with(self.network, points, {end.weight: z + s * step}).y for s in (1, -1))
                found.append((up - down) / (2 * step[0, j]))
        return torch.stack(found, 2)

    def _slope_of_product(self, points: Points, run: Run) -> Tensor:
        """Derivatives (N, k, 1) by the product: its first factor moves along the second."""
        first, second = self._ends
        z = run.outputs[first.weight]
        along = _after(self.parts[1], run.outputs[second.weight])
        step = _STEP * size_of(z) * along / along.norm(dim=1, keepdim=True).clamp_min(1e-300)
        up, down = (run_with(self.network, points, {first.weight: z + s * step}).y for s in (1, -1))
        return ((up - down) / (2 * (step * along).sum(1, keepdim=True)))[:, :, None]


def _fewer(found: Data, exact: bool) -> Data:
    """For many outputs as few as mix has columns and two more, whose errors are of the same size: the triangular factor
    of mix, rest and y. exact: y is what follows from the chains, which needs but one more."""
    assert found.mix is not None and found.rest is not None
    _, r = torch.linalg.qr(torch.cat([found.mix, found.rest[:, :, None], found.outputs[:, :, None]], 2), mode="r")
    r = r[:, :-1] if exact else r
    return replace(found, outputs=r[:, :, -1], mix=r[:, :, :-2], rest=r[:, :, -2])


def _after(chain: Chain, z: Tensor) -> Tensor:
    """What leaves a chain, from its last layer's output."""
    return chain.functions[-1](z) if len(chain.functions) == len(chain.layers) else z


def _batches(points: Points) -> Iterator[Points]:
    for begin in range(0, len(points), _BATCH):
        yield points.take(slice(begin, begin + _BATCH))


def found_chains(network: Network, points: Points, reduce: bool) -> Chains | None:
    """The chains of a user's own module, where all of its dense layers are in some. Raises NetworkError.

    reduce: only the size of an error counts, so that of many outputs few need be looked at.
    """
    if not points.joint or network.others_for_each() > _MOST_OTHERS:
        return None
    network, points, run = probed(network, points)
    if any(z.ndim != 2 or len(z) != len(points) for z in run.outputs.values()) or len(run.y) != len(points):
        return None
    parts = _joined(network, links_in(network, run), run, sum(t[0].numel() for t in points.tensors))
    if parts is None or not _nothing_else_reads(network, points, run, parts):
        return None
    return _with_outputs(FoundChains(network, parts, original=network), points, run, reduce)


def _joined(network: Network, links: Links, run: Run, coordinates: int) -> tuple[Chain, ...] | None:
    """Layers in runs, by what links them. None where a layer feeds several that do not end there."""
    several = [after for after, _ in links.values() if len(after) > 1]
    if not all(_are_heads(network, after) and not links.keys() & set(after) for after in several):
        return None
    reached = {layer for after, _ in links.values() for layer in after}
    return tuple(
        _chain(layer, links, run.inputs[layer.weight].shape[1], coordinates)
        for layer in network.layers
        if layer not in reached
    )


def _are_heads(network: Network, layers: list[DenseLayer]) -> bool:
    """Whether they can be coded like one layer: all of them with a bias that is coded, or all without any."""
    return all(x.bias is not None for x in layers) or all(network.linear(x).bias is None for x in layers)


def _chain(first: DenseLayer, links: Links, inputs: int, coordinates: int) -> Chain:
    layers, functions, heads = [first], [], list[DenseLayer]()
    while layers[-1] in links:
        (layer, *heads), function = links[layers[-1]]
        layers.append(layer)
        functions.append(function)
    return Chain(tuple(layers), tuple(functions), inputs > max(_MANY, _FEATURES * coordinates), tuple(heads))


def _nothing_else_reads(network: Network, points: Points, run: Run, parts: tuple[Chain, ...]) -> bool:
    """Whether the inputs of chains depend on no layer, and the outputs on the last layer of each chain alone."""
    changed = noisy(run.outputs)
    firsts, ends = [c.layers[0].weight for c in parts], [end.weight for c in parts for end in c.ends]
    moved, held = (run_with(network, points, given) for given in (changed, changed | {n: run.outputs[n] for n in ends}))
    free = all(same(other.inputs[n], run.inputs[n]) for other in (moved, held) for n in firsts)
    return free and same(held.y, run.y)


def _with_outputs(chains: FoundChains, points: Points, run: Run, reduce: bool) -> Chains | None:
    """How the outputs follow from the chains: one's own, those of two multiplied, or any function of few."""
    own = chains.values(run.outputs)
    if len(chains.parts) == 1 and own.shape == run.y.shape and same(own, run.y):
        return replace(chains, direct=True) if own.shape[1] <= MOST_OUTPUTS or reduce else None
    if reduce and len(chains.parts) == 1 and (scaled := _scaled(chains, points, run)) is not None:
        return replace(chains, direct=True, scaled=scaled)
    for product in _products(chains):
        if _is_product(product, points, run):
            return product
    many = run.y.shape[1] > MOST_OUTPUTS
    if own.shape[1] > MOST_OUTPUTS or (many and not reduce):
        return None
    reduced = reduce and run.y.shape[1] > own.shape[1] + 2
    return replace(chains, reduced=reduced, bent=chains.bends(points, run))


def _scaled(chains: FoundChains, points: Points, run: Run) -> Tensor | None:
    """Factors and offsets (2, k) of a chain's many outputs, where that is all that the module does with them."""
    moved = noisy(run.outputs)
    y = run_with(chains.network, points, moved).y
    return scaling(chains.values(run.outputs), chains.values(moved), run.y, y)


def _products(chains: FoundChains) -> Iterator[FoundChains]:
    """Two chains multiplied output by output, the second perhaps after a function."""
    widths = {sizes[-1] for sizes in chains.sizes}
    if len(chains.parts) != 2 or len(widths) > 1 or any(part.heads for part in chains.parts):
        return
    for first, second in (chains.parts, chains.parts[::-1]):
        for name in ("identity", *FUNCTIONS):
            functions = (*second.functions, Activation(name)) if name != "identity" else second.functions
            yield replace(chains, parts=(first, replace(second, functions=functions)), product=True)


def _is_product(chains: FoundChains, points: Points, run: Run) -> bool:
    """Whether the output is a function of the product and nothing else of the chains: it stays where both factors move
    and the product does not."""
    if run.y.shape[1] > 1:
        return False
    names = [part.layers[-1].weight for part in chains.parts]
    generator = torch.Generator().manual_seed(1)
    moved = {n: run.outputs[n] + torch.randn(run.outputs[n].shape, generator=generator).double() for n in names}
    along = _after(chains.parts[1], moved[names[1]])
    excess = chains.values(moved) - chains.values(run.outputs)
    moved[names[0]] -= along * excess / along.square().sum(1, keepdim=True).clamp_min(1e-300)
    return same(run_with(chains.network, points, moved).y, run.y)
