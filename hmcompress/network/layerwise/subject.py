"""A network that is being compressed, with all that every stage of the search needs."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from hmcompress.errors import NetworkError
from hmcompress.network.bound.kernel_bound import TangentBound
from hmcompress.network.bound.problem import Problem
from hmcompress.network.layerwise.guard import Guard
from hmcompress.network.layerwise.original import Original, prepare
from hmcompress.network.layerwise.propagate import Parts, decoded
from hmcompress.network.layerwise.trial import Measure
from hmcompress.network.model.network import DenseLayer, Network, own_tensors
from hmcompress.work.progress import Progress

_WORTH = 0.8  # share of living neurons from which leaving out the others gains nothing


@dataclass(frozen=True)
class Subject:
    """A posed network, its tensors, what passes need of it, and points that nothing is chosen by."""

    problem: Problem
    tensors: Mapping[str, Tensor]
    data: Original
    guard: Guard
    progress: Progress

    @classmethod
    def of(
        cls,
        problem: Problem,
        tensors: Mapping[str, Tensor],
        tol: float,
        effort: str,
        progress: Progress,
        standing: Mapping[str, Tensor] | None = None,
    ) -> "Subject":
        """standing: what weights that are coded already decode to. Raises NetworkError for weights without effect."""
        data = replace(prepare(problem, tensors, effort), standing=standing or {})
        return cls(problem, tensors, data, Guard.of(problem, data, tol), progress)

    def decoded(self, parts: Parts) -> dict[str, Tensor]:
        """The tensors that coded parts stand for."""
        return decoded(self.problem.network, self.data, parts)

    def measure(self, tol: float, kernel: TangentBound | None) -> Measure:
        """The error in units of tol; where the kernel is bounded too, whichever is further from its bound."""
        measured = self.measure_of_tensors(tol, kernel)
        return lambda parts: measured(self.decoded(parts))

    def measure_of_tensors(self, tol: float, kernel: TangentBound | None) -> Callable[[Mapping[str, Tensor]], float]:
        """The same of the tensors that replace the network's."""

        def measured(held: Mapping[str, Tensor]) -> float:
            held = {**self.data.standing, **held}
            try:
                error = max(self.problem.errors(self.problem.held_out, narrowed(self.problem.network, held)))
                return error if kernel is None else max(error, tol * kernel.error(held) / kernel.tol)
            except NetworkError:  # the original ran on these points
                return math.inf

        return measured


def narrowed(network: Network, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors with only those rows and columns of layers that matter, as the modules built here take them: the
    network computes the same in a part of the time.

    tensors: weights and biases by name. Those of other modules come back as they are: these may know their own widths.
    """
    narrow, fixed = dict(tensors), _fixed_widths(network)
    for first, second in network.feeding_pairs() if network.built_in else ():
        read = narrow[second.weight].ne(0).any(0) if {first.weight, second.weight} <= narrow.keys() else None
        if read is None or len(read) in fixed or int(read.sum()) > _WORTH * len(read):
            continue
        narrow[second.weight] = narrow[second.weight][:, read]
        narrow |= {name: narrow[name][read] for name in _own_names(first)}
    return narrow


def _own_names(layer: DenseLayer) -> tuple[str, ...]:
    return (layer.weight,) if layer.bias is None else (layer.weight, layer.bias)


def _fixed_widths(network: Network) -> set[int]:
    """Of what does not grow narrower with its layer: slopes of single neurons, biases that are not coded."""
    narrow = {network.places[name] for layer in network.layers for name in _own_names(layer)}
    return {t.shape[-1] for place, t in own_tensors(network.module).items() if t.ndim and place not in narrow}
