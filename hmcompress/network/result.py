"""What the outputs metric hands to the pipeline: coded layers, and the record of the network."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from hmcompress.container import EncodedLayer, LayerRow
from hmcompress.container.payload import decode_layer, split, turned
from hmcompress.hmatrix import HMatrix, measure_error
from hmcompress.layers import REAL_PARTS, to_matrices
from hmcompress.network.model.network import DenseLayer
from hmcompress.network.model.product_calls import Product
from hmcompress.report.records import NetworkRecord


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


def as_saved(layer: EncodedLayer, products: Mapping[str, Product]) -> EncodedLayer:
    """A layer for which the checkpoint has parameters of other shapes: as the file holds it. products: by names."""
    weight = products.get(layer.row.name)
    if weight is None:
        return layer
    if weight.name != layer.row.name:  # its bias, by itself, which was coded as a column
        lies = len(weight.bias_shape) > 1 and weight.bias_shape[0] == 1
        return replace(layer, shapes=(weight.bias_shape,), payload=turned(layer.payload) if lies else layer.payload)
    shapes = (weight.shape, weight.bias_shape)[: len(layer.shapes)]
    return replace(layer, shapes=shapes, payload=turned(layer.payload) if weight.turned else layer.payload)


def in_checkpoint_order(layers: Mapping[str, EncodedLayer], names: tuple[str, ...]) -> tuple[EncodedLayer, ...]:
    """Layers as their weights follow each other in the checkpoint."""
    place = {name: k for k, name in enumerate(names)}
    return tuple(sorted(layers.values(), key=lambda layer: place.get(layer.row.name, len(place))))
