"""Dense layers for the products that a module takes with parameters of its own: found by running it."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor

from hmcompress.errors import NetworkError
from hmcompress.network.model.build import filled
from hmcompress.network.model.inputs import Points
from hmcompress.network.model.network import DenseLayer, Inputs, Network, own_tensors
from hmcompress.network.model.order import in_order_of_computation
from hmcompress.network.model.product_calls import Call, Product, Watch, tensor_at
from hmcompress.network.model.routed import with_routed

_PROBED = 4  # samples
_SAME = 1e-4  # share of the largest output up to which outputs are the same, where sums are taken in another order


@dataclass
class _Seen:
    """One product that was taken: of what, None inside torch.func transforms, whether with W^T, and which bias came."""

    x: Tensor | None
    turned: bool
    bias: str | None


_Calls = dict[str, list[_Seen]]  # by the place of the weight


class _Recording(Watch):
    """Notes products, and leaves all as it is."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(tensors)
        self.seen: _Calls = {}
        self._of: dict[int, _Seen] = {}

    def product(self, call: Call, own: Callable[[], Tensor]) -> Tensor:
        x = None if is_functorch_wrapped_tensor(call.x) else call.x.detach().clone()
        seen = _Seen(x, call.turned, self.place_of(call.bias) if call.after is None else None)
        self.seen.setdefault(call.place, []).append(seen)
        self._of[id(call)] = seen
        return own()

    def sum(self, call: Call, bias: str, z: Tensor, own: Callable[[], Tensor]) -> Tensor:
        seen = self._of[id(call)]
        if call.bias is None and call.after is None and seen.bias is None:
            seen.bias = bias
        return own()


def with_products(network: Network, points: Points, but: Callable[[str, Tensor], bool]) -> Network:
    """The same network with those of its parameters among its layers that it multiplies activations by.

    Its module is given these layers too. but: whether a weight (m, n) of some name is to stay among the others. What is
    used in another way as well, so that outputs would be others, stays there.
    """
    if network.kind != "factory" or isinstance(network.module, torch.jit.ScriptModule):
        return network
    few, others = (points.take(slice(k, k + _PROBED)).tensors for k in (0, _PROBED))
    try:
        seen = _products(network, _recorded(network, few), _recorded(network, others))
        found = tuple(p for p in seen if not but(p.name, p.matrix(tensor_at(network.module, p.place))))
        return _adopted(network, found, few) if found else network
    except NetworkError:
        return network


