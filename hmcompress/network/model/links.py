"""Which dense layer of a user's own module feeds which other, by which elementwise function: found by running it."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor

from hmcompress.errors import NetworkError
from hmcompress.network.model.inputs import Points
from hmcompress.network.model.modules import FUNCTIONS, Activation
from hmcompress.network.model.network import DenseLayer, Network, in_double, joined, own_tensors, replaced

_PROBED, _FEWEST = 128, 2  # samples, where their numbers are few and where they are many
_ENTRIES = 1 << 18  # of a layer's outputs that are looked at, about
_WRITTEN = 1e7  # numbers that the network writes meanwhile, about
_LARGEST = 30_000_000  # numbers of a network that is copied for this
_GLANCED = 256  # entries that are compared before all others
_SAME = 1e-6  # share of the largest entry up to which results are the same: some modules compute in float32
_SLOPES: dict[str, tuple[float, Callable[[Tensor, Tensor], Tensor]]] = {  # |z| where b is told best, and b from z, x
    "tanh": (0.0, lambda z, x: torch.atanh(x) / z),
    "sin": (0.0, lambda z, x: torch.asin(x) / z),
    "swish": (1.0, lambda z, x: torch.logit(x / z) / z),
}

Links = dict[DenseLayer, tuple[list[DenseLayer], Activation]]  # the layers that one feeds, and by which function


@dataclass(frozen=True)
class Run:
    """Inputs and outputs of each dense layer by its weight, those of all calls joined, and the network's outputs."""

    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    y: Tensor

    def calls_as(self, other: "Run") -> bool:
        """Whether each layer is called as often as in another run."""
        own, others = ({name: x.shape for name, x in run.inputs.items()} for run in (self, other))
        return own == others


def run_with(
    network: Network,
    points: Points,
    given: Mapping[str, Tensor] | None = None,
    tensors: Mapping[str, Tensor] | None = None,
    through: bool = False,
) -> Run:
    """`given` takes the place of some layers' outputs, `tensors` of some of the checkpoint's. through: slopes that the
    module takes pass it all the same."""
    inputs, outputs = defaultdict[str, list[Tensor]](list), defaultdict[str, list[Tensor]](list)

    def note(layer: DenseLayer, x: Tensor, z: Tensor) -> Tensor | None:
        whole = None if given is None else given.get(layer.weight)
        own = None if whole is None else _of_call(whole, outputs[layer.weight], z)
        inputs[layer.weight].append(x.detach().clone())
        outputs[layer.weight].append(z.detach().clone())
        return z + (own - z).detach() if own is not None and through and z.requires_grad else own

    with replaced(network, note):
        y = network.run(points.tensors, tensors)
    entering, leaving = ({name: joined(calls) for name, calls in found.items()} for found in (inputs, outputs))
    return Run(entering, leaving, y)


def _of_call(whole: Tensor, before: Sequence[Tensor], z: Tensor) -> Tensor | None:
    """The part of a layer's outputs in all calls that belongs to the call after some; None: there were fewer calls."""
    if whole.shape == z.shape:
        return whole
    begin, count = sum(map(_places, before)), _places(z)
    part = whole[:, begin : begin + count]
    return part.reshape(z.shape) if part.shape[1] == count else None


def _places(z: Tensor) -> int:
    """Of each sample."""
    return z.numel() // (len(z) * z.shape[-1])


def probed(network: Network, points: Points) -> tuple[Network, Points, Run]:
    """The network in double precision, some of the points, and what it does there. Raises NetworkError."""
    if sum(t.numel() for t in own_tensors(network.module).values()) > _LARGEST:
        raise NetworkError("the network is too large to be copied")
    network, points = in_double(network), points.to(torch.float64)
    few = run_with(network, points.take(slice(0, _FEWEST)))
    each = max((z.numel() for z in few.outputs.values()), default=1) // _FEWEST
    count = min(_ENTRIES / max(each, 1), _WRITTEN / max(network.written, 1.0), _PROBED)
    points = points.take(slice(0, max(int(count), _FEWEST)))
    return network, points, run_with(network, points)


def with_stacks(network: Network, points: Points) -> Network:
    """The same network with the runs of its layers known that only running it shows: functions stand in the code."""
    if network.kind != "factory" or len(network.layers) < 2:
        return network
    try:
        double, points, run = probed(network, points)
        links = links_in(double, run)
        known = {
            before: after[0] for before, (after, _) in links.items() if _reads_alone(double, points, run, before, after)
        }
    except NetworkError:
        return network
    runs = [tuple(_run_from(layer, known)) for layer in network.layers if layer not in known.values()]
    found = [r for r in runs if len(r) > 1 and all(set(r) >= set(s) or not set(r) & set(s) for s in network.stacks)]
    rest = [s for s in network.stacks if not any(set(s) <= set(r) for r in found)]
    return replace(network, stacks=(*rest, *found))


def _run_from(layer: DenseLayer | None, known: Mapping[DenseLayer, DenseLayer]) -> Iterator[DenseLayer]:
    while layer is not None:
        yield layer
        layer = known.get(layer)


def _reads_alone(network: Network, points: Points, run: Run, before: DenseLayer, after: list[DenseLayer]) -> bool:
    """Whether a single layer reads another's output, and nothing else does."""
    if len(after) > 1:
        return False
    others = {n: z for n, z in run.outputs.items() if n != before.weight}
    moved = run_with(network, points, others | noisy({before.weight: run.outputs[before.weight]}))
    unmoved = all(same(moved.inputs[n], x) for n, x in run.inputs.items() if n != after[0].weight)
    return unmoved and same(moved.y, run.y)


def links_in(network: Network, run: Run) -> Links:
    """Of the layers of a network, by what a run of it shows."""
    links: Links = {}
    for k, layer in enumerate(network.layers):
        for before in reversed(network.layers[:k]):
            function = _function(run.outputs[before.weight], run.inputs[layer.weight])
            if function is not None:
                links.setdefault(before, ([], function))[0].append(layer)
                break
    return links


def _function(z: Tensor, x: Tensor) -> Activation | None:
    """The elementwise function that makes x from z, if one does."""
    if z.shape != x.shape or not z.numel():  # of an expert that no sample went to, nothing is known
        return None
    first_z, first_x = z.reshape(-1)[:_GLANCED], x.reshape(-1)[:_GLANCED]
    candidates = chain(map(Activation, FUNCTIONS), _sloped(first_z, first_x))
    return next((f for f in candidates if same(f(first_z), first_x) and same(f(z), x)), None)


def _sloped(z: Tensor, x: Tensor) -> Iterator[Activation]:
    """Functions of b z, with b from a single entry of z and x, (N,)."""
    for name, (size, slope) in _SLOPES.items():
        place = (z.abs() - size).abs().argmin()
        if torch.isfinite(b := slope(z[place], x[place])):
            yield Activation(name, b)


def same(a: Tensor, b: Tensor) -> bool:
    """Whether they agree, number for number; not where other samples came here, as to experts."""
    if a.shape != b.shape or not a.numel():
        return a.shape == b.shape
    return bool((a - b).abs().max() <= _SAME * b.abs().max())


def noisy(outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {n: z + size_of(z) * torch.randn(z.shape, generator=generator).double() for n, z in outputs.items()}


def size_of(z: Tensor) -> float:
    return float(z.std(correction=0)) or max(float(z.abs().max()), 1.0)
