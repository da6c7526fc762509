"""Chains of dense layers, in whose place a small network may learn what they compute; and how the network's outputs
follow from those of the chains, whatever else it does with them.

Built-in networks say what their chains are. Those of a user's own module are found by running it: which layer's output
becomes which other's input by which elementwise function, and that nothing else reads it.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain

import torch
from torch import Tensor, nn

from hmcompress.errors import NetworkError
from hmcompress.network.error import evaluate
from hmcompress.network.inputs import Points
from hmcompress.network.model import DenseLayer, Network, in_double, own_tensors, replaced
from hmcompress.network.modules import FUNCTIONS, Activation, OperatorNetwork, Stack
from hmcompress.network.problem import Problem
from hmcompress.network.small import mixed

_MOST_OUTPUTS = 16
_MOST_OTHERS = 0.25  # numbers of other weights, which are kept, for each of the dense layers
_PROBED = 128  # samples
_BATCH = 4096
_SAME = 1e-6  # share of the largest entry up to which results are the same: some modules compute in float32
_STEP = 1e-4  # of a difference, in deviations of what is moved
_MANY, _FEATURES = 16, 3  # inputs of a layer that are features: more than this, and than so many for each coordinate
_SLOPES: dict[str, tuple[float, Callable[[Tensor, Tensor], Tensor]]] = {  # |z| where b is told best, and b from z, x
    "tanh": (0.0, lambda z, x: torch.atanh(x) / z),
    "sin": (0.0, lambda z, x: torch.asin(x) / z),
    "swish": (1.0, lambda z, x: torch.logit(x / z) / z),
}


@dataclass(frozen=True)
class Chain:
    """Dense layers, each of which feeds the next one through an elementwise function, and nothing else."""

    layers: tuple[DenseLayer, ...]
    functions: tuple[Activation, ...]  # one more where one follows the last layer
    features: bool  # many inputs are features of few coordinates, of which a small network reads some


@dataclass(frozen=True)
class Outputs:
    """What enters the chains (N, n), the network's outputs (N, k), and how these follow from the chains' own (N, m):
    y = mix (N, k, m) applied to them + rest (N, k). Without mix they are the chains' own."""

    inputs: tuple[Tensor, ...]
    y: Tensor
    mix: Tensor | None = None
    rest: Tensor | None = None


@dataclass(frozen=True)
class Chains:
    """All dense layers of a network. product: outputs of two chains are multiplied, summed, and `shift` is added."""

    network: Network
    parts: tuple[Chain, ...]
    product: bool = False
    shift: float = 0.0

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        """Of each chain: its inputs, and the outputs of each layer."""
        shapes = [[self.network.shape(layer) for layer in part.layers] for part in self.parts]
        return tuple((of_chain[0][1], *(m for m, _ in of_chain)) for of_chain in shapes)

    def outputs(self, points: Points) -> Outputs:
        """In float64."""
        network = self.network.paired()
        with torch.no_grad():
            inputs = tuple(s.features(t).double() for s, t in zip(_stacks(network), points.tensors, strict=True))
        return Outputs(inputs, evaluate(network, points, 0)[0])


def chains_of(problem: Problem) -> Chains | None:
    """The chains for which a small network may stand. None: there are others than dense layers, or many outputs."""
    network, outputs = problem.network, problem.calibration.blocks[0].shape[1]
    if problem.order or network.kind not in ("mlp", "deeponet", "factory"):
        return None
    if network.kind == "factory":
        try:
            return _found(problem)
        except NetworkError:
            return None
    dense = sum(isinstance(module, nn.Linear) for module in network.module.modules())
    few = network.cartesian or outputs <= _MOST_OUTPUTS  # or pairs of one function and many points
    return _built_in(network) if few and not network.others and dense == len(network.layers) else None


def _stacks(network: Network) -> list[Stack]:
    module = network.module
    if isinstance(module, OperatorNetwork):
        return [module.branch, module.trunk]
    assert isinstance(module, Stack)
    return [module]


def _built_in(network: Network) -> Chains:
    stacks = zip(network.stacks, _stacks(network), strict=True)
    parts = tuple(
        Chain(layers, tuple(f for f in s.activations if isinstance(f, Activation)), s.features.frequencies is not None)
        for layers, s in stacks
    )
    shift = getattr(network.module, "bias", None)
    return Chains(network, parts, len(parts) > 1, float(shift) if isinstance(shift, Tensor) else 0.0)


@dataclass(frozen=True)
class _Run:
    """Inputs and outputs of each dense layer by its weight, and the network's outputs."""

    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    y: Tensor


