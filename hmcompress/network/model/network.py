"""A network that can be run: a module, its dense layers in the order of computation, their names in the checkpoint."""

import copy
import math
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from hmcompress.errors import HMCompressError, NetworkError
from hmcompress.geometry import View
from hmcompress.network.model.entering import called_with, entering
from hmcompress.network.model.failures import failure
from hmcompress.network.model.kept import Kept, KeptTensor, forget, unshared
from hmcompress.network.model.outputs import flatten, tensors_in
from hmcompress.network.model.places import held
from hmcompress.network.model.product_calls import Product, by_layers
from hmcompress.network.model.shelves import Shelf, shelved

Inputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class DenseLayer:
    """A dense layer: its module's path, and the names of its weight and bias in the checkpoint."""

    path: str
    weight: str
    bias: str | None  # None: it has none, or one that is not coded with the weight

    def matrix_of(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Weight and bias as one matrix (m, n) or (m, n + 1), in their own dtype."""
        weight = tensors[self.weight]
        return weight if self.bias is None else torch.cat([weight, tensors[self.bias].reshape(-1, 1)], 1)


@dataclass(frozen=True)
class Network:
    """A module in evaluation mode with the checkpoint's tensors in it.

    `places` maps a checkpoint's name to the module's; `layers` are in the order of computation; `others` names further
    weights of the network that no second moment of an input describes (convolutions, gates, embeddings), and those of
    the `repeated` layers.
    """

    module: nn.Module
    layers: tuple[DenseLayer, ...]
    places: dict[str, str]
    kind: str  # mlp, deeponet, linear, factory or torchscript
    dtype: torch.dtype
    others: tuple[str, ...] = ()
    cartesian: bool = False
    stacks: tuple[tuple[DenseLayer, ...], ...] = ()  # runs of layers, each feeding only the next, elementwise
    widths: tuple[int, ...] | None = None  # coordinates of each input, where known
    own_gradients: bool = False  # its forward takes gradients and does not switch them on itself
    sealed: bool = False  # an operation in it has no derivative, so its outputs give no gradients
    repeated: tuple[DenseLayer, ...] = ()  # that a forward pass calls more than once
    routed: frozenset[str] = frozenset()  # layers that see some samples, other ones with other weights
    shelves: tuple[Shelf, ...] = ()  # where the module keeps some of its tensors as well
    kept: tuple[Kept | KeptTensor, ...] = ()  # that the module keeps from one call to the next, and is to forget
    written: float = 0.0  # numbers that a forward pass writes for a sample, where they were counted
    telling: Mapping[str, np.ndarray] = field(default_factory=dict)  # columns by which very wide layers are read
    products: tuple[Product, ...] = ()  # layers that the module computes from parameters of its own
    ties: Mapping[str, View] = field(default_factory=dict)  # tensors that are one with others, or a part, in the file
    of_module: tuple[DenseLayer, ...] = ()  # all dense layers, where some are not to be coded

    @property
    def built_in(self) -> bool:
        return self.kind in ("mlp", "deeponet", "linear")

    def feeding_pairs(self) -> list[tuple[DenseLayer, DenseLayer]]:
        """Pairs of layers of which the first feeds the second and nothing else, neuron by neuron."""
        return [pair for stack in self.stacks for pair in pairwise(stack)]

    def paired(self) -> "Network":
        """The same network for pairs: a cartesian DeepONet as one that takes function and point sample by sample."""
        if not self.cartesian:
            return self
        module = copy.copy(self.module)
        module.cartesian = False  # type: ignore[assignment]
        return replace(self, module=module, cartesian=False)

    def with_all_layers(self) -> "Network":
        """The same with layers that are tied to others, or that a rule keeps, among its layers."""
        return replace(self, layers=self.of_module or self.layers)

    def with_repeated(self) -> "Network":
        """The same with layers that are called more than once among its layers."""
        names = {name for layer in self.repeated for name in (layer.weight, layer.bias)}
        others = tuple(name for name in self.others if name not in names)
        return replace(self, layers=(*self.layers, *self.repeated), others=others, repeated=())

    def as_coded(self, names: Container[str]) -> "Network":
        """With those among its layers where by these names each is coded with its bias, which is not by itself."""
        coded = (x for x in self.repeated if x.weight in names and x.bias is not None)
        return self.with_repeated() if any(x.bias not in names for x in coded) else self

    @property
    def sources(self) -> dict[str | None, str | None]:
        """Of the products' weights and biases the checkpoint's names of the parameters that hold them."""
        return {p.name: p.source for p in self.products} | {p.bias_name: p.bias_source for p in self.products}

    def linear(self, layer: DenseLayer) -> nn.Linear:
        return cast(nn.Linear, self.module.get_submodule(layer.path))

    def shape(self, layer: DenseLayer) -> tuple[int, int]:
        """Outputs and inputs of a layer."""
        return cast(tuple[int, int], tuple(self.linear(layer).weight.shape))

    def read(self, layer: DenseLayer) -> int:
        """Inputs that a layer is read by: all of them, or the few that tell the others."""
        return len(self.telling.get(layer.weight, range(self.shape(layer)[1])))

    def matrix(self, layer: DenseLayer) -> Tensor:
        """Weight and bias of a layer as one matrix (m, n) or (m, n + 1), float64."""
        module = self.linear(layer)
        weight, bias = module.weight.detach().double(), module.bias
        return weight if layer.bias is None else torch.cat([weight, bias.detach().double()[:, None]], 1)

    def others_for_each(self) -> float:
        """Numbers of other weights for each of the dense layers; inf without any."""
        own, dense = own_tensors(self.module), sum(self.matrix(layer).numel() for layer in self.layers)
        others = sum(own[self.places[name]].numel() for name in self.others)
        return others / dense if dense else math.inf

    def with_tied(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """With the tensors that are tied to these, whether the module ties them itself or not."""
        tied = ((name, tie) for name, tie in self.ties.items() if tie.base in tensors)
        return {name: tie.of(tensors[tie.base].contiguous()) for name, tie in tied} | dict(tensors)

    def _state(self, tensors: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        """What replaces tensors of the module, by a place in each module that holds them: torch leaves a module changed
        where it is told two of its names. In rows, as when loaded: products of 16 bits round by layout."""
        if not tensors:
            return {}
        own, places = own_tensors(self.module), self.places
        given = {own[places[n]]: _flat(t, own[places[n]]) for n, t in self.with_tied(tensors).items() if n in places}
        return {place: given[t].to(t.dtype).contiguous() for place, t in held(self.module) if t in given}

    @contextmanager
    def holding(self, tensors: Mapping[str, Tensor] | None) -> Iterator[Callable[[Inputs], Tensor]]:
        """`call` with some tensors replaced; an archive runs with its own alone, which change meanwhile."""
        if not isinstance(self.module, torch.jit.ScriptModule):
            yield partial(self.call, tensors=tensors)
            return
        own, state = own_tensors(self.module), self._state(tensors)
        kept = {place: own[place].detach().clone() for place in state}
        try:
            for place, t in state.items():
                own[place].data.copy_(t)
            yield self.call
        finally:
            for place, t in kept.items():
                own[place].data.copy_(t)

    def run(self, inputs: Inputs, tensors: Mapping[str, Tensor] | None = None) -> Tensor:
        """Outputs as one matrix (samples, outputs); `tensors` replaces some of the checkpoint's.

        Raises NetworkError with the module's own message where it fails.
        """
        with torch.no_grad():
            return self.call(inputs, tensors).detach()  # some modules take gradients, and keep them

    def call(self, inputs: Inputs, tensors: Mapping[str, Tensor] | None = None) -> Tensor:
        """As `run`, with gradients where the caller wants them."""
        if tensors and isinstance(self.module, torch.jit.ScriptModule):
            with self.holding(tensors) as call:
                return call(inputs)
        if not self.own_gradients or torch.is_grad_enabled():
            y = flatten(self._outputs(inputs, self._state(tensors)))
            return y.detach() if self.sealed else y
        with torch.enable_grad():
            return flatten(self._outputs(inputs, self._state(tensors))).detach()

    def _outputs(self, inputs: Inputs, state: Mapping[str, Tensor]) -> object:
        """What the module itself returns. Raises NetworkError with its own message."""
        inputs = tuple(t.clone() for t in inputs)  # some modules change theirs
        forget(self.kept, self.module)
        try:
            with by_layers(self.module, self.products):
                if not state:
                    return self.module(*inputs)
                with shelved(self.module, self.shelves, self._others(state)):
                    return functional_call(self.module, unshared(state, self.kept), inputs, tie_weights=False)
        except (HMCompressError, MemoryError):
            raise
        except (Exception, SystemExit) as error:
            raise failure(error, inputs) from error

    def _others(self, state: Mapping[str, Tensor]) -> dict[Tensor, Tensor]:
        """What takes the place of each of the module's tensors, where it is needed."""
        return {t: state[place] for place, t in held(self.module) if place in state} if self.shelves else {}

    def shapes(self, inputs: Inputs) -> list[tuple[int, ...]]:
        """Of each floating tensor that the module returns."""
        with torch.set_grad_enabled(self.own_gradients):
            return [tuple(t.shape) for t in tensors_in(self._outputs(inputs, {}))]


def _flat(t: Tensor, own: Tensor) -> Tensor:
    """A tensor for a place in a module: a bias may be saved as a row."""
    return t.reshape(-1) if own.ndim == 1 else t


def own_tensors(module: nn.Module) -> dict[str, Tensor]:
    """A module's parameters and buffers by their places; those that are tied stand at each of theirs."""
    parameters, buffers = (f(remove_duplicate=False) for f in (module.named_parameters, module.named_buffers))
    return dict(parameters) | dict(buffers)


def in_double(network: Network, tensors: Mapping[str, Tensor] | None = None) -> Network:
    """As in_precision, in double precision, with some of the checkpoint's tensors changed."""
    network = in_precision(network, torch.float64)
    own = own_tensors(network.module)
    with torch.no_grad():
        for name, t in network.with_tied(tensors or {}).items():
            own[network.places[name]].copy_(_flat(t, own[network.places[name]]))
    return network


def in_precision(network: Network, dtype: torch.dtype) -> Network:
    """The same network with a module of its own in another precision. Raises NetworkError where it cannot be copied."""
    try:
        module = copy.deepcopy(network.module)
    except Exception as error:  # whatever a module holds that cannot be copied
        raise NetworkError(f"the network cannot be copied: {error}") from error

    def converted(t: Tensor) -> Tensor:
        return t.to(dtype) if t.is_floating_point() else t.to(dtype.to_complex()) if t.is_complex() else t

    before = own_tensors(module)
    module._apply(converted)
    after = own_tensors(module)
    for shelf in network.shelves:  # buffers are other ones now
        shelf.put(module, {t: after[place] for place, t in before.items()})
    return replace(network, module=module, dtype=dtype)


@contextmanager
def replaced(network: Network, forward: Callable[[DenseLayer, Tensor, Tensor], Tensor | None]) -> Iterator[None]:
    """Call `forward(layer, input, output)` at each dense layer; what it returns replaces the layer's output."""

    def hook(layer: DenseLayer) -> Callable[..., Tensor | None]:
        return lambda module, args, named, output: forward(layer, entering(args, named), output)

    handles = [network.linear(x).register_forward_hook(hook(x), with_kwargs=True) for x in network.layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def in_place_of(network: Network, forward: Callable[[DenseLayer, Tensor], Tensor]) -> Iterator[None]:
    """Call `forward(layer, input)` in place of each dense layer, whose own product is not taken."""
    modules = {network.linear(layer): layer for layer in network.layers}
    before = {module: vars(module)["forward"] for module in modules if "forward" in vars(module)}
    try:
        for module, layer in modules.items():
            vars(module)["forward"] = called_with(partial(forward, layer))  # hides that of its class
        with replaced(network, lambda layer, x, z: None):  # torch's encoders call layers only where hooks see it
            yield
    finally:
        for module in modules:
            vars(module).pop("forward", None)
            vars(module).update({"forward": before[module]} if module in before else {})


def joined(calls: Sequence[Tensor]) -> Tensor:
    """What enters or leaves a layer (N, ..., n); of several calls (N, T, n), as places of a sequence one after another.

    Raises NetworkError where these have no samples in common.
    """
    if len(calls) == 1:
        return calls[0]
    if len({len(t) for t in calls}) != 1 or min(t.ndim for t in calls) < 2:
        raise NetworkError("a layer sees different samples in each of its calls")
    return torch.cat([t.reshape(len(t), -1, t.shape[-1]) for t in calls], 1)
