"""The table of payload codecs: a payload's first byte names its codec."""

from collections.abc import Callable

import torch

from hmcompress.errors import FormatError
from hmcompress.hmatrix.basics import exact
from hmcompress.hmatrix.basics.bodies import Body, QuantizedBody
from hmcompress.hmatrix.grids import compact, positions, product, smooth, weighted
from hmcompress.hmatrix.patterns import (
    copied,
    digits,
    interpolated,
    lattice,
    listed,
    short_floats,
    sinusoids,
    tiles,
    trellis,
)
from hmcompress.hmatrix.tree import tree

Decoder = Callable[[bytes, tuple[int, int], torch.dtype], Body]

EXACT, TREE, WEIGHTED, LATTICE, TRELLIS, COMPACT, INTERPOLATED, PRODUCT, TILED, SHORT_FLOATS, LISTED, COPIED = range(12)
BASED = 12  # less another layer, which no matrix knows: the container decodes it
SINUSOIDS, POSITIONS = 13, 14
TURNED = 15  # the transpose of a parameter, and beside it a bias: likewise
DIGITS = 16
PARTED = 17  # several matrices that a parameter holds, and beside it their biases: likewise
SMOOTH = 19
OF_TWO = 18  # two parameters that make a weight: likewise

_HOLDERS = {COPIED: "copies", LISTED: "lists", TILED: "tiles"}  # hold other payloads, of each other only later ones


def _check_held(payload: bytes, holder: int) -> None:
    """Raise FormatError where payloads would hold each other without end."""
    order = list(_HOLDERS)
    if payload and payload[0] in order[: order.index(holder) + 1]:
        raise FormatError(f"{_HOLDERS[holder]} hold {_HOLDERS[payload[0]]}: the file is damaged")


def _decode_tiled(data: bytes, shape: tuple[int, int], dtype: torch.dtype) -> QuantizedBody:
    tile, inner, payload = tiles.read_tile(data, shape)
    _check_held(payload, TILED)
    return QuantizedBody(tiles.from_tiles(decode_payload(payload, inner, dtype).to_dense().to(dtype), shape, tile))


def _decode_listed(data: bytes, shape: tuple[int, int], dtype: torch.dtype) -> QuantizedBody:
    inner, payload, index, transposed = listed.read_lists(data, shape)
    _check_held(payload, LISTED)
    values = decode_payload(payload, inner, dtype).to_dense().to(dtype)
    return QuantizedBody(listed.from_lists(values, index, transposed))


def _decode_copied(data: bytes, shape: tuple[int, int], dtype: torch.dtype) -> QuantizedBody:
    inner, payload, copies = copied.read_copies(data, shape)
    if not (payload[:1] == bytes([COPIED]) and payload[1:2] > bytes([copies.arrangement])):  # lines of another kind
        _check_held(payload, COPIED)
    values = decode_payload(payload, inner, dtype).to_dense().to(dtype)
    return QuantizedBody(copied.from_copies(values, copies))


CODECS: dict[int, Decoder] = {
    EXACT: exact.decode,
    TREE: tree.decode,
    WEIGHTED: weighted.decode,
    LATTICE: lattice.decode,
    TRELLIS: trellis.decode,
    COMPACT: compact.decode,
    INTERPOLATED: interpolated.decode,
    PRODUCT: product.decode,
    TILED: _decode_tiled,
    SHORT_FLOATS: short_floats.decode,
    LISTED: _decode_listed,
    COPIED: _decode_copied,
    SINUSOIDS: sinusoids.decode,
    POSITIONS: positions.decode,
    DIGITS: digits.decode,
    SMOOTH: smooth.decode,
}


def decode_payload(payload: bytes, shape: tuple[int, int], dtype: torch.dtype) -> Body:
    """Decode a payload for a (m, n) matrix. Raises FormatError where it is damaged or of an unknown codec."""
    if not payload:
        raise FormatError("a layer's payload is empty: the file is damaged")
    decoder = CODECS.get(payload[0])
    if decoder is None:
        raise FormatError(f"layer codec {payload[0]} is unknown: the file is damaged or newer than this release")
    return decoder(payload[1:], shape, dtype)
