"""Dense layers for the products that a module takes with parameters of its own: found by running it."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from hmcompress.errors import NetworkError
from hmcompress.network.model.build import filled
from hmcompress.network.model.inputs import Points
from hmcompress.network.model.matrices import Matrix
from hmcompress.network.model.network import DenseLayer, Inputs, Network, own_tensors
from hmcompress.network.model.order import in_order_of_computation
from hmcompress.network.model.product_calls import Product, tensor_at
from hmcompress.network.model.recording import SAME, Calls, are_same, recorded
from hmcompress.network.model.routed import with_routed

T = TypeVar("T")

_PROBED = 4  # samples
_MOST, _FEWEST = 64, 64  # matrices of a parameter; numbers of one that holds several: each has a header to pay for

_Group = tuple[Product, ...]  # with all matrices of one parameter


def with_products(
    network: Network, points: Points, but: Callable[[str, Tensor], bool], apart: Set[str] | None = frozenset()
) -> Network:
    """The same network with those of its parameters among its layers that it multiplies activations by.

    Its module is given these layers too. but: whether a weight (m, n) of some name is to stay among the others. What is
    used in another way as well, so that outputs would be others, stays there. So do, of weights that two parameters
    make, those of the names `apart`; None: all of these.
    """
    if network.kind != "factory" or isinstance(network.module, torch.jit.ScriptModule):
        return network
    few, others = (points.take(slice(k, k + _PROBED)).tensors for k in (0, _PROBED))
    own, places = own_tensors(network.module), network.places
    single = own.keys() if apart is None else {places[name] for name in apart & places.keys()}
    try:
        seen = recorded(network, few, single)
        shared = {place for place, users in _users(seen).items() if users > 1}
        seen = recorded(network, few, single | shared) if shared - single else seen
        groups = _products(network, seen, recorded(network, others, single | shared))
        found = [g for g in groups if not any(but(p.name, p.weight(own)) for p in g)]
        return _adopted(network, found, few) if found else network
    except NetworkError:
        return network


def canonical(network: Network, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of the checkpoint as the network's layers take them: weights (m, n) and biases (m,)."""
    found = dict(tensors)
    for p in network.products:
        if p.source in tensors and (p.beside is None or p.beside_source in tensors):
            for name in (p.source, p.beside_source):
                found.pop(str(name), None)
            found[p.name] = p.weight(tensors, by_place=False).contiguous()
        if p.bias is not None and p.bias_source in tensors:
            found.pop(str(p.bias_source), None)
            found[str(p.bias_name)] = p.bias.of(tensors[str(p.bias_source)]).reshape(-1)
    return found


def _products(network: Network, seen: Calls, others: Calls) -> Iterator[_Group]:
    """Of weights that are always used in the same way, on what samples change; a bias that several share stays."""
    names, own = {place: name for name, place in network.places.items()}, own_tensors(network.module)
    groups, users = defaultdict[str, Calls](dict), _users(seen)
    for matrix, calls in sorted(seen.items(), key=lambda item: item[0].index):
        groups[matrix.place][matrix] = calls
    for place, found in groups.items():
        if names[place] not in network.others or not isinstance(own[place], nn.Parameter) or not _are_alike(found):
            continue
        if any(are_same(calls, others.get(matrix, [])) for matrix, calls in found.items()):
            continue
        if len(found) > 1 and own[place].numel() < _FEWEST:
            continue
        yield _group(network, found, users)


def _users(seen: Calls) -> Counter[str]:
    """How many parameters are multiplied by, or each is a bias or makes weights of."""
    pairs = {(matrix.place, place) for matrix, calls in seen.items() for call in calls for place in call.places}
    return Counter(place for _, place in pairs) + Counter({matrix.place for matrix in seen})


def _group(network: Network, found: Calls, users: Mapping[str, int]) -> _Group:
    names, own = {place: name for name, place in network.places.items()}, own_tensors(network.module)
    first = next(iter(found))
    beside = found[first][0].beside
    held = Product("", names[first.place], first, found[first][0].turned, tuple(own[first.place].shape))
    if beside is not None:
        shape = tuple(own[beside.place].shape)
        held = replace(held, beside=beside, beside_source=names[beside.place], beside_shape=shape)
    group = tuple(replace(held, path=_path_for(network, m), matrix=m) for m in found)
    biases = tuple(_only(call.bias for call in calls) for calls in found.values())
    own_biases = all(b is not None and users[b.place] == 1 for b in biases) and _belong(group, biases, own)
    return tuple(map(partial(_with_bias, names, own), group, biases)) if own_biases else group


def _with_bias(names: Mapping[str, str], own: Mapping[str, Tensor], product: Product, bias: Matrix) -> Product:
    return replace(product, bias=bias, bias_source=names[bias.place], bias_shape=tuple(own[bias.place].shape))


