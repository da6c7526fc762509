"""What the outputs metric hands to the pipeline: coded layers, and the record of the network."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hmcompress.container import EncodedLayer, LayerRow
from hmcompress.container.payload import decode_layer, of_two, parted, split, turned
from hmcompress.hmatrix import HMatrix, measure_error
from hmcompress.layers import REAL_PARTS, layout, to_matrices
from hmcompress.network.model.network import DenseLayer
from hmcompress.network.model.product_calls import Product
from hmcompress.report.records import NetworkRecord

Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class NetworkResult:
    """Layers with their payloads, in the order of the checkpoint, and what was measured on the whole network."""

    layers: tuple[EncodedLayer, ...]
    record: NetworkRecord
    notes: tuple[str, ...] = ()
    said: tuple[str, ...] = ()  # further notes, which the file does not keep

    @property
    def tensors(self) -> tuple[str, ...]:
        """Every tensor that the layers hold."""
        return tuple(name for layer in self.layers for name in layer.row.tensors)


def encoded_layer(
    layer: DenseLayer, payload: bytes, tensors: Mapping[str, Tensor], seconds: float
) -> tuple[EncodedLayer, Tensor]:
    """A layer ready for the container, and its decoded matrix (m, n) or (m, n + 1) in the stored dtype."""
    names = (layer.weight,) if layer.bias is None else (layer.weight, layer.bias)
    original = layer.matrix_of(tensors)
    matrix = HMatrix.from_payload(payload, (original.shape[0], original.shape[1]), original.dtype)
    decoded = matrix.to_dense()
    error, largest = measure_error(original, decoded, "fro")
    row = LayerRow(names, None, "fro", error, largest, matrix.method, matrix.leaves, matrix.max_rank)
    shapes = tuple(tuple(tensors[name].shape) for name in names)
    return EncodedLayer(row, payload, shapes, original.dtype, seconds), decoded


def encoded_tensor(name: str, payload: bytes, original: Tensor, seconds: float) -> tuple[EncodedLayer, Tensor]:
    """Another weight ready for the container, and what it decodes to."""
    shape = tuple(original.shape)
    decoded = decode_layer(payload, [shape], original.dtype)[0]
    matrices, coded = to_matrices(original), to_matrices(decoded)
    error, largest = measure_error(matrices.flatten(0, 1), coded.flatten(0, 1), "fro")
    size = (matrices.shape[1], matrices.shape[2])
    real = REAL_PARTS.get(original.dtype, original.dtype)
    leaves = HMatrix.from_payload(split(payload, len(matrices))[0], size, real)
    row = LayerRow((name,), None, "fro", error, largest, leaves.method, leaves.leaves, leaves.max_rank)
    return EncodedLayer(row, payload, (shape,), original.dtype, seconds), decoded


def as_saved(
    layers: Mapping[str, EncodedLayer], products: Sequence[Product], tensors: Mapping[str, Tensor]
) -> dict[str, EncodedLayer]:
    """Layers as the file holds them, where the checkpoint has parameters of other shapes, by these parameters' names.

    tensors: the original weights and biases of the layers.
    """
    saved, groups = dict(layers), defaultdict[str, list[tuple[EncodedLayer, Product]]](list)
    for p in products:
        for name, source in ((p.name, p.source), (p.bias_name, p.bias_source)):
            if name in layers:
                groups[str(source)].append((saved.pop(str(name)), p))
    for source, found in groups.items():
        own, p = [layer for layer, _ in found], found[0][1]
        as_file = _of_weight(own, p) if source == p.source else _of_bias(own, p)
        saved[source] = _measured(as_file, own, tensors) if len(own) > 1 else as_file
    return saved


def _of_weight(layers: Sequence[EncodedLayer], p: Product) -> EncodedLayer:
    """All matrices of a parameter, in its order, with their biases or without."""
    shapes = (p.shape, p.bias_shape)[: len(layers[0].shapes)]
    names, held = (p.source, str(p.bias_source))[: len(shapes)], layout(p.shape)
    if p.beside is not None:
        names, shapes = (names[0], str(p.beside_source), *names[1:]), (shapes[0], p.beside_shape, *shapes[1:])
        return _with(layers, names, shapes, of_two(layers[0].payload, p.turned, p.beside.is_factor))
    if (held.count, held.rows) != (p.matrix.count, p.matrix.rows) or held.count > 1:
        return _with(layers, names, shapes, parted([x.payload for x in layers], layers[0].shapes[0][0], p.turned))
    return _with(layers, names, shapes, turned(layers[0].payload) if p.turned else layers[0].payload)


def _of_bias(layers: Sequence[EncodedLayer], p: Product) -> EncodedLayer:
    """All that is added to the products with a parameter, which was coded as columns."""
    names, shapes, rows = (str(p.bias_source),), (p.bias_shape,), layers[0].shapes[0][0]
    held = layout(p.bias_shape)
    if held.count * held.rows * held.cols != rows or rows not in (held.rows, held.cols):
        return _with(layers, names, shapes, parted([x.payload for x in layers], rows, False))
    return _with(layers, names, shapes, layers[0].payload if rows == held.rows else turned(layers[0].payload))


def _with(layers: Sequence[EncodedLayer], names: Sequence[str], shapes: Shapes, payload: bytes) -> EncodedLayer:
    row, seconds = replace(layers[0].row, tensors=tuple(names)), sum(layer.seconds for layer in layers)
    return EncodedLayer(row, payload, shapes, layers[0].dtype, seconds)


def _measured(whole: EncodedLayer, layers: Sequence[EncodedLayer], tensors: Mapping[str, Tensor]) -> EncodedLayer:
    """With the error of all."""
    original = [tensors[name].reshape(-1, 1) for layer in layers for name in layer.row.tensors]
    coded = [t.reshape(-1, 1) for layer in layers for t in decode_layer(layer.payload, layer.shapes, layer.dtype)]
    error, largest = measure_error(torch.cat(original), torch.cat(coded), "fro")
    return replace(whole, row=replace(whole.row, error=error, max_abs_error=largest))


def in_checkpoint_order(layers: Mapping[str, EncodedLayer], names: tuple[str, ...]) -> tuple[EncodedLayer, ...]:
    """Layers as their weights follow each other in the checkpoint."""
    place = {name: k for k, name in enumerate(names)}
    return tuple(sorted(layers.values(), key=lambda layer: place.get(layer.row.name, len(place))))
