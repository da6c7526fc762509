"""A layer's payload: one matrix's bytes, or those of a stack's slices behind their lengths."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hmcompress.coding.buffer import Reader, Writer
from hmcompress.container.based import Other, is_based, read_based
from hmcompress.errors import FormatError
from hmcompress.hmatrix import HMatrix
from hmcompress.hmatrix.codecs import BASED, OF_TWO, PARTED, TURNED
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
            _length(writer, len(payload), first=not i).raw(payload)
        last[payload] = i
    return writer.getvalue()


def _length(writer: Writer, size: int, first: bool) -> Writer:
    """Of a slice. The first one, where it would be taken for a kind of payload, has two bytes, the second zero."""
    if first and size in (BASED, TURNED, PARTED, OF_TWO):
        return writer.raw(bytes([size | 128, 0]))
    return writer.uint(size)


def turned(payload: bytes) -> bytes:
    """The payload of a parameter from that of its transpose."""
    return bytes([TURNED]) + payload


def parted(payloads: Sequence[bytes], rows: int, is_turned: bool) -> bytes:
    """The payload of a parameter that holds as many matrices, one after another, which are coded with `rows` rows each,
    turned or not."""
    head = Writer().raw(bytes([PARTED])).uint(2 * len(payloads) + is_turned).uint(rows).getvalue()
    return head + join(payloads)


def of_two(payload: bytes, is_turned: bool, is_factor: bool) -> bytes:
    """The payload of two parameters that make a weight: its rows, as columns where turned, and their lengths or, where
    the second one is a factor, ones."""
    return bytes([OF_TWO, is_turned + 2 * is_factor]) + payload


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
    if len(shapes) > 2 and payload[:1] != bytes([OF_TWO]):
        raise FormatError(f"a layer has {len(shapes)} tensors that no two parameters make: the file is damaged")
    if payload[:1] == bytes([TURNED]):
        matrix = layout(weight)
        if len(weight) < 2 or matrix.count != 1 or payload[1:2] in (bytes([TURNED]), bytes([BASED])):
            raise FormatError("a layer is turned that is no matrix by itself: the file is damaged")
        w, *bias = decode_layer(payload[1:], [(matrix.cols, matrix.rows), *shapes[1:]], dtype)
        return [w.T.reshape(weight).contiguous(), *bias]
    if payload[:1] == bytes([OF_TWO]):
        return _of_two(bytes(payload[1:]), shapes, dtype)
    if payload[:1] == bytes([PARTED]):
        return _parted(bytes(payload[1:]), shapes, dtype)
    if len(shapes) == 2:
        matrix = layout_with_bias(weight)
        if math.prod(shapes[1]) != matrix.rows:
            raise FormatError(f"a bias {shapes[1]} is not that of {matrix.rows} rows: the file is damaged")
        decoded = HMatrix.from_payload(bytes(payload), (matrix.rows, matrix.cols), dtype).to_dense()
        return [_own(decoded[:, :-1], weight), _own(decoded[:, -1], shapes[1])]
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
    (count, is_turned), rows = divmod(reader.uint(), 2), reader.uint()
    if not size or not rows or not count or size % (count * rows) or dtype not in FLOATS:
        raise FormatError(f"a layer {shapes[0]} does not consist of {count} matrices of {rows} rows: it is damaged")
    if len(shapes) == 2 and math.prod(shapes[1]) != count * rows:
        raise FormatError(f"a bias {shapes[1]} is not that of {count} x {rows} rows: the file is damaged")
    cols = size // (count * rows)
    parts = split(reader.rest(), count)
    w = torch.stack([HMatrix.from_payload(p, (rows, cols + len(shapes) - 1), dtype).to_dense() for p in parts])
    weight = w[..., :cols].mT if is_turned else w[..., :cols]
    return [_own(weight, shapes[0]), *(_own(w[..., cols], shape) for shape in shapes[1:])]


def _own(part: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A part of a matrix in memory of its own: one of a single row is contiguous where it is, beside the others."""
    return part.reshape(shape).clone(memory_format=torch.contiguous_format)


def _of_two(data: bytes, shapes: Sequence[tuple[int, ...]], dtype: torch.dtype) -> list[Tensor]:
    """What makes a matrix: itself and ones, or its rows and their lengths, of which one of zeros then begins with 1, so
    that it has a direction; and what else has a number for each row, its last column."""
    if len(shapes) < 2 or len(shapes[0]) < 2 or not math.prod(shapes[0]) or not data or data[0] > 3:
        raise FormatError("two parameters make a layer that has no second one: the file is damaged")
    (is_factor, is_turned), weight = divmod(data[0], 2), shapes[0]
    m, n = weight[0], math.prod(weight[1:])
    m, n = (n, m) if is_turned else (m, n)
    vectors = shapes[2:] if is_factor else shapes[1:]
    fits = all(math.prod(shape) == m for shape in vectors) and math.prod(shapes[1]) in range(1, m * n + 1)
    if not fits or (len(weight) > 2 and (is_turned or not is_factor)) or dtype not in FLOATS:
        raise FormatError(f"parameters {shapes[1:]} have no numbers for {m} rows: the file is damaged")
    matrix = HMatrix.from_payload(data[1:], (m, n + len(shapes) - 2), dtype).to_dense()
    w, beside = matrix[:, :n].clone(), torch.ones(shapes[1], dtype=dtype)
    if not is_factor:
        lengths = w.double().norm(dim=1)
        w[lengths == 0, 0], beside = 1, lengths.to(dtype).reshape(shapes[1])
    biases = [matrix[:, n].clone().reshape(shape) for shape in shapes[2:]]
    return [(w.T if is_turned else w).reshape(weight).contiguous(), beside, *biases]


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
