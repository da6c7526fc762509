"""Products that a module takes with parameters of its own, seen as it runs: with matrices, or stacks of these."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from hmcompress.network.model.calls import Call, Result, Stacked, side_by_side
from hmcompress.network.model.contractions import Contraction, contractions
from hmcompress.network.model.matrices import Beside, Factor, Matrices, Matrix, View, scales, unwrapped

_PRODUCTS = {"matmul", "mm", "bmm", "__matmul__"}
_WITH_BIAS = {"addmm", "baddbmm"}
_SUMS = {"add", "__add__", "__radd__", "add_", "__iadd__"}
_TIMES, _OVER = {"mul", "multiply", "__mul__", "__rmul__"}, {"div", "divide", "true_divide", "__truediv__"}
_CONVOLUTIONS = {"conv1d": 1, "conv2d": 2, "conv3d": 3}
_RECENT = 8  # products to which a bias may still be added


@dataclass(frozen=True)
class Made:
    """Which parameter makes a weight with which other one; turned: the first one is W^T."""

    matrix: Matrix
    turned: bool
    beside: Beside


class Watch(TorchFunctionMode):
    """Sees products of some tensors, by their places, and sums of these products with others of them."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._views = {id(t): View.whole(t, place) for place, t in tensors.items()}
        self._made: dict[int, tuple[Tensor, frozenset[str]]] = {}  # from which parameters alone tensors were computed
        self._recent: deque[Result] = deque(maxlen=_RECENT)

    def product(self, call: Call, own: Callable[[], Tensor]) -> Tensor:
        """What the product is; own: as the module takes it."""
        raise NotImplementedError

    def sum(self, calls: Sequence[Call], biases: Sequence[Matrix], z: Tensor, own: Callable[[], Tensor]) -> Tensor:
        """What z is, which the calls gave, with the bias for each of them."""
        raise NotImplementedError

    def made(self, w: Tensor, places: frozenset[str]) -> Made | None:
        """How W (m, n) is made of the two parameters that it is computed from, if it is in a way that is known."""
        raise NotImplementedError

    def vector(self, t: object) -> Matrix | None:
        """The column that a tensor shows."""
        view = self._views.get(id(t))
        return next(iter(view.vectors(-1, None, 1)), None) if view is not None and view.tensor.ndim else None

    def __torch_function__(
        self, func: Callable, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        def own() -> Any:
            return func(*args, **(kwargs or {}))

        name = getattr(func, "__name__", "")
        call = self._call(name, args, kwargs or {})
        if isinstance(call, Stacked):
            return self._with_bias(self._stack(call), args[0] if name in _WITH_BIAS else None)
        if call is not None:
            return self._kept(Result(self.product(call, own), (call,), call.axis))
        pair = None if kwargs else self._pair(name, args)
        if pair is not None:
            return self._total(*pair, own)
        out = own()
        if args:
            for part in out if isinstance(out, tuple | list) else (out,):
                self._note(args[0], part)
            self._note_multiple(name, args, out)
        self._note_made((*args, *(kwargs or {}).values()), out)
        return out

    def _kept(self, result: Result) -> Tensor:
        if not result.calls[0].sizes:  # along whose axes biases are not looked for
            self._recent.append(result)
        return result.z

    def _stack(self, stacked: Stacked) -> Tensor:
        pairs = zip(stacked.each, stacked.weights, strict=True)
        parts = [self.product(call, partial(_plainly, call, w)) for call, w in pairs]
        return self._kept(Result(stacked.together(parts), stacked.each, stacked.axis, stacked.along))

    def _with_bias(self, z: Tensor, bias: Tensor | None) -> Tensor:
        """What a call that adds a bias returns."""
        if bias is None:
            return z
        found = self._pair("add", (z, bias))
        return z + bias if found is None else self._total(*found, lambda: z + bias)

    def _note(self, t: object, out: object) -> None:
        """A view of a known tensor is known too."""
        known = self._views.get(id(t))
        if known is not None and isinstance(out, Tensor) and id(out) not in self._views:
            view = known.of(out)
            if view is not None:
                self._views[id(out)] = view

    def _note_multiple(self, name: str, args: Sequence[Any], out: Any) -> None:
        """So is a known matrix times a number, or one for each row or column: a layer's inputs or outputs get these."""
        if name not in _TIMES | _OVER or len(args) != 2 or not isinstance(out, Tensor) or unwrapped(out) is None:
            return
        for t, other in (args,) if name in _OVER else (args, args[::-1]):
            known = self._views.get(id(t))
            if known is None or out.shape != t.shape or id(out) in self._views:
                continue
            rows, cols = _factors(other, t.shape)
            if rows is not None and cols is not None:
                self._views[id(out)] = known.times(out, *((1 / rows, 1 / cols) if name in _OVER else (rows, cols)))

    def _note_made(self, given: Sequence[Any], out: Any) -> None:
        """What is computed from one or two parameters, and from nothing else."""
        view = self._views.get(id(out))
        if not isinstance(out, Tensor) or unwrapped(out) is None or not (view is None or view.is_scaled):
            return
        sources = [self._sources(t) for t in given if isinstance(t, Tensor | list | tuple) and not _are_numbers(t)]
        places = frozenset[str]().union(*sources)
        if sources and all(sources) and len(places) <= 2:
            self._made[id(out)] = out, places

    def _sources(self, t: object) -> frozenset[str]:
        if id(t) in self._made:
            return self._made[id(t)][1]
        return frozenset([self._views[id(t)].place]) if id(t) in self._views else frozenset()

    def _call(self, name: str, args: Sequence[Any], named: Mapping[str, Any]) -> Call | Stacked | None:
        if name == "linear":
            x, w, b = _bound(("input", "weight", "bias"), args, named)
            return self._times(x, w, b, columns=False)
        if name in _CONVOLUTIONS:
            return self._kernel(_CONVOLUTIONS[name], args, named)
        if name in ("einsum", "tensordot"):
            return self._contracted(name, args, named)
        if named or len(args) != 2 + (name in _WITH_BIAS) or name not in _PRODUCTS | _WITH_BIAS:
            return None
        bias = args[0] if name in _WITH_BIAS else None
        first, second = args[-2:]
        return self._times(first, second, bias) or self._turned(self._times(_turned(second), first, bias, False))

    def _times(self, x: Any, w: Any, bias: Tensor | None = None, columns: bool = True) -> Call | Stacked | None:
        """x W, or x W^T; None where W is not known, or shows no whole matrices."""
        known = self._views.get(id(w))
        if not isinstance(x, Tensor) or id(x) in self._views or id(x) in self._made:
            return None
        call = self._of_two(x, w, bias, columns)
        if known is None or call is not None:
            return call
        found = known.matrices()
        if found is None or (w.ndim > 2 and (x.ndim < 2 or found.axis is None or known.is_scaled)):
            return None
        if w.ndim == 2:
            return self._scaled(known, found, x, bias, columns)
        shape = torch.broadcast_shapes(x.shape[:-2], w.shape[:-2])
        shape = (*shape, x.shape[-2], w.shape[-1 if columns else -2])
        return side_by_side(found, found.turned != columns, x, w if columns else w.mT, shape)

    def _of_two(self, x: Tensor, w: Any, bias: Tensor | None, columns: bool) -> Call | None:
        """The product with a weight that two parameters make."""
        places = self._sources(w)
        if len(places) != 2 or w.ndim != 2:
            return None
        found = self.made(w.T if columns else w, places)
        return None if found is None else Call(found.matrix, found.turned, x, -1, bias, beside=found.beside)

    def _scaled(self, known: View, found: Matrices, x: Tensor, bias: Tensor | None, columns: bool) -> Call:
        """The product with a single matrix or a multiple of one."""
        before, after = (known.rows, known.cols) if columns else (known.cols, known.rows)
        each = after if isinstance(after, Tensor) and after.ndim else None
        before = before * after if each is None else before
        x = x * before if scales(before) else x
        return Call(found.first, found.turned != columns, x, -1, bias, after=each)

    def _turned(self, call: Call | Stacked | None) -> Call | Stacked | None:
        """The product whose result has its neurons along rows."""
        if isinstance(call, Stacked):
            each = tuple(replace(one, axis=-2) for one in call.each)
            *outer, rows, neurons = call.shape or ()
            return replace(call, each=each, axis=-2, shape=(*outer, neurons, rows))
        return None if call is None else replace(call, axis=-2)

    def _contracted(self, name: str, args: Sequence[Any], named: Mapping[str, Any]) -> Call | Stacked | None:
        """The product, or those with several matrices, that a sum is."""
        for found in contractions(name, args, named):
            self._note(found.tensor, found.w)
            call = self._contraction(found)
            if call is not None:
                return call
        return None

    def _contraction(self, found: Contraction) -> Call | Stacked | None:
        axis, apart = found.axis, {"sizes": found.sizes, "order": found.order}
        lies: dict[str, Any] = apart if axis is None else {"axis": axis}
        if found.along is None:
            call = self._times(found.inputs[0], found.w, columns=found.columns)
            return replace(call, **lies) if isinstance(call, Call) else None
        known = self._views.get(id(found.w))
        shown = None if known is None else known.matrices()
        if shown is None or shown.outer != (len(found.inputs),):
            return None
        weights = found.w.unbind() if found.columns else found.w.mT.unbind()
        turned, pairs = shown.turned != found.columns, enumerate(found.inputs)
        calls = tuple(Call(shown.at(k), turned, x, **lies) for k, x in pairs)
        behind = axis is not None and axis <= found.along
        return Stacked(calls, weights, found.along, (axis or 0) - behind)

    def _kernel(self, axes: int, args: Sequence[Any], named: Mapping[str, Any]) -> Call | None:
        """A convolution whose kernel sees one place."""
        parts = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
        x, w, b, stride, padding, _, groups = _bound(parts, args, named)
        view = self._views.get(id(w))
        if view is None or x.ndim != axes + 2 or w.shape[2:].numel() != 1 or groups not in (None, 1):
            return None
        if not _all_are(stride, (None, 1)) or not _all_are(padding, (None, 0, "same", "valid")):
            return None
        if view.is_scaled or view.tensor.numel() != view.size:
            return None
        return Call(Matrix(view.place, 1, len(w), 0), False, x.movedim(1, -1), -1 - axes, b, kernel=True)

    def _pair(self, name: str, args: Sequence[Any]) -> tuple[Result, tuple[Matrix, ...]] | None:
        """What products gave, and the bias for each, where a sum is of these."""
        if len(args) != 2 or name not in _SUMS:
            return None
        for z, b in (args,) if name in ("add_", "__iadd__") else (args, args[::-1]):
            view, result = self._views.get(id(b)), next((known for known in self._recent if known.z is z), None)
            biases = () if view is None or result is None else _biases(view, result)
            if result is not None and biases:
                return result, biases
        return None

    def _total(self, result: Result, biases: tuple[Matrix, ...], own: Callable[[], Tensor]) -> Tensor:
        return self._kept(replace(result, z=self.sum(result.calls, biases, result.z, own)))


def _plainly(call: Call, w: Tensor) -> Tensor:
    return call.leave(call.x @ w)


def _biases(view: View, result: Result) -> tuple[Matrix, ...]:
    """The column that is added for each of some products, where a tensor has these and nothing else."""
    b, z, axes = view.tensor, result.z, (result.axis, *(() if result.along is None else (result.along,)))
    if b.ndim > z.ndim or any(b.ndim < -axis or b.shape[axis] != z.shape[axis] for axis in axes):
        return ()
    return view.vectors(result.axis, result.along, len(result.calls))


def _factors(other: Any, shape: Sequence[int]) -> tuple[Factor, Factor] | tuple[None, None]:
    """What multiplies each row and each column of a matrix of this shape, where one is multiplied by `other`."""
    if isinstance(other, int | float):
        return (float(other), 1.0) if other else (None, None)
    if not isinstance(other, Tensor) or other.ndim > 2:
        return None, None
    if other.numel() == 1:
        return other.reshape(()), 1.0
    if len(shape) != 2:
        return None, None
    if other.shape == (shape[0], 1):
        return other[:, 0], 1.0
    return (1.0, other.reshape(-1)) if other.numel() == other.shape[-1] == shape[1] else (None, None)


def _bound(names: Sequence[str], args: Sequence[Any], named: Mapping[str, Any]) -> tuple[Any, ...]:
    given = {**dict(zip(names, args, strict=False)), **named}
    return tuple(given.get(name) for name in names)


def _are_numbers(given: object) -> bool:
    return isinstance(given, list | tuple) and all(isinstance(each, int | float) for each in given)


def _turned(x: Any) -> Any:
    return x.mT if isinstance(x, Tensor) and x.ndim > 1 else None


def _all_are(value: object, these: tuple[object, ...]) -> bool:
    return all(part in these for part in (value if isinstance(value, tuple | list) else (value,)))
