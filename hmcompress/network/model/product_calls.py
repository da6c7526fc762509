"""Products of a module with matrices of its own, computed by dense layers in their place as the module runs.

Many networks hold their weights as plain parameters and write `x @ self.W + self.b`. What is known about dense layers
(their inputs, what follows them, which neurons are exchangeable) holds for these just as well, once a layer stands
where the product is taken.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

from hmcompress.network.model.calls import Call
from hmcompress.network.model.matrices import Beside, Matrix
from hmcompress.network.model.watch import Made, Watch


@dataclass(frozen=True)
class Product:
    """A dense layer at `path` that computes x W^T + b in place of the module.

    source: name in the checkpoint of the parameter that holds the matrix; turned: the matrix there is W^T. shape: of
    the parameter. bias, bias_source, bias_shape: likewise. name, bias_name: of the layer's own weight and bias.
    beside, beside_source, beside_shape: likewise of the parameter with which that makes W.
    """

    path: str
    source: str
    matrix: Matrix
    turned: bool
    shape: tuple[int, ...]
    bias: Matrix | None = None
    bias_source: str | None = None
    bias_shape: tuple[int, ...] = ()
    beside: Beside | None = None
    beside_source: str | None = None
    beside_shape: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        return self.matrix.named(self.source)

    @property
    def bias_name(self) -> str | None:
        return None if self.bias is None or self.bias_source is None else self.bias.named(self.bias_source)

    @property
    def places(self) -> tuple[str, ...]:
        """Of the module's own parameters."""
        found = self.matrix.place, self.bias and self.bias.place, self.beside and self.beside.place
        return tuple(place for place in found if place)

    def weight(self, tensors: Mapping[str, Tensor], by_place: bool = True) -> Tensor:
        """W (m, n) from the parameters by place, or by name; kernels of one place are matrices too."""
        held = tensors[self.matrix.place if by_place else self.source]
        if self.beside is not None:
            other = self.beside.place if by_place else str(self.beside_source)
            return self.beside.weight(held, tensors[other], self.turned)
        return self.matrix.of(held).T if self.turned else self.matrix.of(held)


class _ByLayers(Watch):
    """Products are those of layers, which add their biases at once."""

    def __init__(self, module: nn.Module, products: Sequence[Product]) -> None:
        super().__init__({place: tensor_at(module, place) for p in products for place in p.places})
        self._layers = {p.matrix: (p, module.get_submodule(p.path)) for p in products}
        self._pairs = {frozenset((p.matrix.place, p.beside.place)): p for p in products if p.beside is not None}

    def product(self, call: Call, own: Callable[[], Tensor]) -> Tensor:
        if call.matrix not in self._layers:  # a bias by which something is multiplied
            return own()
        product, layer = self._layers[call.matrix]
        if (product.turned, product.beside) != (call.turned, call.beside):
            return own()
        z = call.leave(layer(call.x))
        return call.with_bias(z) if product.bias is None else z

    def made(self, w: Tensor, places: frozenset[str]) -> Made | None:
        p = self._pairs.get(places)
        return None if p is None or p.beside is None else Made(p.matrix, p.turned, p.beside)

    def sum(self, calls: Sequence[Call], biases: Sequence[Matrix], z: Tensor, own: Callable[[], Tensor]) -> Tensor:
        known = (self._layers.get(call.matrix) for call in calls)
        added = (p is not None and p[0].bias == bias for p, bias in zip(known, biases, strict=True))
        return z if all(added) else own()


@contextmanager
def by_layers(module: nn.Module, products: Sequence[Product]) -> Iterator[None]:
    """The layers of these products are used meanwhile, where the module takes them."""
    if not products:
        yield
        return
    with _ByLayers(module, products):
        yield


def tensor_at(module: nn.Module, place: str) -> Tensor:
    """A parameter or buffer by its place."""
    *path, name = place.split(".")
    for step in path:
        module = cast(nn.Module, module._modules[step])  # get_submodule finds no part that is called as a method is
    t = getattr(module, name)
    assert isinstance(t, Tensor)
    return t
