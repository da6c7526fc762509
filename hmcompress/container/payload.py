"""A layer's payload: one matrix's bytes, or those of a stack's slices behind their lengths."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hmcompress.coding.buffer import Reader, Writer
from hmcompress.container.based import Other, is_based, read_based
from hmcompress.errors import FormatError
from hmcompress.hmatrix import HMatrix
from hmcompress.hmatrix.codecs import BASED, NORMED, PARTED, TURNED
from hmcompress.layers import FLOATS, REAL_PARTS, Layout, from_matrices, layout, real_layout, to_matrices


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


def parted(payloads: Sequence[bytes], rows: int, turned: bool) -> bytes:
    """The payload of a parameter that holds as many matrices, one after another, which are coded with `rows` rows each,
    turned or not."""
    head = Writer().raw(bytes([PARTED])).uint(2 * len(payloads) + turned).uint(rows).getvalue()
    return head + join(payloads)


def normed(payload: bytes, is_turned: bool) -> bytes:
    """The payload of two parameters, a weight's rows in any length, as columns where turned, and their lengths."""
    return bytes([NORMED, is_turned]) + payload


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
    if payload[:1] == bytes([NORMED]):
        return _normed(bytes(payload[1:]), shapes, dtype)
    if payload[:1] == bytes([PARTED]):
        return _parted(bytes(payload[1:]), shapes, dtype)
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


def _parted(data: bytes, shapes: Sequence[tuple[int, ...]], dtype: torch.dtype) -> list[Tensor]:
    """Matrices of a parameter, whose biases are their last columns."""
    reader, size = Reader(data), math.prod(shapes[0])
    (count, turned), rows = divmod(reader.uint(), 2), reader.uint()
    if not size or not rows or not count or size % (count * rows) or dtype not in FLOATS:
        raise FormatError(f"a layer {shapes[0]} does not consist of {count} matrices of {rows} rows: it is damaged")
    if len(shapes) == 2 and math.prod(shapes[1]) != count * rows:
        raise FormatError(f"a bias {shapes[1]} is not that of {count} x {rows} rows: the file is damaged")
    cols = size // (count * rows)
    parts = split(reader.rest(), count)
    w = torch.stack([HMatrix.from_payload(p, (rows, cols + len(shapes) - 1), dtype).to_dense() for p in parts])
    weight = w[..., :cols].mT if turned else w[..., :cols]
    biases = [w[..., cols].reshape(shape).contiguous() for shape in shapes[1:]]
    return [weight.reshape(shapes[0]).contiguous(), *biases]


def _normed(data: bytes, shapes: Sequence[tuple[int, ...]], dtype: torch.dtype) -> list[Tensor]:
    """A matrix whose rows have their lengths, these lengths, and what else has a number for each row: its last column.

    A row of zeros begins with 1, so that it has a direction; its length is 0.
    """
    if len(shapes) < 2 or len(shapes[0]) != 2 or not math.prod(shapes[0]) or data[:1] not in (b"\0", b"\1"):
        raise FormatError("a layer's rows have their lengths apart, but there is no place for them: it is damaged")
    is_turned = data[0] == 1
    m, n = shapes[0][::-1] if is_turned else shapes[0]
    if any(math.prod(shape) != m for shape in shapes[1:]) or dtype not in FLOATS:
        raise FormatError(f"lengths {shapes[1]} are not those of {m} rows: the file is damaged")
    matrix = HMatrix.from_payload(data[1:], (m, n + len(shapes) - 2), dtype).to_dense()
    w, lengths = matrix[:, :n].clone(), matrix[:, :n].double().norm(dim=1)
    w[lengths == 0, 0] = 1
    vectors = [lengths.to(dtype), *(matrix[:, n + k].clone() for k in range(len(shapes) - 2))]
    weight = (w.T if is_turned else w).contiguous()
    return [weight, *(v.reshape(shape) for v, shape in zip(vectors, shapes[1:], strict=True))]


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