def _are_alike(found: Calls) -> bool:
    """Whether all matrices of a parameter are seen, none by itself that is a part of another one, used in one way."""
    calls, first = [call for each in found.values() for call in each], next(iter(found))
    whole = {replace(first, index=k) for k in range(min(first.count, _MOST + 1))}
    return (
        found.keys() == whole
        and len(whole) <= _MOST
        and len({(c.turned, c.beside) for c in calls}) == 1
        and all(c.x is not None for c in calls)
    )


def _only(of: Iterable[T]) -> T | None:
    """What all are, where they are the same."""
    found = set(of)
    return found.pop() if len(found) == 1 else None


def _belong(group: _Group, biases: Sequence[Matrix | None], own: Mapping[str, Tensor]) -> bool:
    """Whether biases have a number for each row, and lie as the matrices do, all that a parameter has."""
    first = group[0].matrix
    rows = len(group[0].weight(own))
    wanted = [(rows, first.count, p.matrix.index) for p in group]
    found = [(b.rows, b.count, b.index) for b in biases if b is not None]
    places = {b.place for b in biases if b is not None}
    return found == wanted and len(places) == 1 and own[places.pop()].dtype == own[first.place].dtype


def _path_for(network: Network, matrix: Matrix) -> str:
    """Of a layer beside a parameter, or in the whole module where that lies in a part called as a method is."""
    path, dot, name = matrix.place.rpartition(".")
    if any(hasattr(nn.Module, step) for step in path.split(".")):
        path, dot, name = "", "", matrix.place.replace(".", "_")
    taken = vars(network.module.get_submodule(path))["_modules"]
    own = f"{name}_as_dense" if matrix.count == 1 else f"{name}_{matrix.index}_as_dense"
    while own in taken:
        own += "_"
    return f"{path}{dot}{own}"


def _adopted(network: Network, groups: Sequence[_Group], few: Inputs) -> Network:
    """The network with layers for these products; without those whose parameters it uses in another way as well."""
    y = network.run(few)
    adopted = _computing(network, groups, few, y)
    if adopted is None:
        alone = [g for g in groups if _computing(network, [g], few, y, stay=False) is not None]
        adopted = _computing(network, alone, few, y) if alone else None
    return network if adopted is None else with_routed(adopted, few)


def _computing(network: Network, groups: Sequence[_Group], few: Inputs, y: Tensor, stay: bool = True) -> Network | None:
    """The network with these layers, if it computes y; else, or where they are not to stay, its module is as before."""
    products = [p for group in groups for p in group]
    adopted = _with_layers(network, products)
    try:
        with _without(network, products):
            same = bool((adopted.run(few) - y).abs().max() <= SAME * y.abs().max())
        ordered = in_order_of_computation(adopted, few)
        same = same and all(_are_together(ordered, group) for group in groups)
    except NetworkError:
        same = False
    if not (same and stay):
        for p in products:
            path, _, name = p.path.rpartition(".")
            del network.module.get_submodule(path)._modules[name]
    return ordered if same else None


def _are_together(network: Network, group: _Group) -> bool:
    """Whether all are called once, or none is: a file holds biases with all matrices of a parameter, or with none."""
    once = {layer.weight for layer in network.layers}
    return len({p.name in once for p in group}) == 1


def _with_layers(network: Network, products: Sequence[Product]) -> Network:
    own, layers = own_tensors(network.module), list[DenseLayer]()
    places, network = dict(network.places), network.with_repeated()
    for p in products:
        path, _, name = p.path.rpartition(".")
        bias = None if p.bias is None else p.bias.of(own[p.bias.place]).reshape(-1)
        layer = filled(p.weight(own), bias)
        network.module.get_submodule(path).add_module(name, layer.eval())
        layers.append(DenseLayer(p.path, p.name, p.bias_name))
        places |= {p.name: f"{p.path}.weight"} | ({p.bias_name: f"{p.path}.bias"} if p.bias_name else {})
    dense = {name for p in products for name in (p.source, p.bias_source, p.beside_source)}
    others = tuple(name for name in network.others if name not in dense)
    return replace(network, layers=(*network.layers, *layers), others=others, places=places, products=tuple(products))


@contextmanager
def _without(network: Network, products: Sequence[Product]) -> Iterator[None]:
    """No numbers in the module's own parameters meanwhile: what uses them beside these products shows it."""
    tensors = [tensor_at(network.module, place) for place in {place for p in products for place in p.places}]
    before = [t.detach().clone() for t in tensors]
    with torch.no_grad():
        try:
            for t in tensors:
                t.fill_(torch.nan)
            yield
        finally:
            for t, kept in zip(tensors, before, strict=True):
                t.copy_(kept)
