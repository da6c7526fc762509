"""Products of a module with matrices of its own, computed by dense layers in their place as the module runs.

Many networks hold their weights as plain parameters and write `x @ self.W + self.b`. What is known about dense layers
(their inputs, what follows them, which neurons are exchangeable) holds for these just as well, once a layer stands
where the product is taken.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.overrides import TorchFunctionMode

from hmcompress.network.model.contractions import contractions

_PRODUCTS = {"matmul", "mm", "__matmul__"}
_SUMS = {"add", "__add__", "__radd__", "add_", "__iadd__"}
_TIMES, _OVER = {"mul", "multiply", "__mul__", "__rmul__"}, {"div", "divide", "true_divide", "__truediv__"}
_CONVOLUTIONS = {"conv1d": 1, "conv2d": 2, "conv3d": 3}
_RECENT = 8  # products to which a bias may still be added


@dataclass(frozen=True)
class Product:
    """A dense layer at `path` that computes x W^T + b in place of the module.

    name, bias: in the checkpoint. place, bias_place: of the module's own parameters. turned: the parameter is W^T.
    shape, bias_shape: of these.
    """

    path: str
    name: str
    place: str
    turned: bool
    shape: tuple[int, ...]
    bias: str | None = None
    bias_place: str | None = None
    bias_shape: tuple[int, ...] = ()

    def matrix(self, weight: Tensor) -> Tensor:
        """W (m, n) from the parameter; kernels of one place are matrices too."""
        return weight.T if self.turned else weight.flatten(1)


@dataclass(frozen=True)
class Call:
    """One product, of x (..., n) with W (n, m), and what makes the module's result from that.

    axis: of the result, from its end, along which neurons lie. bias: what the same call adds; kernel: along that axis,
    as convolutions do. after: what each neuron is multiplied by.
    """

    place: str
    turned: bool
    x: Tensor
    axis: int = -1
    bias: Tensor | None = None
    kernel: bool = False
    after: Tensor | None = None

    def leave(self, z: Tensor) -> Tensor:
        """z (..., m) as the module's own call returns it."""
        z = z if self.after is None else z * self.after
        return z if self.axis == -1 else z.movedim(-1, self.axis).contiguous()

    def with_bias(self, z: Tensor) -> Tensor:
        """The module's result z with what the same call adds."""
        if self.bias is None:
            return z
        return z + (self.bias.reshape(-1, *[1] * (-1 - self.axis)) if self.kernel else self.bias)


@dataclass(frozen=True)
class _View:
    """A tensor that shows a known one, as it is or turned, times a number or one for each of its rows and columns."""

    tensor: Tensor
    place: str
    turned: bool = False
    rows: Tensor | float = 1.0
    cols: Tensor | float = 1.0

    @property
    def is_plain(self) -> bool:
        return not (self.turned or _scales(self.rows) or _scales(self.cols))


