"""Small networks that a user's own module computes, with the layers of the small network in place of its own."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hmcompress.errors import NetworkError
from hmcompress.network.joint.groups import COLUMNS, ROWS
from hmcompress.network.joint.small import Data, Layer, Neurons, SmallNetwork
from hmcompress.network.joint.web import Web
from hmcompress.network.model.forward_size import Written
from hmcompress.network.model.network import DenseLayer, joined, replaced

_AND_BACK, _FOR_EACH = 3, 30  # times a forward run; multiplications that take as long as an element of a function
_TWICE = 4  # times as long, where gradients are taken of gradients
_COUNTED = 4  # samples by which elements are counted
_TOGETHER = 4  # pieces of a Jacobian
_LOOKED_AT = 512  # by which neurons are judged


@dataclass
class SmallWeb(SmallNetwork):
    """Layers of few neurons of each group. `scale` (k,) turns outputs into units of the norm, where the data's
    `stencil` does not; the first `done` layers stay as they are."""

    web: Web
    all_layers: list[Layer]
    counts: tuple[int, ...]  # neurons of each group
    scale: Tensor
    done: int = 0
    elements: int = 0  # that the module's operations write for one sample

    @property
    def layers(self) -> Sequence[Layer]:
        return self.all_layers[self.done :]

    @property
    def each(self) -> float:
        shapes = [x.matrix.shape if self.web.sliced else self.web.network.shape(x.layer) for x in self.all_layers]
        products = sum(m * n * times for (m, n), times in zip(shapes, self.web.times, strict=True))
        times = _AND_BACK * (_TWICE if self.web.by_samples else 1)
        return float(times * (products + _FOR_EACH * self.elements))

    def outputs(self, data: Data) -> Tensor:
        rows = self.web.at_once(data.points)
        try:
            found = [self._outputs(data.part(begin, begin + rows)) for begin in range(0, len(data), rows)]
        except NetworkError:  # it fails where the original's own values do not lead
            return torch.full_like(data.outputs, torch.inf)
        return torch.cat(found)

    def _outputs(self, data: Data) -> Tensor:
        y = self.web.run(data.inputs, self.tensors())
        return data.combined((y * self.scale).T).T

    def entering(self, data: Data) -> list[Tensor]:
        """Inputs (N, ..., n) of each layer, in all of its calls."""
        found, numbers = [list[Tensor]() for _ in self.all_layers], self._numbers

        def note(layer: DenseLayer, x: Tensor, z: Tensor) -> None:
            k = numbers[layer.weight]
            found[k].append(self._own_columns(k, x.detach()).clone())

        with replaced(self.web.network, note):
            self.web.run(data.inputs, self.tensors())
        return [joined(calls) for calls in found[self.done :]]

    @property
    def _numbers(self) -> dict[str, int]:
        """Of the layers, by their weights."""
        return {x.layer.weight: k for k, x in enumerate(self.all_layers)}

    def counted(self, data: Data) -> "SmallWeb":
        """The same, knowing how much the module writes."""
        few = data.first(_COUNTED)
        free = {name: t.clone().requires_grad_() for name, t in self._dense().items()}
        with torch.enable_grad(), Written() as written:  # some modules take a shorter way without gradients
            self.web.call(few.inputs, self._beside() | free)
        return replace(self, elements=sum(written.each) // (len(few) * few.points))

    def jacobian(self, data: Data) -> tuple[Tensor, Tensor]:
        rows = self.web.at_once(data.points)
        if rows >= len(data):
            return self._jacobian(data)
        parts = [self._jacobian(data.part(begin, begin + rows)) for begin in range(0, len(data), rows)]
        each = [j.unflatten(1, y.shape) for j, y in parts]
        return torch.cat(each, 2).flatten(1), torch.cat([y for _, y in parts], 1)

    def pieces(self, data: Data, rows: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Several from one run: of few samples, what a module's operations take is nearly all that they take at all."""
        for begin in range(0, len(data), _TOGETHER * rows):
            part = data.part(begin, begin + _TOGETHER * rows)
            transposed, y = self.jacobian(part)
            both = transposed.unflatten(1, y.shape).split(rows, 2), (part.outputs.T - y).split(rows, 1)
            yield from ((j.reshape(len(j), -1), r.reshape(-1)) for j, r in zip(*both, strict=True))

    def _jacobian(self, data: Data) -> tuple[Tensor, Tensor]:
        y, found = self._by_samples(data) if self.web.by_samples else self._by_layers(data)
        return data.combined(found).reshape(len(found), -1), data.combined(y.detach().T)

    def _by_samples(self, data: Data) -> tuple[Tensor, Tensor]:
        """Scaled outputs (N, k), and derivatives (weights, k, N): each sample has weights of its own."""
        own, numbers = dict[int, Tensor](), self._numbers

        def note(layer: DenseLayer, x: Tensor, z: Tensor) -> Tensor:
            k, small = numbers[layer.weight], self.all_layers[numbers[layer.weight]]
            if k not in own:
                own[k] = z.new_zeros(len(z), *small.matrix.shape).requires_grad_()
            x = self._with_ones(k, x)
            change = torch.einsum("nmc,ntc->ntm", own[k], x.reshape(len(x), -1, x.shape[-1]))
            change = change.reshape(*z.shape[:-1], -1)
            return z + change if self.web.sliced or small.rows is None else z.index_add(-1, small.rows, change)

        with torch.enable_grad(), replaced(self.web.network, note):
            y = self.web.call(data.inputs, self.tensors()) * self.scale
        moved = [own[k] for k in range(self.done, len(self.all_layers))]
        found = torch.empty(self.weights(), y.shape[1], len(y), dtype=y.dtype)
        for j in range(y.shape[1]):
            slopes = torch.autograd.grad(y[:, j].sum(), moved, retain_graph=True, materialize_grads=True)
            each = [g[:, layer.live] for layer, g in zip(self.layers, slopes, strict=True)]
            found[:, j] = torch.cat(each, 1).T
        return y, found

    def _by_layers(self, data: Data) -> tuple[Tensor, Tensor]:
        """The same by what enters and leaves each layer, which is quicker."""
        entering, leaving = defaultdict[int, list[Tensor]](list), defaultdict[int, list[Tensor]](list)
        numbers = self._numbers

        def note(layer: DenseLayer, x: Tensor, z: Tensor) -> Tensor:
            k, z = numbers[layer.weight], z if z.requires_grad else z.requires_grad_()
            entering[k].append(self._with_ones(k, x.detach()))
            leaving[k].append(z)
            return z.clone()  # some functions work in place

        with torch.enable_grad(), replaced(self.web.network, note):
            y = self.web.call(data.inputs, self.tensors()) * self.scale
        left = range(self.done, len(self.all_layers))
        found = torch.empty(self.weights(), y.shape[1], len(y), dtype=y.dtype)
        fills, zs = [self._filling(k, joined(entering[k])) for k in left], [z for k in left for z in leaving[k]]
        for j in range(y.shape[1]):
            slopes = iter(torch.autograd.grad(y[:, j].sum(), zs, retain_graph=True, materialize_grads=True))
            blocks = found[:, j].split([int(layer.live.sum()) for layer in self.layers])
            for k, fill, block in zip(left, fills, blocks, strict=True):
                fill(block, joined([next(slopes) for _ in leaving[k]]))
        return y, found

    def _filling(self, k: int, x: Tensor) -> Callable[[Tensor, Tensor], None]:
        """What writes derivatives (weights, N) by weights, of inputs x (N, ..., n), from those by a layer's outputs."""
        layer = self.all_layers[k]
        rows, columns = torch.nonzero(layer.live, as_tuple=True)
        read = x.T[columns] if x.ndim == 2 else None

        def fill(block: Tensor, g: Tensor) -> None:
            g = g if self.web.sliced else g[..., layer.rows]
            if read is None:
                block.copy_(torch.einsum("ntm,ntc->mcn", g.flatten(1, -2), x.flatten(1, -2))[rows, columns])
            else:
                torch.index_select(g.T.contiguous(), 0, rows, out=block).mul_(read)

        return fill

    def _with_ones(self, k: int, x: Tensor) -> Tensor:
        x = self._own_columns(k, x)
        return torch.cat([x, x.new_ones(*x.shape[:-1], 1)], -1) if self.all_layers[k].has_bias else x

    def _own_columns(self, k: int, x: Tensor) -> Tensor:
        return x if self.web.sliced else x[..., self.all_layers[k].columns]

    def tensors(self) -> dict[str, Tensor]:
        """Weights and biases by their names, as large as the original's unless it runs without that."""
        return self._beside() | self._dense()

    def _beside(self) -> dict[str, Tensor]:
        """Vectors along groups, where these are short."""
        return self.web.narrowed(self.counts) if self.web.sliced else {}

    def _dense(self) -> dict[str, Tensor]:
        found = {}
        for layer in self.all_layers:
            found[layer.layer.weight] = self._whole(layer, layer.weight())
            bias = layer.bias()
            if layer.layer.bias is not None and bias is not None:
                found[layer.layer.bias] = self._whole(layer, bias)
        return found

    def _whole(self, layer: Layer, t: Tensor) -> Tensor:
        if self.web.sliced:
            return t
        assert layer.rows is not None and layer.columns is not None
        shape = self.web.network.shape(layer.layer)
        if t.ndim == 1:
            return t.new_zeros(shape[0]).index_copy(0, layer.rows, t)
        wide = t.new_zeros(len(t), shape[1]).index_copy(1, layer.columns, t)
        return t.new_zeros(shape).index_copy(0, layer.rows, wide)

    def clone(self) -> "SmallWeb":
        own = [replace(x, matrix=x.matrix.clone(), live=x.live.clone()) for x in self.all_layers]
        return replace(self, all_layers=own)

    def from_layer(self, first: int, data: Data) -> tuple["SmallWeb", Data]:
        return replace(self, done=self.done + first), data

    def settle(self) -> None:
        """Rows of neurons that nothing reads."""
        before = -1
        while before != (before := self.weights()):
            for group, idle in zip(self.web.groups, self._idle(), strict=True):
                for k, axis, first in group.places:
                    if axis == ROWS:
                        rows = torch.zeros(len(self.all_layers[k].matrix), dtype=torch.bool)
                        rows[self._at(k, axis, first, len(idle))] = idle
                        self.all_layers[k].drop_rows(rows)

    def _idle(self) -> list[Tensor]:
        """Of each group, which neurons no weight reads; of factors, which ones are missing in one place."""
        found = []
        for group, count in zip(self.web.groups, self.counts, strict=True):
            places = [(self.all_layers[k], axis, self._at(k, axis, first, count)) for k, axis, first in group.places]
            read = [layer.reading.any(0)[at] for layer, axis, at in places if axis == COLUMNS]
            written = [layer.live.any(1)[at] for layer, _, at in places]
            found.append(~torch.stack(read).any(0) if read else ~torch.stack(written).all(0))
        return found

    def _at(self, k: int, axis: int, first: int, count: int) -> slice:
        """Where so many neurons stand in the small layer that begin at `first` in the original's."""
        layer = self.all_layers[k]
        kept = layer.columns if axis else layer.rows
        assert kept is not None
        begin = int(torch.searchsorted(kept, first))
        return slice(begin, begin + count)

    def unwind(self) -> None:
        """Which function follows a layer is not known."""

    def compact(self) -> None:
        """Of groups whose neurons may change places."""
        idle = self.web.dispensable(self._idle())
        for group, own, movable in zip(self.web.groups, idle, self.web.exchangeable, strict=True):
            if movable and not own.all():
                for k, axis, first in group.places:
                    self._keep(k, axis, self._at(k, axis, first, len(own)), ~own)
        left = [int((~own).sum()) for own in idle]
        kept = zip(self.counts, left, self.web.exchangeable, strict=True)
        self.counts = tuple(n if movable and n else count for count, n, movable in kept)
        for k, layer in enumerate(self.all_layers):
            layer.rows, layer.columns = (self.web.kept(k, axis, self.counts) for axis in (ROWS, COLUMNS))

    def _keep(self, k: int, axis: int, at: slice, some: Tensor) -> None:
        layer = self.all_layers[k]
        keep = torch.ones(layer.inputs if axis else len(layer.matrix), dtype=torch.bool)
        keep[at] = some
        kept = layer.columns if axis else layer.rows
        assert kept is not None
        if axis:
            layer.keep_columns(keep)
            layer.columns = kept[keep]
        else:
            layer.keep_rows(keep)
            layer.rows = kept[keep]

    def drop_weakest(self, data: Data) -> bool:
        """Of those of a group that has others; how much its neurons do is summed over all columns that read them."""
        found = [(float(size), g, i) for g, sizes in enumerate(self._sizes(data)) for i, size in sizes.items()]
        if not found:
            return False
        _, g, i = min(found)
        for k, axis, first in self.web.groups[g].places:
            if axis == COLUMNS:
                layer = self.all_layers[k]
                layer.drop_columns(torch.arange(layer.inputs) == self._at(k, axis, first, self.counts[g]).start + i)
        self.settle()
        return True

    def _sizes(self, data: Data) -> list[dict[int, Tensor]]:
        """Variance that each neuron of a group adds to what reads it, relative to the weights there; those of groups of
        which one is left stay."""
        entering, found = self.entering(data.first(min(self.web.at_once(data.points), _LOOKED_AT))), []
        for group, count, idle in zip(self.web.groups, self.counts, self._idle(), strict=True):
            size = torch.zeros(count).double()
            for k, axis, first in group.places:
                if axis == COLUMNS:
                    weight, at = self.all_layers[k].weight().pow(2), self._at(k, axis, first, count)
                    x = entering[k][..., at].reshape(-1, count)
                    size += weight[:, at].sum(0) / weight.sum().clamp_min(1e-300) * x.var(0)
            living = torch.nonzero(~idle)[:, 0].tolist()
            found.append({i: size[i] for i in living} if len(living) > 1 and group.places[-1][1] == COLUMNS else {})
        return found

    def neurons(self) -> list[Neurons]:
        """Those of groups whose neurons may change places."""
        found = []
        groups = zip(self.web.groups, self.counts, self.web.exchangeable, self.web.odd, strict=True)
        for group, count, movable, odd in groups:
            if movable:
                places = tuple((k, axis, self._at(k, axis, first, count).start) for k, axis, first in group.places)
                found.append(Neurons(count, places, odd))
        return found
