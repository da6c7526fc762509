"""Slim networks: neurons that nothing reads are taken out, constant ones are folded into the next bias.

The outputs metric leaves many neurons with an all-zero outgoing column, or an all-zero row, and then the layers are
larger than what they compute. Taking these neurons out changes no output beyond the order of a sum.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from types import EllipsisType

import torch
from torch import Tensor, nn

from hmcompress.network.model.modules import ELEMENTWISE, Activation, OperatorNetwork, Stack


@dataclass(frozen=True)
class Sizes:
    """Neurons of each layer of a chain, inputs first, before and after."""

    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True)
class Elementwise:
    """Functions of one layer's outputs, one after the other."""

    functions: tuple[nn.Module, ...]

    def __call__(self, x: Tensor) -> Tensor:
        for function in self.functions:
            if not isinstance(function, nn.Dropout):
                x = function(x)
        return x

    def keep(self, alive: Tensor) -> None:
        """Keep the slopes of some neurons, where each has its own."""
        for function in self.functions:
            slope = function.slope if isinstance(function, Activation) else None
            if slope is not None and slope.numel() > 1:
                function.slope = _part(slope, (..., alive))


@dataclass(frozen=True)
class ModuleChain:
    """Dense layers each of which feeds the next only, through elementwise functions: between[k] follows layers[k]."""

    layers: tuple[nn.Linear, ...]
    between: tuple[Elementwise, ...]

    def sizes(self) -> tuple[int, ...]:
        """Inputs of the first layer, then outputs of each."""
        return (self.layers[0].in_features, *(layer.out_features for layer in self.layers))


def slim_module(module: nn.Module) -> list[Sizes]:
    """Take dead and constant neurons out of every chain of dense layers in a module, in place; their sizes.

    Chains are found in torch.nn.Sequential (dense layers with elementwise functions between them) and in the built-in
    networks. Inputs and outputs of a chain stay as they are.
    """
    chains = list(module_chains(module))
    before = [chain.sizes() for chain in chains]
    for chain in chains:
        slim_chain(chain)
    for operator in (m for m in module.modules() if isinstance(m, OperatorNetwork)):
        _slim_product(operator)
    for chain in chains:
        slim_chain(chain)
    return [Sizes(old, chain.sizes()) for old, chain in zip(before, chains, strict=True)]


def module_chains(module: nn.Module) -> Iterator[ModuleChain]:
    """The chains of dense layers in a module, in its order."""
    for part in module.modules():
        if isinstance(part, Stack):
            yield from _split(part.steps())
        elif type(part) is nn.Sequential:
            yield from _split(part)


def _split(steps: Iterable[nn.Module]) -> Iterator[ModuleChain]:
    """The longest runs of dense layers with nothing but elementwise functions between them."""
    run: list[nn.Linear] = []
    functions: list[list[nn.Module]] = []
    for step in [*steps, None]:
        if type(step) is nn.Linear:
            run.append(step)
            functions.append([])
        elif isinstance(step, ELEMENTWISE) and run:
            functions[-1].append(step)
        else:
            if len(run) > 1:
                yield ModuleChain(tuple(run), tuple(Elementwise(tuple(steps)) for steps in functions[:-1]))
            run, functions = [], []


@torch.no_grad()
def slim_chain(chain: ModuleChain) -> None:
    """Take dead and constant neurons out of a chain, until none is left."""
    size = None
    while size != chain.sizes():
        size = chain.sizes()
        links = list(zip(pairwise(chain.layers), chain.between, strict=True))
        for (layer, following), function in reversed(links):
            _keep(layer, function, following, following.weight.ne(0).any(0))
        for (layer, following), function in links:
            _fold(layer, following, function)


def _fold(layer: nn.Linear, following: nn.Linear, function: Elementwise) -> None:
    """Constant neurons of a layer become part of the next layer's bias, where it has one or needs none."""
    constant = layer.weight.eq(0).all(1)
    bias = torch.zeros_like(layer.weight[:, 0]) if layer.bias is None else layer.bias
    value = function(bias.double()).to(bias.dtype)
    if following.bias is None:
        constant &= value.eq(0)
    else:
        folded = following.weight[:, constant].double() @ value[constant].double()
        following.bias.add_(folded.to(bias.dtype))
    following.weight[:, constant] = 0  # one of them may stay
    _keep(layer, function, following, ~constant)


def _keep(layer: nn.Linear, function: Elementwise, following: nn.Linear, alive: Tensor) -> None:
    """Keep some neurons of a layer: its rows, and the columns of the next. One stays, so that no layer is empty."""
    if bool(alive.all()):
        return
    if not bool(alive.any()):
        if layer.out_features == 1:
            return
        alive = torch.arange(len(alive), device=alive.device) == 0
    _keep_rows(layer, alive)
    function.keep(alive)
    following.weight = _part(following.weight, (slice(None), alive))
    following.in_features = following.weight.shape[1]
    if following.bias is not None:  # decoded with the weight, it would hold the memory of all its columns
        following.bias = nn.Parameter(following.bias.detach().clone(), following.bias.requires_grad)


def _keep_rows(layer: nn.Linear, alive: Tensor) -> None:
    layer.weight = _part(layer.weight, alive)
    if layer.bias is not None:
        layer.bias = _part(layer.bias, alive)
    layer.out_features = layer.weight.shape[0]


def _part(parameter: Tensor, index: Tensor | tuple[slice | EllipsisType, Tensor]) -> nn.Parameter:
    return nn.Parameter(parameter.detach()[index].clone(), parameter.requires_grad)


@torch.no_grad()
def _slim_product(operator: OperatorNetwork) -> None:
    """Terms of the inner product of branch and trunk that are zero for every input."""
    stacks = (operator.branch, operator.trunk)
    alive = ~(_always_zero(stacks[0]) | _always_zero(stacks[1]))
    if bool(alive.all()) or not bool(alive.any()):
        return
    for stack in stacks:
        last = stack.layers[-1]
        assert isinstance(last, nn.Linear)
        _keep_rows(last, alive)
        if stack.last:
            Elementwise((stack.activations[-1],)).keep(alive)


def _always_zero(stack: Stack) -> Tensor:
    """Which outputs of a stack are zero whatever the input."""
    last = stack.layers[-1]
    assert isinstance(last, nn.Linear)
    bias = torch.zeros_like(last.weight[:, 0]) if last.bias is None else last.bias
    after: list[nn.Module] = list(stack.activations.children())
    value = after[-1](bias) if stack.last else bias
    return last.weight.eq(0).all(1) & value.eq(0)