def _run(network: Network, points: Points, given: Mapping[str, Tensor] | None = None) -> _Run:
    """`given` takes the place of some layers' outputs."""
    inputs, outputs = dict[str, Tensor](), dict[str, Tensor]()

    def note(layer: DenseLayer, x: Tensor, z: Tensor) -> Tensor | None:
        inputs[layer.weight], outputs[layer.weight] = x.detach().clone(), z.detach().clone()
        return None if given is None else given.get(layer.weight)

    with replaced(network, note):
        y = network.run(points.tensors)
    return _Run(inputs, outputs, y)


@dataclass(frozen=True)
class _FoundChains(Chains):
    """Of a user's own module, which runs in float64."""

    direct: bool = field(default=False, kw_only=True)  # outputs are the chain's own
    reduced: bool = field(default=False, kw_only=True)  # only the size of an error counts, so many outputs become few

    @property
    def _ends(self) -> list[DenseLayer]:
        return [part.layers[-1] for part in self.parts]

    def outputs(self, points: Points) -> Outputs:
        found = [self._of_batch(part) for part in _batches(points.to(torch.float64))]
        inputs = tuple(torch.cat(xs) for xs in zip(*(part.inputs for part in found), strict=True))
        mixes = [part.mix for part in found if part.mix is not None]
        rests = [part.rest for part in found if part.rest is not None]
        y = torch.cat([part.y for part in found])
        return Outputs(inputs, y, torch.cat(mixes), torch.cat(rests)) if mixes else Outputs(inputs, y)

    def _of_batch(self, points: Points) -> Outputs:
        run = _run(self.network, points)
        inputs = tuple(run.inputs[part.layers[0].weight] for part in self.parts)
        if self.direct:
            return Outputs(inputs, run.y)
        own = self.values(run.outputs)
        mix = self._slope_of_product(points, run) if self.product else self._slopes(points, run)
        if self.reduced:
            mix, rest = _fewer(mix, run.y - mixed(mix, own))
            return Outputs(inputs, mixed(mix, own) + rest, mix, rest)
        return Outputs(inputs, run.y, mix, run.y - mixed(mix, own))

    def values(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Of the chains (N, m), from their last layers' outputs."""
        ends = [_after(part, outputs[part.layers[-1].weight]) for part in self.parts]
        return (ends[0] * ends[1]).sum(1, keepdim=True) if self.product else torch.cat(ends, 1)

    def _slopes(self, points: Points, run: _Run) -> Tensor:
        """Derivatives (N, k, m) of the network's outputs by those of its chains, by central differences."""
        found = []
        for end in self._ends:
            z = run.outputs[end.weight]
            for j in range(z.shape[1]):
                step = torch.zeros_like(z)
                step[:, j] = _STEP * _size(z[:, j])
                up, down = (_run(self.network, points, {end.weight: z + s * step}).y for s in (1, -1))
                found.append((up - down) / (2 * step[0, j]))
        return torch.stack(found, 2)

    def _slope_of_product(self, points: Points, run: _Run) -> Tensor:
        """Derivatives (N, k, 1) by the product: its first factor moves along the second."""
        first, second = self._ends
        z = run.outputs[first.weight]
        along = _after(self.parts[1], run.outputs[second.weight])
        step = _STEP * _size(z) * along / along.norm(dim=1, keepdim=True).clamp_min(1e-300)
        up, down = (_run(self.network, points, {first.weight: z + s * step}).y for s in (1, -1))
        return ((up - down) / (2 * (step * along).sum(1, keepdim=True)))[:, :, None]


def _fewer(mix: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
    """For many outputs as few as mix has columns and one more, of the same size at whatever the chains give: the
    triangular factor of both."""
    _, r = torch.linalg.qr(torch.cat([mix, rest[:, :, None]], 2), mode="r")
    return r[:, :, :-1], r[:, :, -1]


def _size(z: Tensor) -> float:
    return float(z.std(correction=0)) or max(float(z.abs().max()), 1.0)


def _after(chain: Chain, z: Tensor) -> Tensor:
    """What leaves a chain, from its last layer's output."""
    return chain.functions[-1](z) if len(chain.functions) == len(chain.layers) else z


def _batches(points: Points) -> Iterator[Points]:
    for begin in range(0, len(points), _BATCH):
        yield points.take(slice(begin, begin + _BATCH))


def _found(problem: Problem) -> Chains | None:
    """The chains of a user's own module, where all of its dense layers are in some. Raises NetworkError."""
    network, points = problem.network, problem.calibration.points
    dense = sum(network.matrix(layer).numel() for layer in network.layers)
    own = own_tensors(network.module)
    others = sum(own[network.places[name]].numel() for name in network.others)
    if not network.layers or not points.joint or others > _MOST_OTHERS * dense:
        return None
    network, points = in_double(network), points.to(torch.float64).take(slice(0, _PROBED))
    run = _run(network, points)
    if any(z.ndim != 2 or len(z) != len(points) for z in run.outputs.values()) or len(run.y) != len(points):
        return None
    coordinates = sum(t[0].numel() for t in points.tensors)
    parts = _joined(network, run, coordinates)
    if parts is None or not _nothing_else_reads(network, points, run, parts):
        return None
    return _with_outputs(problem, _FoundChains(network, parts), points, run)


def _joined(network: Network, run: _Run, coordinates: int) -> tuple[Chain, ...] | None:
    """Layers in runs, by what links them. None where a layer feeds several."""
    after: dict[DenseLayer, tuple[DenseLayer, Activation]] = {}
    for k, layer in enumerate(network.layers):
        for before in reversed(network.layers[:k]):
            function = _function(run.outputs[before.weight], run.inputs[layer.weight])
            if function is not None and before in after:
                return None
            if function is not None:
                after[before] = (layer, function)
                break
    reached = {layer for layer, _ in after.values()}
    return tuple(
        _chain(layer, after, run.inputs[layer.weight].shape[1], coordinates)
        for layer in network.layers
        if layer not in reached
    )


def _chain(
    first: DenseLayer, after: Mapping[DenseLayer, tuple[DenseLayer, Activation]], inputs: int, coordinates: int
) -> Chain:
    layers, functions = [first], []
    while layers[-1] in after:
        layer, function = after[layers[-1]]
        layers.append(layer)
        functions.append(function)
    return Chain(tuple(layers), tuple(functions), inputs > max(_MANY, _FEATURES * coordinates))


def _function(z: Tensor, x: Tensor) -> Activation | None:
    """The elementwise function that makes x from z, if one does."""
    if z.shape != x.shape:
        return None
    candidates = chain(map(Activation, FUNCTIONS), _sloped(z, x))
    return next((function for function in candidates if _same(function(z), x)), None)


def _sloped(z: Tensor, x: Tensor) -> Iterator[Activation]:
    """Functions of b z, with b from a single entry."""
    z, x = z.reshape(-1), x.reshape(-1)
    for name, (size, slope) in _SLOPES.items():
        place = (z.abs() - size).abs().argmin()
        if torch.isfinite(b := slope(z[place], x[place])):
            yield Activation(name, b)


def _same(a: Tensor, b: Tensor, tol: float = _SAME) -> bool:
    return bool((a - b).abs().max() <= tol * b.abs().max())


def _nothing_else_reads(network: Network, points: Points, run: _Run, parts: tuple[Chain, ...]) -> bool:
    """Whether the inputs of chains depend on no layer, and the outputs on the last layer of each chain alone."""
    generator = torch.Generator().manual_seed(0)
    noisy = {n: z + _size(z) * torch.randn(z.shape, generator=generator).double() for n, z in run.outputs.items()}
    firsts, ends = [c.layers[0].weight for c in parts], [c.layers[-1].weight for c in parts]
    moved, held = (_run(network, points, given) for given in (noisy, noisy | {n: run.outputs[n] for n in ends}))
    free = all(_same(other.inputs[n], run.inputs[n]) for other in (moved, held) for n in firsts)
    return free and _same(held.y, run.y)


def _with_outputs(problem: Problem, chains: _FoundChains, points: Points, run: _Run) -> Chains | None:
    """How the outputs follow from the chains: one's own, those of two multiplied, or any function of few."""
    own = chains.values(run.outputs)
    if len(chains.parts) == 1 and own.shape == run.y.shape and _same(own, run.y):
        return _FoundChains(chains.network, chains.parts, direct=True) if own.shape[1] <= _MOST_OUTPUTS else None
    for product in _products(chains):
        if _is_product(product, points, run):
            return product
    many = run.y.shape[1] > _MOST_OUTPUTS
    if own.shape[1] > _MOST_OUTPUTS or (many and problem.settings.tolerance != "l2"):
        return None
    return _FoundChains(chains.network, chains.parts, reduced=run.y.shape[1] > own.shape[1] + 1)


def _products(chains: _FoundChains) -> Iterator[_FoundChains]:
    """Two chains multiplied output by output, the second perhaps after a function."""
    widths = {chains.network.shape(chain.layers[-1])[0] for chain in chains.parts}
    if len(chains.parts) != 2 or len(widths) > 1:
        return
    for first, second in (chains.parts, chains.parts[::-1]):
        for name in ("identity", *FUNCTIONS):
            functions = (*second.functions, Activation(name)) if name != "identity" else second.functions
            yield _FoundChains(chains.network, (first, Chain(second.layers, functions, second.features)), True)


def _is_product(chains: _FoundChains, points: Points, run: _Run) -> bool:
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
    return _same(_run(chains.network, points, moved).y, run.y)