class Watch(TorchFunctionMode):
    """Sees products of some tensors, by their places, and sums of these products with others of them."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._views = {id(t): _View(t, place) for place, t in tensors.items()}
        self._recent: deque[tuple[Tensor, Call]] = deque(maxlen=_RECENT)

    def product(self, call: Call, own: Callable[[], Tensor]) -> Tensor:
        """What the product is; own: as the module takes it."""
        raise NotImplementedError

    def sum(self, call: Call, bias: str, z: Tensor, own: Callable[[], Tensor]) -> Tensor:
        """What z is, which the call gave, with the bias at that place."""
        raise NotImplementedError

    def place_of(self, t: object) -> str | None:
        """Of the tensor itself, or of a view of it as it is."""
        view = self._views.get(id(t))
        return view.place if view is not None and view.is_plain else None

    def __torch_function__(
        self, func: Callable, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        def own() -> Any:
            return func(*args, **(kwargs or {}))

        name = getattr(func, "__name__", "")
        call = self._call(name, args, kwargs or {})
        if call is not None:
            z = self.product(call, own)
            self._recent.append((z, call))
            return z
        for z, call, bias in self._sums(name, args, kwargs or {}):
            total = self.sum(call, bias, z, own)
            self._recent.append((total, call))
            return total
        out = own()
        if args and isinstance(out, Tensor):
            self._note(args[0], out)
            self._note_multiple(name, args, out)
        return out

    def _note(self, t: object, out: Tensor) -> None:
        """A view of a known tensor is known too, as it is or turned."""
        known = self._views.get(id(t))
        if known is None or id(out) in self._views or out.layout != torch.strided or is_functorch_wrapped_tensor(out):
            return
        if out.data_ptr() != known.tensor.data_ptr():
            return
        assert isinstance(t, Tensor)
        if out.shape == t.shape and out.stride() == t.stride() and out.dtype == known.tensor.dtype:
            self._views[id(out)] = replace(known, tensor=out)
        elif t.ndim == 2 and (out.shape, out.stride()) == (t.shape[::-1], t.stride()[::-1]):
            turned = replace(known, tensor=out, turned=not known.turned)
            self._views[id(out)] = replace(turned, rows=known.cols, cols=known.rows)

    def _note_multiple(self, name: str, args: Sequence[Any], out: Tensor) -> None:
        """So is a known matrix times a number, or one for each row or column: a layer's inputs or outputs get these."""
        if name not in _TIMES | _OVER or len(args) != 2 or is_functorch_wrapped_tensor(out):
            return
        for t, other in (args,) if name in _OVER else (args, args[::-1]):
            known = self._views.get(id(t))
            if known is None or known.tensor.ndim != 2 or out.shape != t.shape or id(out) in self._views:
                continue
            rows, cols = _factors(other, t.shape)
            if rows is not None and cols is not None:
                if name in _OVER:
                    rows, cols = 1 / rows, 1 / cols
                self._views[id(out)] = replace(known, tensor=out, rows=known.rows * rows, cols=known.cols * cols)

    def _call(self, name: str, args: Sequence[Any], named: Mapping[str, Any]) -> Call | None:
        if name == "linear":
            x, w, b = _bound(("input", "weight", "bias"), args, named)
            return self._times(x, w, b, columns=False)
        if name in _CONVOLUTIONS:
            return self._kernel(_CONVOLUTIONS[name], args, named)
        if name in ("einsum", "tensordot"):
            return self._contracted(name, args, named)
        if named or len(args) != 2 + (name == "addmm") or name not in _PRODUCTS | {"addmm"}:
            return None
        bias = args[0] if name == "addmm" else None
        first, second = args[-2:]
        return self._times(first, second, bias) or self._turned(self._times(_turned(second), first, bias, False))

    def _times(self, x: Any, w: Any, bias: Tensor | None = None, columns: bool = True) -> Call | None:
        """x W, or x W^T; None where W is not known, or is no matrix."""
        known = self._views.get(id(w))
        if known is None or known.tensor.ndim != 2 or not isinstance(x, Tensor) or id(x) in self._views:
            return None
        before, after = (known.rows, known.cols) if columns else (known.cols, known.rows)
        each = after if isinstance(after, Tensor) and after.ndim else None
        before = before * after if each is None else before
        x = x * before if _scales(before) else x
        return Call(known.place, known.turned != columns, x, -1, bias, after=each)

    def _turned(self, call: Call | None) -> Call | None:
        """The product whose result has its neurons along rows."""
        return None if call is None else replace(call, axis=-2)

    def _contracted(self, name: str, args: Sequence[Any], named: Mapping[str, Any]) -> Call | None:
        """The product that a sum over one axis is."""
        for found in contractions(name, args, named):
            call = self._times(found.x.permute(found.order), found.w, columns=found.columns)
            if call is not None:
                return replace(call, axis=found.axis)
        return None

    def _kernel(self, axes: int, args: Sequence[Any], named: Mapping[str, Any]) -> Call | None:
        """A convolution whose kernel sees one place."""
        parts = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
        x, w, b, stride, padding, _, groups = _bound(parts, args, named)
        place = self.place_of(w)
        if place is None or x.ndim != axes + 2 or w.shape[2:].numel() != 1 or groups not in (None, 1):
            return None
        if not _all_are(stride, (None, 1)) or not _all_are(padding, (None, 0, "same", "valid")):
            return None
        return Call(place, False, x.movedim(1, -1), -1 - axes, b, kernel=True)

    def _sums(self, name: str, args: Sequence[Any], named: Mapping[str, Any]) -> Iterator[tuple[Tensor, Call, str]]:
        """The product, its call and the place of the bias, where a sum is of these."""
        if named or len(args) != 2 or name not in _SUMS:
            return
        for z, b in (args,) if name in ("add_", "__iadd__") else (args, args[::-1]):
            place, call = self.place_of(b), next((call for known, call in self._recent if known is z), None)
            if place is not None and call is not None and _lies_along(b, z, call.axis):
                yield z, call, place


class _ByLayers(Watch):
    """Products are those of layers, which add their biases at once."""

    def __init__(self, module: nn.Module, products: Sequence[Product]) -> None:
        own = {place: tensor_at(module, place) for p in products for place in (p.place, p.bias_place) if place}
        super().__init__(own)
        self._layers = {p.place: (p, module.get_submodule(p.path)) for p in products}

    def product(self, call: Call, own: Callable[[], Tensor]) -> Tensor:
        if call.place not in self._layers:  # a bias by which something is multiplied
            return own()
        product, layer = self._layers[call.place]
        if product.turned != call.turned:
            return own()
        z = call.leave(layer(call.x))
        return call.with_bias(z) if product.bias is None else z

    def sum(self, call: Call, bias: str, z: Tensor, own: Callable[[], Tensor]) -> Tensor:
        known = self._layers.get(call.place)
        return z if known is not None and known[0].bias_place == bias else own()


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


def _lies_along(b: Tensor, z: Tensor, axis: int) -> bool:
    """Whether b has a number for each neuron, and nothing else."""
    return b.numel() == z.shape[axis] and b.ndim <= z.ndim and b.ndim >= -axis and b.shape[axis] == b.numel()


def _scales(factor: Tensor | float) -> bool:
    return isinstance(factor, Tensor) or factor != 1


def _factors(other: Any, shape: Sequence[int]) -> tuple[Tensor | float, Tensor | float] | tuple[None, None]:
    """What multiplies each row and each column of a matrix of this shape, where one is multiplied by `other`."""
    if isinstance(other, int | float):
        return (float(other), 1.0) if other else (None, None)
    if not isinstance(other, Tensor) or other.ndim > 2:
        return None, None
    if other.numel() == 1:
        return other.reshape(()), 1.0
    if other.shape == (shape[0], 1):
        return other[:, 0], 1.0
    return (1.0, other.reshape(-1)) if other.numel() == other.shape[-1] == shape[1] else (None, None)


def _bound(names: Sequence[str], args: Sequence[Any], named: Mapping[str, Any]) -> tuple[Any, ...]:
    given = {**dict(zip(names, args, strict=False)), **named}
    return tuple(given.get(name) for name in names)


def _turned(x: Any) -> Any:
    return x.mT if isinstance(x, Tensor) and x.ndim > 1 else None


def _all_are(value: object, these: tuple[object, ...]) -> bool:
    return all(part in these for part in (value if isinstance(value, tuple | list) else (value,)))
