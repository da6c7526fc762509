"""A layer's payload: one matrix's bytes, or those of a stack's slices behind their lengths."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hmcompress.coding.buffer import Reader, Writer
from hmcompress.container.based import Other, is_based, read_based
from hmcompress.errors import FormatError
from hmcompress.hmatrix import HMatrix
from hmcompress.hmatrix.codecs import BASED, TURNED
from hmcompress.layers import REAL_PARTS, Layout, from_matrices, layout, real_layout, to_matrices


def join(payloads: Sequence[bytes]) -> bytes:
    """The payload of a layer whose layout has as many matrices; one that comes again is named by its distance."""
    if len(payloads) == 1:
        return payloads[0]
    writer, last = Writer(), dict[bytes, int]()
    for i, payload in enumerate(payloads):
        if payload in last:
            writer.uint(0).uint(i - last[payload])
        else:
            writer.section(payload)
        last[payload] = i
    return writer.getvalue()


def turned(payload: bytes) -> bytes:
    """The payload of a parameter from that of its transpose."""
    return bytes([TURNED]) + payload


def split(payload: bytes | memoryview, count: int) -> list[bytes]:
    """The inverse of join; raises FormatError."""
    if count == 1:
        return [bytes(payload)]
    reader, parts = Reader(payload), list[bytes]()
    for i in range(count):
        parts.append(reader.section() or parts[i - _distance(reader, i)])
    if reader.left:
        raise FormatError(f"{reader.left} bytes follow the last slice: the file is damaged")
    return parts


def _distance(reader: Reader, most: int) -> int:
    """How many slices back the one is that is repeated."""
    distance = reader.uint()
    if not 0 < distance <= most:
        raise FormatError("a slice repeats one that is not there: the file is damaged")
    return distance


def _nothing(number: int) -> Tensor:
    raise FormatError("a layer stands on one that stands on another: the file is damaged")


def decode_layer(
    payload: bytes | memoryview, shapes: Sequence[tuple[int, ...]], dtype: torch.dtype, other: Other = _nothing
) -> list[Tensor]:
    """Decode a weight of shape shapes[0], and its bias where a second shape is given. Raises FormatError.

    other: of the layer of this number, the weight, which has the same shape and dtype.
    """
    weight = shapes[0]
    if payload[:1] == bytes([TURNED]):
        matrix = layout(weight)
        if len(weight) < 2 or matrix.count != 1 or payload[1:2] in (bytes([TURNED]), bytes([BASED])):
            raise FormatError("a layer is turned that is no matrix by itself: the file is damaged")
        w, *bias = decode_layer(payload[1:], [(matrix.cols, matrix.rows), *shapes[1:]], dtype)
        return [w.T.reshape(weight).contiguous(), *bias]
    if len(shapes) == 2:
        matrix = layout_with_bias(weight)
        if math.prod(shapes[1]) != matrix.rows:
            raise FormatError(f"a bias {shapes[1]} is not that of {matrix.rows} rows: the file is damaged")
        decoded = HMatrix.from_payload(bytes(payload), (matrix.rows, matrix.cols), dtype).to_dense()
        return [decoded[:, :-1].reshape(weight).contiguous(), decoded[:, -1].reshape(shapes[1]).contiguous()]
    matrix = real_layout(weight, dtype)
    size, real = (matrix.rows, matrix.cols), REAL_PARTS.get(dtype, dtype)
    if matrix.count == 1 and is_based(payload):
        based = read_based(payload)
        return [from_matrices(based.decode(to_matrices(other(based.number))[0], real)[None], weight, dtype)]
    slices = _decoded(split(payload, matrix.count), size, real)
    return [from_matrices(slices[0] if len(slices) == 1 else torch.stack(slices), weight, dtype)]


def _decoded(parts: Sequence[bytes], size: tuple[int, int], dtype: torch.dtype) -> list[Tensor]:
    """The slices of a stack, some of which may stand on others."""
    alone = {i: HMatrix.from_payload(p, size, dtype).to_dense() for i, p in enumerate(parts) if not is_based(p)}
    based = {i: read_based(part) for i, part in enumerate(parts) if i not in alone}
    if any(found.number not in alone for found in based.values()):
        raise FormatError("a slice stands on one that is not there, or stands on another: the file is damaged")
    return [alone[i] if i in alone else based[i].decode(alone[based[i].number], dtype) for i in range(len(parts))]


def layout_with_bias(weight: Sequence[int]) -> Layout:
    """A weight (m, n...) and its bias (m,) as one matrix whose last column is the bias."""
    return Layout(1, weight[0], math.prod(weight[1:]) + 1)