def canonical(network: Network, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of the checkpoint as the network's layers take them: weights (m, n) and biases (m,)."""
    found = dict(tensors)
    for p in network.products:
        if p.name in tensors:
            found[p.name] = p.matrix(tensors[p.name]).contiguous()
        if p.bias is not None and p.bias in tensors:
            found[p.bias] = tensors[p.bias].reshape(-1)
    return found


def _recorded(network: Network, few: Inputs) -> _Calls:
    own = own_tensors(network.module)
    counts = Counter(map(id, own.values()))
    alone = {p: own[p] for p in network.places.values() if p in own and counts[id(own[p])] == 1}
    with _Recording({place: t for place, t in alone.items() if t.is_floating_point()}) as recording:
        network.run(few)
    return recording.seen


def _products(network: Network, seen: _Calls, others: _Calls) -> Iterator[Product]:
    """Of weights that are always used in the same way, on what samples change; a bias that several share stays."""
    names, own = {place: name for name, place in network.places.items()}, own_tensors(network.module)
    biases = Counter(bias for calls in seen.values() for bias in {call.bias for call in calls} if bias is not None)
    for place, calls in seen.items():
        used = len({call.turned for call in calls})
        if names[place] not in network.others or used > 1 or not isinstance(own[place], nn.Parameter):
            continue
        if any(call.x is None for call in calls) or _are_same(calls, others.get(place, [])):
            continue
        path, shape = _path_for(network, place), tuple(own[place].shape)
        product = Product(path, names[place], place, calls[0].turned, shape)
        bias = calls[0].bias if len({call.bias for call in calls}) == 1 else None
        if bias is not None and biases[bias] == 1 and _fits(product.matrix(own[place]), own[bias]):
            product = replace(product, bias=names[bias], bias_place=bias, bias_shape=tuple(own[bias].shape))
        yield product


def _are_same(calls: list[_Seen], others: list[_Seen]) -> bool:
    """Whether products are of the same numbers, as those of weights are."""
    pairs = ((one.x, other.x) for one, other in zip(calls, others, strict=False))
    same = all(x is not None and y is not None and torch.equal(x, y) for x, y in pairs)
    return same and len(calls) == len(others)


def _path_for(network: Network, place: str) -> str:
    """Of a layer beside a parameter, or in the whole module where that lies in a part called as a method is."""
    path, dot, name = place.rpartition(".")
    if any(hasattr(nn.Module, step) for step in path.split(".")):
        path, dot, name = "", "", place.replace(".", "_")
    taken = vars(network.module.get_submodule(path))["_modules"]
    own = f"{name}_as_dense"
    while own in taken:
        own += "_"
    return f"{path}{dot}{own}"


def _fits(matrix: Tensor, bias: Tensor) -> bool:
    return bias.numel() == len(matrix) and bias.dtype == matrix.dtype


def _adopted(network: Network, products: tuple[Product, ...], few: Inputs) -> Network:
    """The network with layers for these products; without those whose parameters it uses in another way as well."""
    y = network.run(few)
    adopted = _computing(network, products, few, y)
    if adopted is None:
        alone = tuple(p for p in products if _computing(network, (p,), few, y, stay=False) is not None)
        adopted = _computing(network, alone, few, y) if alone else None
    return network if adopted is None else with_routed(in_order_of_computation(adopted, few), few)


def _computing(
    network: Network, products: tuple[Product, ...], few: Inputs, y: Tensor, stay: bool = True
) -> Network | None:
    """The network with these layers, if it computes y; else, or where they are not to stay, its module is as before."""
    adopted = _with_layers(network, products)
    try:
        with _without(network, products):
            same = bool((adopted.run(few) - y).abs().max() <= _SAME * y.abs().max())
    except NetworkError:
        same = False
    if not (same and stay):
        for p in products:
            path, _, name = p.path.rpartition(".")
            del network.module.get_submodule(path)._modules[name]
    return adopted if same else None


def _with_layers(network: Network, products: tuple[Product, ...]) -> Network:
    own, layers = own_tensors(network.module), list[DenseLayer]()
    places, network = dict(network.places), network.with_repeated()
    for p in products:
        path, _, name = p.path.rpartition(".")
        bias = None if p.bias_place is None else own[p.bias_place]
        layer = filled(p.matrix(own[p.place]), bias)
        network.module.get_submodule(path).add_module(name, layer.eval())
        layers.append(DenseLayer(p.path, p.name, p.bias))
        places |= {p.name: f"{p.path}.weight"} | ({p.bias: f"{p.path}.bias"} if p.bias else {})
    dense = {name for layer in layers for name in (layer.weight, layer.bias)}
    others = tuple(name for name in network.others if name not in dense)
    return replace(network, layers=(*network.layers, *layers), others=others, places=places, products=products)


@contextmanager
def _without(network: Network, products: tuple[Product, ...]) -> Iterator[None]:
    """No numbers in the module's own parameters meanwhile: what uses them beside these products shows it."""
    places = (place for p in products for place in (p.place, p.bias_place) if place)
    tensors = [tensor_at(network.module, place) for place in places]
    before = [t.detach().clone() for t in tensors]
    with torch.no_grad():
        try:
            for t in tensors:
                t.fill_(torch.nan)
            yield
        finally:
            for t, kept in zip(tensors, before, strict=True):
                t.copy_(kept)
